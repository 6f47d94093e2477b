"""A whole search: propose, measure, choose, measure the chosen again on fresh seeds, sum up.

Knows no network: plans are run by the evaluator that is passed in. Everything is deterministic
given the evaluator's answers, and every answer is stored by the evaluator, so an interrupted
search is resumed by calling it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from schedlab.job import Job
from schedlab.plan import ModelSchedule, Plan
from schedlab.results import (
    Measurement,
    PlanCost,
    SeedBlock,
    agreement,
    paired_log_ppl_difference,
)
from schedlab.results.search_file import (
    AdditiveScores,
    FreshRow,
    Hypervolume,
    RowCost,
    SearchFile,
    SearchRow,
    SearchSetting,
    Why,
)
from schedlab.search.additive import StepCosts, additive_score
from schedlab.search.bayesian import AssignmentSpace, Objectives, optimize
from schedlab.search.front import (
    Candidates,
    entropy_band,
    hypervolume,
    pick_best,
    pick_budget,
    pick_knee,
    reference_point,
)
from schedlab.search.proposals import Proposals, additive_assignments, propose, step_budgets
from schedlab.search.space import Assignment, assignment_of, handmade
from schedlab.search.statistics import influence_of, ranking_of

SHOWN: frozenset[Why] = frozenset({"all_heavy", "all_light", "best", "knee", "budget", "worst"})


class Evaluator(Protocol):
    """What a search needs of the world."""

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        """Measure plans on seed blocks, in order."""
        ...

    def cost_of(self, plan: Plan) -> PlanCost:
        """Expected cost of one sequence, before running."""
        ...

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        """The first samples of a measurement as text."""
        ...


@dataclass(frozen=True)
class Context:
    """What a search is told about its surroundings, for the record.

    Args:
        scorer: name of the scorer.
        precision: of the denoisers.
        corpus_fingerprint: of the text behind the additive scores.
        fingerprint: of everything that qualities depend on beside the plans: a database of another
            one is not continued.
    """

    scorer: str
    precision: str
    corpus_fingerprint: str = ""
    fingerprint: str = ""


Stage = Callable[[str], None]
"""Told what begins."""


def search(
    job: Job,
    evaluator: Evaluator,
    context: Context,
    *,
    costs: Sequence[StepCosts] = (),
    database: Path | None = None,
    stage: Stage = lambda name: None,
) -> SearchFile:
    """Run the search of a job.

    Args:
        job: what to search.
        evaluator: runs plans; must remember what it ran.
        context: for the record.
        costs: additive step costs, the first of each score used to propose; none without analysis.
        database: SQLite file of the Bayesian search; None keeps it in memory.
        stage: told what begins.

    Raises:
        InputError: settings that do not fit together.
        BudgetError: more plans than the job allows.
    """
    bench = _Bench(job, evaluator)
    proposals = propose(job, costs)
    stage(f"sampling {len(proposals)} schedules")
    bench.measure(proposals)
    if job.search.trials:
        _bayesian(job, bench, proposals, costs, database, context.fingerprint, stage)
    band = entropy_band(
        bench.measured[bench.heavy].estimates["entropy"],
        standard_errors=job.search.entropy_standard_errors,
        nats=job.search.entropy_nats,
    )
    board = _Board(job, bench, list(proposals), band)
    picks = board.choose(proposals, stage)
    stage("statistics")
    reference = board.reference
    return SearchFile(
        setting=_setting(job, context, band, reference),
        rows=tuple(board.row(schedule, proposals, costs) for schedule in proposals),
        fresh=tuple(board.fresh_rows()),
        segment_influence=tuple(influence_of(job, proposals, bench.measured)),
        rank_correlation=tuple(ranking_of(job, proposals, bench.measured, costs)),
        hypervolume=board.hypervolume(proposals, reference),
        picks={name: bench.plan(schedule).digest for name, schedule in picks.items()},
    )


class _Bench:
    """Measurements of this search, by schedule; runs what is missing."""

    def __init__(self, job: Job, evaluator: Evaluator) -> None:
        self.job, self.evaluator = job, evaluator
        self.heavy = ModelSchedule.constant(job.plan.heavy, job.plan.num_steps)
        self.light = ModelSchedule.constant(job.plan.light, job.plan.num_steps)
        self.measured: dict[ModelSchedule, Measurement] = {}
        self.fresh: dict[ModelSchedule, Measurement] = {}
        self._costs: dict[ModelSchedule, PlanCost] = {}

    def plan(self, schedule: ModelSchedule) -> Plan:
        return self.job.plan.plan(schedule)

    def measure(self, schedules: Iterable[ModelSchedule]) -> None:
        self._fill(self.measured, schedules, self.job.blocks())

    def measure_fresh(self, schedules: Iterable[ModelSchedule]) -> None:
        self._fill(self.fresh, schedules, self.job.fresh_blocks())

    def _fill(
        self,
        known: dict[ModelSchedule, Measurement],
        schedules: Iterable[ModelSchedule],
        blocks: Sequence[SeedBlock],
    ) -> None:
        new = [schedule for schedule in dict.fromkeys(schedules) if schedule not in known]
        if new:
            plans = [self.plan(schedule) for schedule in new]
            known |= dict(zip(new, self.evaluator(plans, blocks), strict=True))

    def cost(self, schedule: ModelSchedule) -> PlanCost:
        if schedule not in self._costs:
            self._costs[schedule] = self.evaluator.cost_of(self.plan(schedule))
        return self._costs[schedule]

    def saved(self, schedule: ModelSchedule, measure: str = "flops_total") -> float:
        """Expected share of all-heavy's cost saved.

        Expected, not counted: which steps reveal nothing is a matter of the seeds, so counted
        costs of plans with as many light steps differ by chance: a front of noise.
        """
        return self.cost(schedule).saved(self.cost(self.heavy), measure)


def _bayesian(
    job: Job,
    bench: _Bench,
    proposals: Proposals,
    costs: Sequence[StepCosts],
    database: Path | None,
    fingerprint: str,
    stage: Stage,
) -> None:
    """Add Optuna's proposals, seeded with hand-made and additive assignments."""
    table, num_segments = job.search, job.search.num_segments
    space = AssignmentSpace(job.plan.num_steps, num_segments, job.search_roles)

    def quality(assignments: Sequence[Assignment]) -> list[float]:
        schedules = [space.schedule(assignment) for assignment in assignments]
        bench.measure(schedules)
        return [bench.measured[s].estimates["log_gen_ppl"].value for s in schedules]

    seeds = [(job.plan.heavy,) * num_segments, (job.plan.light,) * num_segments]
    if table.handmade and num_segments >= 4:
        coarse = handmade(num_segments, heavy=job.plan.heavy, light=job.plan.light)
        seeds += [schedule.steps for schedule in coarse.values()]
    if table.additive and costs:
        seeds += additive_assignments(costs, job.plan.light, num_segments)
    found = optimize(
        space,
        Objectives(
            quality,
            cost=lambda assignment: 1.0 - bench.saved(space.schedule(assignment)),
            max_cost=table.max_cost or float("inf"),
        ),
        num_trials=table.trials,
        seed=job.job.seed,
        seeds=[a for a in seeds if set(a) <= set(space.roles)],
        storage=database,
        fingerprint=f"{fingerprint} {job.blocks()} {bench.plan(bench.heavy).family_digest}",
        sampler=table.sampler,
        told=lambda done: stage(f"Bayesian search, proposal {done + 1} of {table.trials}"),
    )
    schedules = [space.schedule(assignment) for assignment in found]
    bench.measure(schedules)
    proposals.add("optuna", schedules)


@dataclass
class _Board:
    """All plans side by side: what to pick, what to measure again."""

    job: Job
    bench: _Bench
    schedules: list[ModelSchedule]
    band: tuple[float, float]
    whys: dict[ModelSchedule, list[Why]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        measured = [self.bench.measured[schedule] for schedule in self.schedules]
        self.candidates = Candidates(
            log_ppl=np.array([m.estimates["log_gen_ppl"].value for m in measured]),
            saved=np.array([self.bench.saved(schedule) for schedule in self.schedules]),
            in_band=np.array([self.within(m) for m in measured]),
        )
        front = self.candidates.on_front
        self.front = {s for s, on in zip(self.schedules, front, strict=True) if on}

    def within(self, measurement: Measurement) -> bool:
        """Whether the entropy lies within the band."""
        return self.band[0] <= measurement.estimates["entropy"].value <= self.band[1]

    @property
    def reference(self) -> tuple[float, float]:
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
            outside = {s for s in picks.values() if not self.within(self.bench.fresh[s])}
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
            self.candidates.log_ppl, self.candidates.saved, self.candidates.in_band & keep
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
        exhaustive = proposals.of("exhaustive")
        if exhaustive:
            note(max(exhaustive, key=log_ppl), "worst")
            note(min(exhaustive, key=log_ppl), "exhaustive_best")
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
        heavy = self.bench.measured[self.bench.heavy]
        light = self.job.plan.light
        assignment = assignment_of(schedule, self.job.search.num_segments)
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
            in_entropy_band=self.within(measurement),
            on_front=schedule in self.front,
        )

    def _cost(self, schedule: ModelSchedule, measurement: Measurement) -> RowCost:
        means = measurement.estimates
        return RowCost(
            forwards={role: float(n.mean()) for role, n in measurement.forwards.items()},
            block_forwards=means["block_forwards"].value,
            flops_blocks=means["flops_blocks"].value,
            flops_total=means["flops_total"].value,
            saved_blocks=self.bench.saved(schedule, "flops_blocks"),
            saved_total=self.bench.saved(schedule, "flops_total"),
            nominal_saved_blocks=self.bench.saved(schedule, "nominal_block_forwards"),
            seconds=means["seconds"].value,
        )

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
                    in_entropy_band=self.within(measurement),
                    samples=tuple(texts) if shown else (),
                )
            )
        return rows

    def hypervolume(self, proposals: Proposals, reference: tuple[float, float]) -> Hypervolume:
        """Of all plans within the band, and of each family's."""
        candidates = self.candidates
        cost = 1.0 - candidates.saved

        def area(member: np.ndarray) -> float:
            kept = candidates.allowed & member
            return hypervolume(candidates.log_ppl[kept], cost[kept], reference)

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


def _setting(
    job: Job, context: Context, band: tuple[float, float], reference: tuple[float, float]
) -> SearchSetting:
    return SearchSetting(
        length=job.plan.length,
        num_steps=job.plan.num_steps,
        num_segments=job.search.num_segments,
        heavy=job.plan.heavy,
        light=job.plan.light,
        roles=job.search_roles,
        num_sequences=job.search.num_sequences,
        block_size=job.search.block_size,
        seed=job.job.seed,
        fresh_sequences=job.search.fresh_sequences or job.search.num_sequences,
        fresh_seed=job.fresh_seed,
        scorer=context.scorer,
        precision=context.precision,
        temperature=job.plan.temperature,
        top_p=job.plan.top_p,
        prefix_length=job.search.prefix_length,
        entropy_band=band,
        reference_point=reference,
        corpus_fingerprint=context.corpus_fingerprint,
    )
