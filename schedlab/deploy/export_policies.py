"""Export a picked plan of a search over policies as a plan file (no torch, no models)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

import schedlab
from schedlab.errors import InputError
from schedlab.files import sha256_file
from schedlab.plan import MeasuredValue, PlanFile
from schedlab.results import Estimate
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.policy_file import FreshPolicyRow, PolicyFile, PolicyRow
from schedlab.search.front import Candidates, pick_budget

POLICIES = "policies.json"
_BUDGET = re.compile(r"budget=([0-9]+\.?[0-9]*|\.[0-9]+)")


def export_policy(folder: Path, environment: EnvironmentFile, pick: str) -> PlanFile:
    """The plan file of a pick; only plans that were measured on fresh sequences, with only these
    figures. See `export.export` for the arguments."""
    file = PolicyFile.read(folder / POLICIES)
    setting = file.setting
    if environment.precision != setting.precision:
        raise InputError(
            f"environment.json says precision {environment.precision}, {POLICIES} was measured in"
            f" {setting.precision[:20]!r}; keep runs of different precisions apart"
        )
    row, fresh = _picked(file, pick)
    plan = row.plan
    if plan.digest != row.digest:
        raise InputError(
            f"{POLICIES}: the plan has the digest {plan.digest[:12]}, the search measured"
            f" {row.digest[:12]}; the file was edited or made by another version: search again"
        )
    missing = [role for role in plan.model_schedule.roles if role not in environment.denoisers]
    if missing:
        raise InputError(f"environment.json names no denoiser for role {missing[0]!r}")
    return PlanFile(
        plan=plan,
        digest=plan.digest,
        denoisers={role: environment.denoisers[role] for role in plan.model_schedule.roles},
        tokenizer=environment.tokenizer,
        precision=environment.precision,
        measured={
            **{name: _value(found, file) for name, found in fresh.estimates.items() if found.n},
            "cost_share": _value(fresh.cost, file, f"{setting.cost}, of the reference's"),
        },
        provenance={
            "schedlab": schedlab.__version__,
            "measured_with_schedlab": environment.schedlab,
            "pick": pick,
            "policy": row.curve.family,
            "task": setting.task,
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
            "search_file_sha256": sha256_file(folder / POLICIES),
        },
    )


def _picked(file: PolicyFile, pick: str) -> tuple[PolicyRow, FreshPolicyRow]:
    digest = file.picks.get(pick)
    if digest is None:
        budget = _BUDGET.fullmatch(pick)
        if budget is None:
            raise InputError(
                f"pick {pick[:40]!r}: this search has {sorted(file.picks) or 'no picks'}; or name"
                " budget=SHARE, the share of the reference's cost to save"
            )
        digest = _within_budget(file, float(budget[1]))
    fresh = file.fresh_row(digest)
    if fresh is None:
        raise InputError(f"pick {pick!r} was not measured on fresh sequences; resume the search")
    return file.row(digest), fresh


def _within_budget(file: PolicyFile, saving: float) -> str:
    """The lowest loss of the search among re-measured plans that save so much."""
    if not 0 <= saving <= 1:
        raise InputError(f"a budget is a share between 0 and 1, got {saving}")
    rows = [file.row(fresh.digest) for fresh in file.fresh]
    candidates = Candidates(
        np.array([row.loss for row in rows]),
        np.array([1.0 - row.cost for row in rows]),
        np.array([row.in_entropy_band for row in rows]),
    )
    index = pick_budget(candidates, saving)
    if index is None:
        raise InputError(f"no re-measured plan within the entropy band saves {saving:g}")
    return rows[index].digest


def _value(estimate: Estimate, file: PolicyFile, note: str = "") -> MeasuredValue:
    return MeasuredValue(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=max(1, estimate.n),
        seeds=[file.setting.fresh_seed],
        note=note,
    )
