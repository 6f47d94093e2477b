"""Export a picked plan of a joint search over guidance and allocation as a plan file (no torch, no
models)."""

from __future__ import annotations

import re
from pathlib import Path

from schedlab.deploy.picked import measured_value, plan_file
from schedlab.errors import InputError
from schedlab.plan import MeasuredValue, PlanFile
from schedlab.results.control_file import ControlFile, ControlRow, FreshControlRow
from schedlab.results.environment_file import EnvironmentFile

CONTROL = "control.json"
_BUDGET = re.compile(r"budget=([0-9]+\.?[0-9]*|\.[0-9]+)")


def export_control(folder: Path, environment: EnvironmentFile, pick: str) -> PlanFile:
    """The plan file of a pick; only plans that were measured on fresh sequences, with only these
    figures.

    Args:
        folder: run folder with `control.json`.
        environment: of the run.
        pick: `best` (highest control accuracy within the constraints), `knee` (of control against
            cost), or `budget=SHARE`: the highest accuracy that saves so much of the unguided
            reference's cost.

    Raises:
        InputError: an unknown pick, none that fits, or files that do not fit together.
    """
    file = ControlFile.read(folder / CONTROL)
    setting = file.setting
    judges = setting.deciding or (setting.judge,)
    for name in judges:
        if name not in environment.judges:
            raise InputError(f"environment.json names no judge {name!r}; search again")
    digest = _picked(file, pick)
    return plan_file(
        file.row(digest).plan,
        folder / CONTROL,
        setting,
        environment,
        digest=digest,
        pick=pick,
        plans_evaluated=len(file.rows),
        measured=_measured(file.fresh_row(digest), file),
        about={
            "judge": setting.judge,
            "judge_location": [environment.judges[name].location for name in judges],
            "judge_sha256": [environment.judges[name].sha256 for name in judges],
            "reference_plan": setting.reference,
        },
    )


def _picked(file: ControlFile, pick: str) -> str:
    digest = file.picks.get(pick)
    if digest is not None:
        return digest
    budget = _BUDGET.fullmatch(pick)
    if budget is None:
        raise InputError(
            f"pick {pick[:40]!r}: this search has {sorted(file.picks) or 'no picks'}; or name"
            " budget=SHARE, the share of the unguided reference's cost to save"
        )
    if not 0 <= float(budget[1]) <= 1:
        raise InputError(f"a budget is a share between 0 and 1, got {budget[1]}")
    if "cost" not in file.setting.objectives:
        raise InputError(
            f"pick {pick[:40]!r}: cost was no objective of this search; add it, or take best"
        )
    known = [file.row(fresh.digest) for fresh in file.fresh if fresh.within]
    rows = [
        row
        for row in known
        if row.feasible
        and row.digest != file.setting.reference
        and _chosen_by(row)["cost"] <= 1.0 - float(budget[1])
    ]
    if not rows:
        raise InputError(
            f"no re-measured plan within the constraints saves {budget[1]} of the unguided"
            " reference's cost"
        )
    return min(rows, key=lambda row: (_chosen_by(row)["control"], _chosen_by(row)["cost"])).digest


def _chosen_by(row: ControlRow) -> dict[str, float]:
    """Losses on the sequences that picks were chosen on."""
    return row.chosen_by or row.losses


def _measured(fresh: FreshControlRow, file: ControlFile) -> dict[str, MeasuredValue]:
    setting = file.setting
    found = {name: measured_value(one, setting) for name, one in fresh.estimates.items() if one.n}
    found["control"] = measured_value(fresh.control, setting, f"judge {setting.judge}")
    found["cost_ratio"] = measured_value(
        fresh.cost, setting, f"{setting.cost}, of the reference's"
    )
    if fresh.ppl_ratio is not None:
        found["gen_ppl_ratio"] = measured_value(
            fresh.ppl_ratio, setting, "of the unguided reference's"
        )
    return found
