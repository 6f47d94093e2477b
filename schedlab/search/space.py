"""Which schedules a search looks at: the hand-made ones, and assignments of roles to segments.

A segment assignment is a tuple of roles, one per segment of (nearly) equal length, noisiest first.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence

from schedlab.errors import BudgetError, InputError
from schedlab.plan import ModelSchedule, segment_bounds

Assignment = tuple[str, ...]

MIN_HANDMADE_STEPS = 4


def handmade(
    num_steps: int, *, heavy: str = "H", light: str = "L", share: float = 0.25
) -> dict[str, ModelSchedule]:
    """The seven hand-made schedules of arXiv 2604.02340 at any number of steps.

    A quarter of the steps is light (rounded, the same number in all five mixed schedules): the
    first, second, third or last quarter, or half at each end (the sandwich). Other shares than a
    quarter [O] keep the middles of the second and third quarter as far as they fit.

    Returns:
        Name to schedule, from all-heavy to all-light; each schedule once.

    Raises:
        InputError: fewer than 4 steps, where a quarter is not a step.
    """
    if num_steps < MIN_HANDMADE_STEPS:
        raise InputError(
            f"hand-made schedules need at least {MIN_HANDMADE_STEPS} steps, got {num_steps};"
            " use more steps or turn them off"
        )
    # Two light steps at least, so that the sandwich has two sides; except where that is half of
    # all.
    num_light = max(round(share * num_steps), 2 if num_steps > MIN_HANDMADE_STEPS else 1)
    front = max(1, num_light // 2)
    back = max(1, num_light - front)

    def window(middle: float) -> ModelSchedule:
        first = round((middle - share / 2) * num_steps)
        first = min(max(first, 0), num_steps - num_light)
        steps = [heavy] * num_steps
        steps[first : first + num_light] = [light] * num_light
        return ModelSchedule.from_steps(steps)

    sandwich = [light] * front + [heavy] * (num_steps - front - back) + [light] * back
    found = {
        "all_heavy": ModelSchedule.constant(heavy, num_steps),
        "light_first": window(0),
        "light_second": window(3 / 8),
        "light_third": window(5 / 8),
        "light_last": window(1),
        "sandwich": ModelSchedule.from_steps(sandwich),
        "all_light": ModelSchedule.constant(light, num_steps),
    }
    names: dict[ModelSchedule, str] = {}
    for name, schedule in found.items():
        names.setdefault(schedule, name)
    return {name: schedule for schedule, name in names.items()}


def assignments(
    num_segments: int,
    *,
    heavy: str = "H",
    lights: Sequence[str] = ("L",),
    num_light: int | None = None,
    limit: int = 100_000,
) -> Iterator[Assignment]:
    """All assignments of roles to segments, in a fixed order.

    Args:
        num_segments: S.
        heavy: the role of a segment that is not light.
        lights: one or more cheaper roles; with R of them there are (R + 1)^S assignments.
        num_light: only assignments with exactly this many segments not heavy: C(S, k) R^k of them
            (210 for 4 of 10); None for all.
        limit: refuse larger sets.

    Raises:
        InputError: a number of segments or light segments that is impossible, or a repeated role.
        BudgetError: more assignments than `limit`.
    """
    if num_segments < 1:
        raise InputError(f"number of segments must be >= 1, got {num_segments}")
    if num_light is not None and not 0 <= num_light <= num_segments:
        raise InputError(
            f"number of light segments must be between 0 and {num_segments}, got {num_light}"
        )
    if len({heavy, *lights}) != len(lights) + 1 or not lights:
        raise InputError(f"roles must differ, got heavy {heavy!r} and lights {list(lights)}")
    size = assignment_count(num_segments, num_lights=len(lights), num_light=num_light)
    if size > limit:
        raise BudgetError(
            f"{size} assignments of {len(lights) + 1} roles to {num_segments} segments are more"
            f" than the limit of {limit}; use fewer segments, fix num_light, or search with trials"
        )
    counts = range(num_segments + 1) if num_light is None else (num_light,)
    return (
        _place(num_segments, heavy, positions, roles)
        for count in counts
        for positions in itertools.combinations(range(num_segments), count)
        for roles in itertools.product(lights, repeat=count)
    )


def of_commonest_cost(schedules: Sequence[ModelSchedule], light: str) -> list[ModelSchedule]:
    """Those with the commonest number of light steps: what may be called best or worst of a set
    whose other members are cheaper or dearer."""
    counts = Counter(schedule.count(light) for schedule in schedules)
    commonest = {count for count, _ in counts.most_common(1)}
    return [schedule for schedule in schedules if schedule.count(light) in commonest]


def assignment_count(
    num_segments: int, *, num_lights: int = 1, num_light: int | None = None
) -> int:
    """How many assignments `assignments` yields."""
    if num_light is None:
        return int((num_lights + 1) ** num_segments)
    return int(math.comb(num_segments, num_light) * num_lights**num_light)


def assignment_of(schedule: ModelSchedule, num_segments: int) -> Assignment | None:
    """The segment assignment that gives `schedule`, or None when it switches inside a segment."""
    if not 1 <= num_segments <= schedule.num_steps:
        return None
    bounds = segment_bounds(num_segments, schedule.num_steps)
    steps = schedule.steps
    roles = tuple(steps[begin] for begin in bounds[:-1])
    return roles if ModelSchedule.from_assignment(roles, schedule.num_steps) == schedule else None


def _place(
    num_segments: int, heavy: str, positions: Sequence[int], roles: Sequence[str]
) -> Assignment:
    assignment = [heavy] * num_segments
    for position, role in zip(positions, roles, strict=True):
        assignment[position] = role
    return tuple(assignment)
