"""Export a picked plan of a search over policies as a plan file (no torch, no models)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from schedlab.deploy.picked import measured_value, plan_file
from schedlab.errors import InputError
from schedlab.plan import PlanFile
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
    row, fresh = _picked(file, pick)
    estimates = fresh.estimates.items()
    return plan_file(
        row.plan,
        folder / POLICIES,
        setting,
        environment,
        digest=row.digest,
        pick=pick,
        plans_evaluated=len(file.rows),
        measured={
            **{name: measured_value(found, setting) for name, found in estimates if found.n},
            "cost_share": measured_value(
                fresh.cost, setting, f"{setting.cost}, of the reference's"
            ),
        },
        about={
            "policy": row.curve.family,
            "task": setting.task,
            "reference_plan": setting.reference,
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
