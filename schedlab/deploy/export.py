"""Export a picked plan of a search as a plan file (no torch, no models).

Only plans that were measured again on fresh seeds are exported, and only those fresh figures go
into the file: the search's own value of a plan that was chosen by it is too good.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from schedlab.deploy.export_control import CONTROL, export_control
from schedlab.deploy.export_policies import POLICIES, export_policy
from schedlab.deploy.picked import measured_value, plan_file
from schedlab.errors import InputError
from schedlab.plan import Decoding, MeasuredValue, Plan, PlanFile
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.search_file import FreshRow, SearchFile, SearchRow
from schedlab.search.front import Candidates, pick_budget

SEARCH = "search.json"
ENVIRONMENT = "environment.json"
PICKS = ("best", "knee")
_BUDGET = re.compile(r"budget=([0-9]+\.?[0-9]*|\.[0-9]+)")


def export(run_dir: str | os.PathLike[str], pick: str = "knee") -> PlanFile:
    """The plan file of a pick of a finished search: over model schedules, over policies, or over
    guidance and allocation.

    Args:
        run_dir: run folder with `search.json` and `environment.json`.
        pick: `best` (lowest Gen-PPL that saves something), `knee` (of the Pareto front), or
            `budget=0.25`: the lowest Gen-PPL of the search among the re-measured plans within the
            entropy band that save at least that share of all-heavy's FLOPs, head included.

    Raises:
        InputError: an unknown pick, none that fits, or a run folder that does not fit together.
    """
    folder = Path(run_dir)
    if (folder / CONTROL).exists():
        return export_control(folder, EnvironmentFile.read(folder / ENVIRONMENT), pick)
    if (folder / POLICIES).exists():
        return export_policy(folder, EnvironmentFile.read(folder / ENVIRONMENT), pick)
    if not (folder / SEARCH).exists():
        raise InputError(f"{folder}: has no {SEARCH}; run or resume its search first")
    search = SearchFile.read(folder / SEARCH)
    environment = EnvironmentFile.read(folder / ENVIRONMENT)
    row, fresh = _picked(search, pick)
    plan = _plan(search, row)
    setting = search.setting
    scorer = environment.scorer
    return plan_file(
        plan,
        folder / SEARCH,
        setting,
        environment,
        digest=row.digest,
        pick=pick,
        plans_evaluated=len(search.rows),
        measured=_measured(fresh, search),
        about={
            "families": list(row.families),
            "scorer_sha256": scorer.sha256 if scorer is not None else "",
            "corpus_fingerprint": setting.corpus_fingerprint,
            "saved_blocks_as_published": row.cost.nominal_saved_blocks,
            "saved_total_every_step": row.cost.nominal_saved_total,
            "saved_blocks": row.cost.saved_blocks,
            "saved_total": row.cost.saved_total,
        },
    )


def _picked(search: SearchFile, pick: str) -> tuple[SearchRow, FreshRow]:
    """The row of a pick and its measurement on fresh seeds."""
    digest = search.picks.get(pick)
    if digest is None:
        budget = _BUDGET.fullmatch(pick)
        if budget is not None:
            digest = _within_budget(search, float(budget[1])).digest
        elif pick in PICKS:
            raise InputError(
                f"pick {pick!r}: this search found no plan within the entropy band that saves"
                " anything; search more schedules"
            )
        else:
            raise InputError(
                f"pick must be 'best', 'knee' or 'budget=SHARE', got {pick[:40]!r}; a share of"
                " 0.25 asks for a quarter of the FLOPs to be saved"
            )
    fresh = search.fresh_row(digest)
    if fresh is None:
        raise InputError(
            f"pick {pick!r} was not measured on fresh seeds; resume the search to measure it"
        )
    return search.row(digest), fresh


def _within_budget(search: SearchFile, saving: float) -> SearchRow:
    """The best re-measured plan that saves at least `saving`, a share of all-heavy's FLOPs.

    Chosen by the search's values: choosing by the fresh ones would make them too good in turn.
    """
    if not 0 <= saving <= 1:
        raise InputError(f"a budget is a share between 0 and 1, got {saving}")
    rows = [search.row(fresh.digest) for fresh in search.fresh]
    candidates = Candidates(
        log_ppl=np.array([row.estimates["log_gen_ppl"].value for row in rows]),
        saved=np.array([row.cost.saved_total for row in rows]),
        may_pick=np.array(
            [
                row.in_entropy_band and fresh.in_entropy_band
                for row, fresh in zip(rows, search.fresh, strict=True)
            ]
        ),
    )
    index = pick_budget(candidates, saving)
    if index is None:
        most = max((float(s) for s in candidates.saved[candidates.allowed]), default=0.0)
        raise InputError(
            f"no re-measured plan within the entropy band saves {saving:g} of the FLOPs; the most"
            f" is {most:.4f}"
        )
    return rows[index]


def _plan(search: SearchFile, row: SearchRow) -> Plan:
    """The row's plan."""
    setting = search.setting
    return Plan(
        length=setting.length,
        model_schedule=row.schedule,
        decoding=Decoding(temperature=setting.temperature, top_p=setting.top_p),
        policy=setting.policy,
        process=setting.process,
        noise_schedule=setting.noise_schedule,
        time_grid=setting.time_grid,
        simplex_value=setting.simplex_value,
        last_step=setting.last_step,
        guidance=setting.guidance,
    )


def _measured(fresh: FreshRow, search: SearchFile) -> dict[str, MeasuredValue]:
    """All estimates on fresh seeds, and the paired difference to all-heavy."""
    setting = search.setting
    notes = {"gen_ppl": f"scorer {setting.scorer}", "log_gen_ppl": f"scorer {setting.scorer}"}
    measured = {
        name: measured_value(estimate, setting, notes.get(name, ""))
        for name, estimate in fresh.estimates.items()
        if estimate.n > 0
    }
    return measured | {
        "log_gen_ppl_minus_all_heavy": measured_value(
            fresh.paired_log_ppl, setting, "paired: the same random numbers"
        )
    }
