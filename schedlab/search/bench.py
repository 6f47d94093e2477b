"""Measurements of one search by schedule: on the search's sequences and on fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Protocol

from schedlab.job import Job
from schedlab.plan import ModelSchedule, Plan
from schedlab.results import Measurement, PlanCost, SeedBlock
from schedlab.search.front import Band, entropy_band, excess

Stage = Callable[[str], None]
"""Told what begins."""

_COUNTED = ("flops_total_S", "flops_blocks_S")


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


class Bench:
    """Measurements of this search, by schedule; runs what is missing."""

    def __init__(self, job: Job, evaluator: Evaluator) -> None:
        self.job, self.evaluator = job, evaluator
        self.heavy = ModelSchedule.constant(job.plan.heavy, job.plan.num_steps)
        self.light = ModelSchedule.constant(job.plan.light, job.plan.num_steps)
        self.measured: dict[ModelSchedule, Measurement] = {}
        self.fresh: dict[ModelSchedule, Measurement] = {}
        self._costs: dict[ModelSchedule, PlanCost] = {}
        self._heavy_of: dict[int, Measurement] = {}  # by number of blocks

    def plan(self, schedule: ModelSchedule) -> Plan:
        """The plan with this schedule."""
        return self.job.plan.plan(schedule)

    def measure(self, schedules: Iterable[ModelSchedule], num_blocks: int | None = None) -> None:
        """Fill `measured` for these, on the first or all seed blocks of the search.

        What was measured on fewer blocks gets the rest; what was measured on more stays.
        """
        self._fill(self.measured, schedules, self.job.blocks()[:num_blocks])

    def is_complete(self, schedule: ModelSchedule) -> bool:
        """Whether it was measured on all sequences of the search: racing stops some early."""
        return len(self.measured[schedule].blocks) == len(self.job.blocks())

    def heavy_beside(self, measurement: Measurement) -> Measurement:
        """All-heavy on the same sequences of the search."""
        self.measure([self.heavy], len(measurement.blocks))
        count = len(measurement.blocks)
        if count not in self._heavy_of:
            self._heavy_of[count] = self.measured[self.heavy].first_blocks(count)
        return self._heavy_of[count]

    def within_band(self, measurement: Measurement) -> bool:
        """Whether entropy stays within the band around all-heavy's on the same sequences."""
        band = self._band(self.heavy_beside(measurement))
        return excess(band, measurement.estimates["entropy"].value) <= 0

    def measure_fresh(self, schedules: Iterable[ModelSchedule]) -> None:
        """Fill `fresh` for these, on sequences that no choice depends on."""
        self._fill(self.fresh, schedules, self.job.fresh_blocks())

    @cached_property
    def band(self) -> Band:
        """The entropy band around all-heavy on the sequences of the search: common noise."""
        self.measure([self.heavy])
        return self._band(self.measured[self.heavy])

    @cached_property
    def fresh_band(self) -> Band:
        """The same on fresh sequences."""
        self.measure_fresh([self.heavy])
        return self._band(self.fresh[self.heavy])

    def _band(self, heavy: Measurement) -> Band:
        return entropy_band(
            heavy.estimates["entropy"],
            standard_errors=self.job.search.entropy_standard_errors,
            nats=self.job.search.entropy_nats,
        )

    def _fill(
        self,
        known: dict[ModelSchedule, Measurement],
        schedules: Iterable[ModelSchedule],
        blocks: Sequence[SeedBlock],
    ) -> None:
        new = [
            schedule
            for schedule in dict.fromkeys(schedules)
            if schedule not in known or len(known[schedule].blocks) < len(blocks)
        ]
        if new:
            plans = [self.plan(schedule) for schedule in new]
            known |= dict(zip(new, self.evaluator(plans, blocks), strict=True))

    def cost(self, schedule: ModelSchedule) -> PlanCost:
        """Expected cost of one sequence."""
        if schedule not in self._costs:
            self._costs[schedule] = self.evaluator.cost_of(self.plan(schedule))
        return self._costs[schedule]

    def saved(self, schedule: ModelSchedule, measure: str = "flops_total") -> float:
        """Expected share of all-heavy's cost saved.

        Expected, not counted: which steps reveal nothing is a matter of the seeds, so counted
        costs of plans with as many light steps differ by chance: a front of noise. Where the
        predictions decide how many forwards there are, nothing can be expected, and what was
        counted stands for a measured schedule.
        """
        counted = f"{measure}_S"
        known = self.job.plan.policy.calls_known
        if not known and schedule in self.measured and counted in _COUNTED:
            own = self.measured[schedule]
            heavy = self.heavy_beside(own)
            return 1.0 - float(getattr(own, counted).mean() / getattr(heavy, counted).mean())
        return self.cost(schedule).saved(self.cost(self.heavy), measure)

    def step_share(self) -> dict[str, float]:
        """Expected cost of one step of every role of the search, as a share of heavy's."""
        return {
            role: 1.0 - self.saved(ModelSchedule.constant(role, self.job.plan.num_steps))
            for role in dict.fromkeys((*self.job.search_roles, self.job.plan.light))
        }
