"""What does a race save, and does it find the front of the full evaluation?

The exhaustive and hand-made schedules of the bundled pair, measured in full and in a race
(`schedlab.search.racing`), each in a store and a process of its own: forwards really made, plans
left after every look, and the two fronts beside each other.

More sequences than can be run here are projected: races among sequences drawn, with replacement,
from those that were measured in full, after the spread of the plans' means was shrunk by the part
that is sampling noise. The share of such races that drop a plan of their true front is counted
beside the bound that the race states.

    python benchmarks/racing.py

Legend: N plans, S sequences.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import common
import numpy as np
from common import OwnProcess
from numpy.typing import NDArray

from schedlab.evaluation.evaluate import run_missing
from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.lab import build_lab
from schedlab.job import Job, parse_job
from schedlab.plan import Plan
from schedlab.results import (
    Measurement,
    PlanCost,
    SeedBlock,
    Store,
    paired_log_ppl_difference,
)
from schedlab.results.search_file import Race
from schedlab.sampling import Work
from schedlab.search.bench import Bench
from schedlab.search.front import non_dominated
from schedlab.search.proposals import Proposals, propose
from schedlab.search.racing import Racing, beats, comparisons, look_blocks, paired_limits

FloatArray = NDArray[np.float64]


@dataclass
class Counting:
    """An evaluator that counts what is really run."""

    job: Job
    store: Store
    work: Work

    def __post_init__(self) -> None:
        self.inner = Evaluator(build_lab(self.job.lab), self.store)

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        """Run what is missing, then read everything."""
        run_missing(plans, blocks, lab=self.inner.lab, store=self.store, work=self.work)
        return self.inner(plans, blocks)

    def cost_of(self, plan: Plan) -> PlanCost:
        """Expected cost of one sequence."""
        return self.inner.cost_of(plan)

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        """Nothing here reads texts."""
        return []


@dataclass(frozen=True)
class Found:
    """What one way gave; columns are the plans in the order of their proposal."""

    seconds: float
    forwards: dict[str, int]
    cost_N: FloatArray
    kept_N: NDArray[np.bool_]
    complete_N: NDArray[np.bool_]
    within_N: NDArray[np.bool_]
    log_ppl_N: FloatArray
    measured: list[Measurement]
    race: Race | None


def run(job: Job) -> Found:
    """All plans of a job, in a race where the job wants one."""
    with tempfile.TemporaryDirectory() as folder:
        work = Work()
        bench = Bench(job, Counting(job, Store(folder), work))
        proposals: Proposals = propose(job)
        plans, kept = list(proposals), frozenset(proposals.of("handmade"))
        begin, race = time.perf_counter(), None
        if job.search.race_from is None:
            bench.measure(plans)
        else:
            looks = look_blocks(job.search.race_from // job.search.block_size, len(job.blocks()))
            race = Racing(bench, plans, kept, job.search.race_error, looks).run(lambda name: None)
        seconds = time.perf_counter() - begin
    measured = [bench.measured[plan] for plan in plans]
    return Found(
        seconds=seconds,
        forwards=dict(work.forwards),
        cost_N=np.array([1 - bench.saved(plan) for plan in plans]),
        kept_N=np.array([plan in kept for plan in plans]),
        complete_N=np.array([bench.is_complete(plan) for plan in plans]),
        within_N=np.array([bench.within_band(one) for one in measured]),
        log_ppl_N=np.array([one.estimates["log_gen_ppl"].value for one in measured]),
        measured=measured,
        race=race,
    )


def front(found: Found) -> list[int]:
    """Plans on the front, among those within the band and measured in full."""
    allowed_N = found.within_N & found.complete_N
    on_N = non_dominated(np.where(allowed_N, found.log_ppl_N, np.nan), found.cost_N)
    return np.flatnonzero(on_N).tolist()


def compared_fronts(full: Found, raced: Found) -> list[dict[str, Any]]:
    """Every plan of the full front beside the race's best plan that costs no more."""
    rows: list[dict[str, Any]] = []
    for n in front(full):
        rivals = [m for m in front(raced) if raced.cost_N[m] <= full.cost_N[n] + 1e-12]
        if not rivals:
            rows.append({"plan": n, "rival": None})
            continue
        best = min(rivals, key=lambda m: raced.log_ppl_N[m])
        difference = paired_log_ppl_difference(full.measured[best], full.measured[n])
        rows.append(
            {
                "plan": str(full.measured[n].plan.model_schedule),
                "rival": str(full.measured[best].plan.model_schedule),
                "difference": difference.model_dump(),
                "same_or_tied": best == n or difference.low <= 0 <= difference.high,
            }
        )
    return rows


def shrunk(found: Found) -> FloatArray:
    """Per-sequence log Gen-PPL (S, N) with means spread as much as they truly are.

    The variance of the plans' means, among plans of one cost, holds that of their noise; the means
    are drawn together so that the rest remains.
    """
    value_SN = np.stack([one.nll_S / one.scored_tokens_S for one in found.measured], axis=1)
    mean_N = value_SN.mean(axis=0)
    target_N = mean_N.copy()
    for cost in np.unique(found.cost_N.round(9)):
        own = np.flatnonzero((np.abs(found.cost_N - cost) < 1e-8) & ~found.kept_N)
        if len(own) < 3:
            continue
        apart_SN = value_SN[:, own] - value_SN[:, own].mean(axis=1, keepdims=True)
        noise = float((apart_SN.var(axis=0, ddof=1) / len(value_SN)).mean())
        spread = float(mean_N[own].var(ddof=1))
        reliability = max(0.0, 1 - noise / spread) if spread else 0.0
        middle = mean_N[own].mean()
        target_N[own] = middle + np.sqrt(reliability) * (mean_N[own] - middle)
    return value_SN - mean_N + target_N


def projected(found: Found, first: int, last: int, error: float, races: int) -> dict[str, Any]:
    """Races of up to `last` sequences among resampled ones."""
    value_SN, rng = shrunk(found), np.random.default_rng(0)
    truth_N, raced_N = value_SN.mean(axis=0), ~found.kept_N
    true_front = set(np.flatnonzero(non_dominated(truth_N, found.cost_N)).tolist())
    looks = look_blocks(first, last)
    chances = comparisons(found.cost_N, raced_N) * (len(looks) - 1)
    shares, wrong, left = [], 0, []
    for _ in range(races):
        drawn_SN = value_SN[rng.integers(len(value_SN), size=last)]
        alive, sequences, before = np.arange(len(truth_N)), 0, 0
        for look in looks:
            sequences += len(alive) * (look - before)
            before = look
            if look == last:
                break
            seen_SN = drawn_SN[:look, alive]
            _, low_NN = paired_limits(seen_SN, np.ones_like(seen_SN), error / chances)
            beaten_N = beats(low_NN, found.cost_N[alive], np.ones(len(alive), bool)).any(axis=1)
            alive = alive[~(beaten_N & raced_N[alive])]
        shares.append(sequences / (len(truth_N) * last))
        wrong += not true_front <= set(alive.tolist())
        left.append(len(alive))
    return {
        "sequences": last,
        "share_of_sequences": common.spread(shares),
        "plans_left": common.spread(left),
        "races": races,
        "races_that_dropped_a_plan_of_the_true_front": wrong,
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Both ways, and the projection."""
    tables: dict[str, Any] = {
        "lab": {"denoisers": {"H": "bundled:heavy", "L": "bundled:light-4"}, "device": "cpu"},
        "plan": {"length": options.length, "num_steps": options.steps},
    }
    search = {
        "num_segments": options.segments,
        "num_light": options.light,
        "num_sequences": options.sequences,
        "additive": False,
    }
    found = {}
    for way, extra in (("full", {}), ("raced", {"race_from": options.first})):
        with OwnProcess() as process:
            found[way] = process.call(run, parse_job({**tables, "search": search | extra}))
    full, raced = found["full"], found["raced"]
    assert raced.race is not None
    fronts = compared_fronts(full, raced)
    forwards = {way: sum(one.forwards.values()) for way, one in found.items()}
    last = [options.sequences * 4**k for k in range(options.projections)]
    return {
        "plans": len(full.measured),
        "forwards": forwards,
        "ratio_forwards": forwards["full"] / forwards["raced"],
        "seconds": {way: one.seconds for way, one in found.items()},
        "race": raced.race.model_dump(),
        "fronts": fronts,
        "front_unchanged_up_to_ties": all(row.get("same_or_tied", False) for row in fronts),
        "projected": [
            projected(full, options.first, n, raced.race.error, options.races) for n in last
        ],
    }


def main() -> None:
    """Run, print and write one JSON object."""
    made = common.parser(__doc__, "racing")
    made.add_argument("--length", type=int)
    made.add_argument("--steps", type=int)
    made.add_argument("--segments", type=int)
    made.add_argument("--light", type=int, help="light segments")
    made.add_argument("--sequences", type=int, help="of every plan in full")
    made.add_argument("--first", type=int, default=32, help="sequences before the first look")
    made.add_argument("--races", type=int, help="projected ones")
    options = common.parsed(made, repeats=1)
    quick = options.quick
    options.length = options.length or (16 if quick else 32)
    options.steps = options.steps or (8 if quick else 20)
    options.segments = options.segments or (4 if quick else 10)
    options.light = options.light or (2 if quick else 4)
    options.sequences = options.sequences or (64 if quick else 256)
    options.races = options.races or (5 if quick else 40)
    options.projections = 2 if quick else 4
    setting = common.described()
    row = measured(options)
    looks = ", ".join(f"{look['plans']} on {look['sequences']}" for look in row["race"]["looks"])
    print(
        f"{row['plans']} plans: {looks}; the full evaluation makes {row['ratio_forwards']:.2f}"
        f" times the forwards of the race; front unchanged up to ties:"
        f" {row['front_unchanged_up_to_ties']}"
    )
    for one in row["projected"]:
        print(
            f"  projected to {one['sequences']}: {common.shown(one['share_of_sequences'])} of the"
            f" sequences, {common.shown(one['plans_left'])} plans left;"
            f" {one['races_that_dropped_a_plan_of_the_true_front']} of {one['races']} races"
            f" dropped a plan of the true front (stated: at most {row['race']['error']:.0%})"
        )
    common.write(options, {"setting": setting, "row": row})


if __name__ == "__main__":
    main()
