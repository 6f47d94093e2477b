"""ReMDM: the authors' one-step probabilities, the exact law of whole runs, and invariants."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from schedlab.denoisers.oracle import OracleDenoiser, ToyWorld, all_sequences, sequence_index
from schedlab.errors import InputError
from schedlab.metrics.cost import expected_cost
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.policies import REMASK_POLICIES, check_policy, remask_policy
from schedlab.policies.remdm import RemaskView
from schedlab.processes import MaskedProcess
from schedlab.results.record import RoleCost
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, sample_plans
from schedlab.sampling.remask import remask

WORLD = ToyWorld.random(num_real=3, length=3, seed=0)
PROCESS = MaskedProcess(WORLD.vocab_size, WORLD.mask_id)
HEAVY = OracleDenoiser(WORLD)
DENOISERS = {"H": HEAVY, "L": HEAVY.perturbed(1.0, seed=1)}
NAMES = sorted(REMASK_POLICIES)
STRONG = {
    "remdm_cap": {"eta": 0.3},
    "remdm_rescale": {"eta": 0.5},
    "remdm_conf": {},
    "remdm_loop": {"eta": 0.3, "t_off": 0.2, "alpha_on": 0.7},
}


def plan_of(name: str, schedule: str, **parameters) -> Plan:
    return Plan(
        length=3,
        model_schedule=ModelSchedule.parse(schedule),
        policy=PolicySpec(name=name, parameters=parameters),
    )


def ids_of(size: int, first: int = 0) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed=9, first=first, size=size)])


def test_one_step_is_that_of_the_authors_code(golden: Path) -> None:
    names = {"remdm-cap": ("eta",), "remdm-rescale": ("eta",), "remdm-conf": ()}
    names["remdm-loop"] = ("eta", "t_on", "t_off", "alpha_on")
    cases = json.loads((golden / "remdm" / "cases.json").read_text())
    with np.load(golden / "remdm" / "q_xs.npz") as data:
        arrays = {key: torch.from_numpy(data[key]) for key in data.files}
    masked = arrays["x"] == 24
    confidence = torch.where(masked, 1.0, -arrays["conf"].double())
    tried = 0
    for case in cases:
        if case["sampler"] not in names:
            continue
        parameters = {key: case[key] for key in names[case["sampler"]]}
        policy = remask_policy(case["sampler"].replace("-", "_"), parameters)
        view = RemaskView(
            case["t"], case["t"] - case["dt"], masked, confidence, torch.ones_like(masked)
        )
        chances = policy.chances(view)
        q = arrays[f"q{case['case']}"].double()
        q = q / q.sum(-1, keepdim=True)
        is_masked = torch.where(masked, 1 - chances.reveal, chances.remask)
        where = torch.ones_like(masked) if case["applies_to_all_positions"] else masked
        assert (is_masked - q[..., 24])[where].abs().max() < 1e-6
        if case["nucleus_p"] == 1:
            tokens = chances.reveal.expand(masked.shape)[masked][:, None] * arrays["p_x0"][masked]
            assert (tokens[:, :24] - q[masked][:, :24]).abs().max() < 1e-6
        tried += 1
    assert tried == 40


def exact_law(plan: Plan) -> torch.Tensor:
    """Probabilities of all final texts, (X,): the chain over all noisy states, summed up.

    For policies whose sigma does not depend on confidences.
    """
    policy = remask_policy(plan.policy.name, plan.policy.parameters)
    states = all_sequences(WORLD.vocab_size, WORLD.length)
    masked = states == WORLD.mask_id
    law = torch.zeros(len(states), dtype=torch.float64)
    law[masked.all(-1)] = 1.0
    for k, role in enumerate(plan.model_schedule.steps):
        t, s = 1 - k / plan.num_steps, 1 - (k + 1) / plan.num_steps
        nothing = torch.ones(masked.shape, dtype=torch.float64)
        chances = policy.chances(RemaskView(t, s, masked, nothing, torch.ones_like(masked)))
        denoiser = DENOISERS[role]
        p = PROCESS.log_p_x(denoiser.logits(denoiser.features(states)).flatten(0, 1)).exp()
        p = p.view(len(states), WORLD.length, -1)
        stays = torch.nn.functional.one_hot(states, WORLD.vocab_size).double()
        mask = torch.zeros(WORLD.vocab_size, dtype=torch.float64)
        mask[WORLD.mask_id] = 1.0
        reveal, back = chances.reveal.double(), chances.remask.double()
        kernel = torch.where(
            masked[..., None], reveal * p + (1 - reveal) * mask, back * mask + (1 - back) * stays
        )
        step = torch.ones(len(states), len(states), dtype=torch.float64)
        for i in range(WORLD.length):
            step *= kernel[:, i][:, states[:, i]]
        law = law @ step
    final = law[(~masked).all(-1)]
    assert float(final.sum()) == pytest.approx(1.0)
    return final


@pytest.mark.parametrize("name", ["remdm_cap", "remdm_rescale", "remdm_loop"])
@pytest.mark.parametrize("schedule", ["H6", "H2 L5 H1"])
def test_runs_follow_the_exact_law(name: str, schedule: str) -> None:
    """Chi-square at 1e-4."""
    plan = plan_of(name, schedule, **STRONG[name])
    n = 60_000
    state = remask(plan, DENOISERS, PROCESS, ids_of(n))
    counts = torch.bincount(sequence_index(state.z_BL, WORLD.num_real), minlength=27).numpy()
    expected = exact_law(plan).numpy() * n
    often = expected >= 5
    observed = np.append(counts[often], counts[~often].sum())
    wanted = np.append(expected[often], expected[~often].sum())
    keep = wanted > 0
    assert stats.chisquare(observed[keep], wanted[keep]).pvalue > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_the_prompt_stays_and_no_mask_is_left(name: str) -> None:
    prefix = torch.tensor([[2]]).expand(50, -1)
    plan = plan_of(name, "H5 L7", **STRONG[name])
    state = remask(plan, DENOISERS, PROCESS, ids_of(50), prefix)
    assert (state.z_BL[:, 0] == 2).all() and (state.z_BL != WORLD.mask_id).all()
    forwards = sum(usage.forwards_B for usage in state.usage.values())
    assert (forwards <= 12).all()
    heads = sum(usage.head_positions_B for usage in state.usage.values())
    assert (heads >= 2).all() and (heads.max() > 2)  # some are revealed more than once


@pytest.mark.parametrize("name", NAMES)
def test_tokens_do_not_depend_on_company(name: str) -> None:
    plans = [plan_of(name, text, **STRONG[name]) for text in ("H8", "H4 L4")]
    together = [remask(plan, DENOISERS, PROCESS, ids_of(9)).z_BL for plan in plans]
    apart = [remask(plans[0], DENOISERS, PROCESS, ids_of(1, n)).z_BL for n in range(9)]
    assert torch.equal(torch.cat(apart), together[0])
    for found in sample_plans(plans, DENOISERS, PROCESS, ids_of(9)):
        for n, place in enumerate(found.plans):
            tokens = found.tokens_UL[found.text_N[n]]
            assert np.array_equal(tokens, together[place][found.sequence].numpy())


@pytest.mark.parametrize(
    ("steps", "parameters"), [(1, {}), (3, {"t_on": 0.3}), (50, {}), (7, {"t_off": 0.01})]
)
def test_loops_end_without_masks(steps: int, parameters) -> None:
    plan = plan_of("remdm_loop", f"H{steps}", **parameters)
    assert (remask(plan, DENOISERS, PROCESS, ids_of(200)).z_BL != WORLD.mask_id).all()


@pytest.mark.parametrize("name", NAMES)
def test_cost_is_what_was_expected(name: str) -> None:
    """Means of 4,000 runs, within five standard errors; for `remdm_conf` within a tenth."""
    plan = plan_of(name, "H7 L5", **STRONG[name])
    costs = {role: RoleCost(num_blocks=1, block_flops=1, head_flops=1) for role in "HL"}
    expected = expected_cost(plan, costs)
    state = remask(plan, DENOISERS, PROCESS, ids_of(4_000))
    heads = sum(usage.head_positions_B for usage in state.usage.values()).double()
    wanted = expected.flops_total - expected.flops_blocks
    slack = 0.1 * wanted if name == "remdm_conf" else 0.0
    assert abs(float(heads.mean()) - wanted) < 5 * float(heads.std()) / 4_000**0.5 + slack


def test_without_taking_back_it_is_ancestral() -> None:
    """The same law, of other noise: chi-square of two samples at 1e-4."""
    from schedlab.sampling import sample

    plan = plan_of("remdm_cap", "H4", eta=0.0)
    ancestral = plan_of("ancestral", "H4")
    n = 40_000
    counts = [
        torch.bincount(sequence_index(z, WORLD.num_real), minlength=27).numpy()
        for z in (
            remask(plan, DENOISERS, PROCESS, ids_of(n)).z_BL,
            sample(ancestral, DENOISERS, PROCESS, ids_of(n)).z_BL,
        )
    ]
    often = sum(counts) >= 10
    assert stats.chi2_contingency(np.stack([c[often] for c in counts])).pvalue > 1e-4


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("remdm_cap", {"eta": 1.5}, r"eta must be in \[0, 1\]"),
        ("remdm_loop", {"t_off": 0.6}, "0 < t_off < t_on < 1"),
        ("remdm_conf", {"eta": 0.1}, "has no parameter 'eta'"),
    ],
)
def test_wrong_parameters_are_one_line(name: str, parameters, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_policy(PolicySpec(name=name, parameters=parameters))
