"""All plans of a search side by side: what to pick, what to measure again, what to write down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from schedlab.job import Job
from schedlab.plan import ModelSchedule
from schedlab.results import Measurement, agreement, paired_log_ppl_difference
from schedlab.results.search_file import (
    AdditiveScores,
    FreshRow,
    Hypervolume,
    RowCost,
    SearchRow,
    Why,
)
from schedlab.search.additive import StepCosts, additive_score
from schedlab.search.bench import Bench, Stage
from schedlab.search.front import (
    Candidates,
    excess,
    hypervolume,
    pick_best,
    pick_budget,
    pick_knee,
    reference_point,
)
from schedlab.search.proposals import Proposals, step_budgets
from schedlab.search.racing import Racing
from schedlab.search.space import assignment_of, of_commonest_cost

SHOWN: frozenset[Why] = frozenset({"all_heavy", "all_light", "best", "knee", "budget", "worst"})


@dataclass
class Board:
    """All plans side by side: what to pick, what to measure again."""

    job: Job
    bench: Bench
    schedules: list[ModelSchedule]
    race: Racing | None = None
    whys: dict[ModelSchedule, list[Why]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measured = [self.bench.measured[schedule] for schedule in self.schedules]
        self.candidates = Candidates(
            log_ppl=np.array([m.estimates["log_gen_ppl"].value for m in measured]),
            saved=np.array([self.bench.saved(schedule) for schedule in self.schedules]),
            # What racing stopped early is compared on fewer sequences: it belongs to no front.
            may_pick=np.array(
                [
                    self.bench.is_complete(s) and self.bench.within_band(m)
                    for s, m in zip(self.schedules, measured, strict=True)
                ]
            ),
        )
        front = self.candidates.on_front
        self.front = {s for s, on in zip(self.schedules, front, strict=True) if on}

    @property
    def reference(self) -> tuple[float, float]:
        """Reference point of the hypervolumes."""
        heavy, light = (
            self.bench.measured[s].estimates["log_gen_ppl"].value
            for s in (self.bench.heavy, self.bench.light)
        )
        return reference_point(heavy, light)

    def choose(self, proposals: Proposals, stage: Stage) -> dict[str, ModelSchedule]:
        """Pick by the search's values; measure picks and bystanders on fresh seeds.

        A pick whose entropy leaves the band on fresh seeds is dropped and the next one takes its
        place, until all picks hold.
        """
        bystanders = self._bystanders(proposals)
        rejected: set[ModelSchedule] = set()
        while True:
            picks = self._picks(rejected)
            wanted = [*bystanders, *picks.values()]
            stage(f"measuring {len(set(wanted))} schedules again on fresh seeds")
            self.bench.measure_fresh(wanted)
            fresh = self.bench.fresh
            outside = {s for s in picks.values() if not self._holds(fresh[s])}
            if not outside:
                break
            rejected |= outside
        for schedule, whys in bystanders.items():
            self.whys.setdefault(schedule, []).extend(whys)
        for name, schedule in picks.items():
            why: Why = "budget" if name.startswith("budget") else name  # type: ignore[assignment]
            self.whys.setdefault(schedule, []).append(why)
        for schedule in rejected:
            self.whys.setdefault(schedule, [])
        return picks

    def _picks(self, rejected: set[ModelSchedule]) -> dict[str, ModelSchedule]:
        keep = np.array([schedule not in rejected for schedule in self.schedules])
        candidates = Candidates(
            self.candidates.log_ppl, self.candidates.saved, self.candidates.may_pick & keep
        )
        found = {"best": pick_best(candidates), "knee": pick_knee(candidates)}
        if (wish := self.job.output.pick).startswith("budget="):
            found[wish] = pick_budget(candidates, float(wish.removeprefix("budget=")))
        return {name: self.schedules[i] for name, i in found.items() if i is not None}

    def _bystanders(self, proposals: Proposals) -> dict[ModelSchedule, list[Why]]:
        """What a reader compares the picks with; none of it depends on fresh seeds."""
        found: dict[ModelSchedule, list[Why]] = {}

        def note(schedule: ModelSchedule, why: Why) -> None:
            found.setdefault(schedule, []).append(why)

        def log_ppl(schedule: ModelSchedule) -> float:
            return self.bench.measured[schedule].estimates["log_gen_ppl"].value

        note(self.bench.heavy, "all_heavy")
        note(self.bench.light, "all_light")
        for schedule in self.schedules:
            if schedule in self.front:
                note(schedule, "front")
        exhaustive = of_commonest_cost(proposals.of("exhaustive"), self.job.plan.light)
        if exhaustive:
            note(max(exhaustive, key=log_ppl), "worst")
            complete = [schedule for schedule in exhaustive if self.bench.is_complete(schedule)]
            if complete:
                note(min(complete, key=log_ppl), "exhaustive_best")
        budgets = step_budgets(self.job)
        for schedule in proposals.of("additive"):
            if schedule.count(self.job.plan.light) in budgets:
                note(schedule, "additive")
        return found

    def row(
        self, schedule: ModelSchedule, proposals: Proposals, costs: Sequence[StepCosts]
    ) -> SearchRow:
        """One plan of the result file."""
        plan, measurement = self.bench.plan(schedule), self.bench.measured[schedule]
        heavy = self.bench.heavy_beside(measurement)
        light = self.job.plan.light
        assignment = assignment_of(schedule, self.job.search.num_segments)
        if not {light, self.job.plan.heavy}.issuperset(schedule.roles):
            assignment = None  # a third role: "light" and "the rest" would not say which
        return SearchRow(
            schedule=schedule,
            digest=plan.digest,
            families=tuple(proposals.families[schedule]),
            name=proposals.names.get(schedule),
            light_segments=None
            if assignment is None
            else tuple(j for j, role in enumerate(assignment) if role == light),
            light_share=schedule.count(light) / schedule.num_steps,
            estimates=dict(measurement.estimates) | {"agreement": agreement(measurement, heavy)},
            paired_log_ppl=paired_log_ppl_difference(measurement, heavy),
            cost=self._cost(schedule, measurement),
            additive=_additive(schedule, costs),
            in_entropy_band=self.bench.within_band(measurement),
            on_front=schedule in self.front,
            dropped=None if self.race is None else self.race.dropped(schedule),
        )

    def _cost(self, schedule: ModelSchedule, measurement: Measurement) -> RowCost:
        means = measurement.estimates
        return RowCost(
            # Of the denoisers: what guides are asked for is counted beside them.
            forwards={
                role: float(measurement.forwards[role].mean())
                for role in schedule.roles
                if role in measurement.forwards
            },
            block_forwards=means["block_forwards"].value,
            flops_blocks=means["flops_blocks"].value,
            flops_total=means["flops_total"].value,
            saved_blocks=self.bench.saved(schedule, "flops_blocks"),
            saved_total=self.bench.saved(schedule, "flops_total"),
            nominal_saved_blocks=self.bench.saved(schedule, "nominal_block_forwards"),
            nominal_saved_total=self.bench.saved(schedule, "nominal_flops_total"),
            seconds=means["seconds"].value,
        )

    def _holds(self, measurement: Measurement) -> bool:
        """Whether a measurement on fresh seeds is within their band."""
        return excess(self.bench.fresh_band, measurement.estimates["entropy"].value) <= 0

    def fresh_rows(self) -> list[FreshRow]:
        """Everything measured on fresh seeds, with texts where a reader looks at them."""
        fresh, heavy = self.bench.fresh, self.bench.fresh[self.bench.heavy]
        rows = []
        for schedule, whys in self.whys.items():
            measurement = fresh[schedule]
            shown = not SHOWN.isdisjoint(whys)
            texts = self.bench.evaluator.texts(measurement, self.job.output.samples)
            rows.append(
                FreshRow(
                    digest=self.bench.plan(schedule).digest,
                    schedule=schedule,
                    why=tuple(dict.fromkeys(whys)),
                    estimates=dict(measurement.estimates)
                    | {"agreement": agreement(measurement, heavy)},
                    paired_log_ppl=paired_log_ppl_difference(measurement, heavy),
                    in_entropy_band=self._holds(measurement),
                    samples=tuple(texts) if shown else (),
                )
            )
        return rows

    def hypervolume(self, proposals: Proposals) -> Hypervolume:
        """Of all plans within the band, and of each family's."""
        candidates = self.candidates
        cost = 1.0 - candidates.saved

        def area(member: np.ndarray) -> float:
            kept = candidates.allowed & member
            return hypervolume(candidates.log_ppl[kept], cost[kept], self.reference)

        families = dict.fromkeys(f for labels in proposals.families.values() for f in labels)
        return Hypervolume(
            value=area(np.ones(len(cost), dtype=bool)),
            by_family={
                family: area(np.array([family in proposals.families[s] for s in self.schedules]))
                for family in families
            },
        )


def _additive(schedule: ModelSchedule, costs: Sequence[StepCosts]) -> AdditiveScores:
    """The first table of each score that knows all of the schedule's roles."""
    scores: dict[str, float] = {}
    for table in costs:
        if set(schedule.roles) <= {table.heavy, *table.lights}:
            scores.setdefault(table.score, additive_score(table, schedule))
    return AdditiveScores(**scores)
