"""The plans of a search before any sampling: which families, in a fixed order, each plan once.

A plan may be proposed by several families (all-heavy is hand-made, additive and exhaustive); it is
evaluated once and carries all of their labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from schedlab.plan import ModelSchedule
from schedlab.results.search_file import Family
from schedlab.search.additive import StepCosts, sorted_assignment, sorted_schedule
from schedlab.search.space import Assignment, assignments


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


def exhaustive_schedules(
    num_steps: int,
    num_segments: int,
    *,
    heavy: str,
    lights: Sequence[str],
    num_light: int | None,
) -> list[ModelSchedule]:
    """Every assignment with `num_light` light segments (None: any number), as schedules."""
    found = assignments(num_segments, heavy=heavy, lights=lights, num_light=num_light)
    return [ModelSchedule.from_assignment(roles, num_steps) for roles in found]


def additive_assignments(
    costs: Sequence[StepCosts], light: str, num_segments: int
) -> list[Assignment]:
    """For every number of light segments 0..S, the best assignment by each score; each once."""
    return list(
        dict.fromkeys(
            sorted_assignment(cost, light, num_light, num_segments)
            for num_light in range(num_segments + 1)
            for cost in costs
        )
    )


def additive_schedules(
    costs: Sequence[StepCosts], light: str, num_segments: int, light_steps: Iterable[int] = ()
) -> list[ModelSchedule]:
    """`additive_assignments` as schedules, and the sorted schedules of single steps.

    Args:
        costs: one table per score.
        light: the light role.
        num_segments: S.
        light_steps: for each of these numbers of light steps also the best schedule at the
            granularity of steps, by each score.
    """
    num_steps = costs[0].num_steps
    coarse = [
        ModelSchedule.from_assignment(roles, num_steps)
        for roles in additive_assignments(costs, light, num_segments)
    ]
    fine = [sorted_schedule(cost, light, count) for count in light_steps for cost in costs]
    return list(dict.fromkeys(coarse + fine))
