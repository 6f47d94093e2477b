"""Kappas and time profiles of psi samplers against those of DUO's own code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.policies import allocation_policy
from schedlab.policies.allocation import Psi
from schedlab.processes import time_grid
from schedlab.processes.time_grid import plateau_grid

MODES = {
    "pure-posterior": "posterior", "pure-pc": "pc", "constant": "constant",
    "constant-remdm": "remdm", "max-capped": "capped", "max-rescale": "rescale",
}  # fmt: skip


def mode_of(name: str) -> tuple[str, float]:
    """Ours, and eta."""
    if name in MODES:
        return MODES[name], 0.0
    words, _, eta = name.rpartition("-")
    return MODES[words], float(eta)


@pytest.mark.parametrize("case", range(4))
def test_kappas_and_levels_are_duos(golden: Path, case: int) -> None:
    told = json.loads((golden / "duo" / f"psi_case{case}.json").read_text())
    with np.load(golden / "duo" / "psi_grids.npz", allow_pickle=False) as data:
        steps, kappas, alphas = (
            data[f"case{case}_{name}"] for name in ("timesteps", "kappas", "alphas")
        )
    profile, size = told["time_profile"], len(steps)
    if profile.startswith("linear-constant-linear"):
        at = float(profile.split("-")[3])
        if profile.endswith("inv"):
            # Their cosine, 1 - cos((1 - t) pi / 2), is not that of simplex models.
            assert told["noise"] == "cosine"
            at = 1 - math.acos(1 - at) / (math.pi / 2)
        grid = plateau_grid(
            size, at, high_share=told["high_frac"], middle_share=told["middle_frac"]
        )
        np.testing.assert_allclose(grid, steps, atol=1e-3)
    parameters: dict[str, float | str] = {
        "high_share": told["high_frac"], "middle_share": told["middle_frac"],
    }  # fmt: skip
    for part in ("high", "middle", "low"):
        parameters[part], parameters[f"{part}_eta"] = mode_of(told[f"{part}_mode"])
    found = allocation_policy("psi", parameters).kappas([*alphas.tolist(), 1.0])
    # A last step of ours ends without noise: it is always the plain one.
    np.testing.assert_allclose(found[:-1], kappas[:-1], atol=1e-4)
    assert found[-1] == 1


def test_a_profile_is_a_time_grid_of_a_plan() -> None:
    grid = plateau_grid(8, 0.5, high_share=0.25, middle_share=0.5)
    plan = Plan(
        length=4, model_schedule=ModelSchedule.parse("H8"), process="uniform", time_grid=grid,
        policy=PolicySpec(name="psi"),
    )  # fmt: skip
    assert Plan.from_json(plan.to_json()) == plan
    found = time_grid(plan.time_grid, 8).tolist()
    assert found == pytest.approx([1.0, *[0.5] * 6, 1e-5, 0.0])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"high": "off"}, "high must be one of"),
        ({"low_eta": 1.5}, "low_eta must be in"),
        ({"high_share": 0.7, "middle_share": 0.7}, "more than 1 together"),
    ],
)
def test_what_is_no_psi_sampler_is_refused(parameters: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Psi(**parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"policy": {"name": "psi"}, "process": "masked"},
            "policy 'psi' is for process 'uniform'",
        ),
        ({"last_step": "greedy", "process": "simplex"}, "'greedy' is for process 'uniform'"),
        ({"time_grid": "even"}, "must be 'uniform', 'tess' or a list of levels, got 'even'"),
        (
            {"time_grid": [1.0, 0.5, 0.2], "process": "masked", "policy": {"name": "threshold"}},
            "policy 'threshold' reads no time_grid",
        ),
        ({"time_grid": [1.0, 0.5]}, "time_grid must have 3 levels"),
        ({"time_grid": [1.0, 0.5, 0.6]}, "must not rise"),
        ({"time_grid": [0.9, 0.5, 0.1]}, "first level of time_grid must be 1"),
        ({"time_grid": [1.0, 0.5, 0.0]}, r"must be in \(0, 1\]"),
    ],
)
def test_what_is_no_plan_is_refused(changes: dict, message: str) -> None:
    data = {"length": 4, "model_schedule": "H3", "process": "uniform"} | changes
    with pytest.raises(InputError, match=message):
        Plan.from_json(data)
