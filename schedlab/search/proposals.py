"""What a search evaluates: hand-made, exhaustive and additive schedules, each once.

A plan may be proposed by several families (all-heavy is hand-made, additive and exhaustive); it is
evaluated once and carries all of their labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from schedlab.job import Job
from schedlab.plan import ModelSchedule, segment_bounds
from schedlab.results.search_file import Family
from schedlab.search.additive import (
    StepCosts,
    best_assignment,
    sorted_assignment,
    sorted_schedule,
)
from schedlab.search.space import Assignment, assignments, handmade

PUBLISHED_SHARE = 0.25


@dataclass
class Proposals:
    """Schedules with the families that proposed them, in order of first proposal."""

    families: dict[ModelSchedule, list[Family]] = field(default_factory=dict)
    names: dict[ModelSchedule, str] = field(default_factory=dict)

    def add(
        self, family: Family, schedules: Iterable[ModelSchedule], names: Iterable[str] = ()
    ) -> None:
        """Label schedules as proposed by `family`, and by name where names are given."""
        schedules = list(schedules)
        for schedule in schedules:
            labels = self.families.setdefault(schedule, [])
            if family not in labels:
                labels.append(family)
        self.names |= dict(zip(schedules, names, strict=False))

    def __iter__(self) -> Iterator[ModelSchedule]:
        return iter(self.families)

    def __len__(self) -> int:
        return len(self.families)

    def of(self, family: Family) -> list[ModelSchedule]:
        """Schedules that a family proposed."""
        return [schedule for schedule, labels in self.families.items() if family in labels]


def propose(
    job: Job, costs: Sequence[StepCosts] = (), share: Mapping[str, float] | None = None
) -> Proposals:
    """Everything that a job evaluates besides the proposals of a Bayesian search.

    Args:
        job: what to search.
        costs: additive step costs; the first table of each score proposes. None without analysis.
        share: role to the cost of one step, as a share of heavy's; for searches over more than
            two roles.

    Raises:
        BudgetError: more exhaustive plans than the job allows.
    """
    heavy, light, num_steps = job.plan.heavy, job.plan.light, job.plan.num_steps
    found = Proposals()
    if job.search.handmade:
        for light_share in job.search.handmade_shares:
            mixed = handmade(num_steps, heavy=heavy, light=light, share=light_share)
            _add_handmade(found, mixed, light_share)
    else:  # what everything is compared with
        ends = {"all_heavy": heavy, "all_light": light}
        schedules = [ModelSchedule.constant(role, num_steps) for role in ends.values()]
        found.add("handmade", schedules, names=ends)
    if job.search.exhaustive:
        found.add("exhaustive", _exhaustive(job))
    if job.search.additive and costs:
        first_of = {table.score: table for table in reversed(costs)}
        _add_additive(found, job, [first_of[score] for score in sorted(first_of)], share)
    return found


def check_size(job: Job) -> None:
    """Refuse an exhaustive set beyond the job's limit before anything is run.

    Raises:
        BudgetError: more exhaustive plans than the job allows.
    """
    if job.search.exhaustive:
        _exhaustive_assignments(job)


def additive_assignments(
    job: Job, costs: Sequence[StepCosts], share: Mapping[str, float] | None = None
) -> list[Assignment]:
    """For every number of light segments 0..S, the best assignment by each score; each once.

    Where the search is over more roles, also the best over all of them at the same cost.
    """
    light, num_segments = job.plan.light, job.search.num_segments
    found: list[Assignment] = []
    for num_light in range(num_segments + 1):
        for table in costs:
            found.append(sorted_assignment(table, light, num_light, num_segments))
            if share is not None and len(share.keys() & table.lights.keys()) > 1:
                budget = 1 - num_light / num_segments * (1 - share[light])
                found.append(best_assignment(table, share, budget, num_segments))
    return list(dict.fromkeys(found))


def step_budgets(job: Job) -> list[int]:
    """Numbers of light steps for which steps are sorted one by one."""
    if job.search.additive_steps is not None:
        return job.search.additive_steps
    if job.search.num_light == "all":
        return []
    return [segment_bounds(job.search.num_segments, job.plan.num_steps)[job.search.num_light]]


def _exhaustive(job: Job) -> list[ModelSchedule]:
    """Every assignment with `num_light` light segments, or with any number."""
    choices = _exhaustive_assignments(job)
    return [ModelSchedule.from_assignment(roles, job.plan.num_steps) for roles in choices]


def _exhaustive_assignments(job: Job) -> Iterator[Assignment]:
    num_light = None if job.search.num_light == "all" else job.search.num_light
    return assignments(
        job.search.num_segments,
        heavy=job.plan.heavy,
        lights=[job.plan.light],
        num_light=num_light,
        limit=job.search.max_plans,
    )


def _add_handmade(found: Proposals, schedules: Mapping[str, ModelSchedule], share: float) -> None:
    """Names of other shares than the published quarter say theirs: `sandwich_50`."""
    suffix = "" if share == PUBLISHED_SHARE else f"_{100 * share:g}"
    for name, schedule in schedules.items():
        known = schedule in found.families
        constant = len(schedule.roles) == 1
        label = name if constant else name + suffix
        found.add("handmade", [schedule], [] if known else [label])


def _add_additive(
    found: Proposals,
    job: Job,
    costs: Sequence[StepCosts],
    share: Mapping[str, float] | None,
) -> None:
    """The additive front over whole segments, and sorted steps at some budgets."""
    light = job.plan.light
    coarse = additive_assignments(job, costs, share)
    found.add(
        "additive",
        [ModelSchedule.from_assignment(roles, job.plan.num_steps) for roles in coarse],
    )
    for count in step_budgets(job):
        for table in costs:
            schedule = sorted_schedule(table, light, count)
            known = schedule in found.families
            found.add("additive", [schedule], [] if known else [f"{table.score}_{count}_steps"])
