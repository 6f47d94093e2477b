"""Export a picked plan of a joint search over guidance and allocation as a plan file (no torch, no
models)."""

from __future__ import annotations

import re
from pathlib import Path

import schedlab
from schedlab.errors import InputError
from schedlab.files import sha256_file
from schedlab.plan import FileRef, MeasuredValue, Plan, PlanFile
from schedlab.results import Estimate
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
    if environment.precision != setting.precision:
        raise InputError(
            f"environment.json says precision {environment.precision}, {CONTROL} was measured in"
            f" {setting.precision[:20]!r}; keep runs of different precisions apart"
        )
    digest = _picked(file, pick)
    row, fresh = file.row(digest), file.fresh_row(digest)
    plan = row.plan
    if plan.digest != digest:
        raise InputError(
            f"{CONTROL}: the plan has the digest {plan.digest[:12]}, the search measured"
            f" {digest[:12]}; the file was edited or made by another version: search again"
        )
    if setting.judge not in environment.judges:
        raise InputError(f"environment.json names no judge {setting.judge!r}; search again")
    missing = [role for role in plan.model_schedule.roles if role not in environment.denoisers]
    if missing:
        raise InputError(f"environment.json names no denoiser for role {missing[0]!r}")
    return PlanFile(
        plan=plan,
        digest=digest,
        denoisers={role: environment.denoisers[role] for role in plan.model_schedule.roles},
        tokenizer=environment.tokenizer,
        precision=environment.precision,
        classifiers=guides_of(plan, environment),
        measured=_measured(fresh, file),
        provenance={
            "schedlab": schedlab.__version__,
            "measured_with_schedlab": environment.schedlab,
            "pick": pick,
            "judge": setting.judge,
            "judge_location": environment.judges[setting.judge].location,
            "judge_sha256": environment.judges[setting.judge].sha256,
            "plans_evaluated": len(file.rows),
            "search_seed": setting.seed,
            "search_sequences": setting.num_sequences,
            "fresh_seed": setting.fresh_seed,
            "fresh_sequences": setting.fresh_sequences,
            "prefix_length": setting.prefix_length,
            "scorer": setting.scorer,
            "reference_plan": setting.reference,
            "device": environment.device,
            "platform": environment.platform,
            "packages": [f"{name} {version}" for name, version in environment.packages.items()],
            "search_file_sha256": sha256_file(folder / CONTROL),
        },
    )


def guides_of(plan: Plan, environment: EnvironmentFile) -> dict[str, FileRef]:
    """The classifiers that a plan's guidance names.

    Raises:
        InputError: the run had no such classifier.
    """
    attributes = plan.guidance.attributes if plan.guidance is not None else ()
    names = dict.fromkeys(attribute.classifier for attribute in attributes)
    for name in names:
        if name not in environment.classifiers:
            raise InputError(
                f"environment.json names no classifier {name!r}, which the plan's guidance uses"
            )
    return {name: environment.classifiers[name] for name in names}


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
    found = {name: _value(one, file) for name, one in fresh.estimates.items() if one.n}
    found["control"] = _value(fresh.control, file, f"judge {file.setting.judge}")
    found["cost_ratio"] = _value(fresh.cost, file, f"{file.setting.cost}, of the reference's")
    if fresh.ppl_ratio is not None:
        found["gen_ppl_ratio"] = _value(fresh.ppl_ratio, file, "of the unguided reference's")
    return found


def _value(estimate: Estimate, file: ControlFile, note: str = "") -> MeasuredValue:
    return MeasuredValue(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=max(1, estimate.n),
        seeds=[file.setting.fresh_seed],
        note=note,
    )
