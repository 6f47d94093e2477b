"""Walking the prefix tree of model schedules.

Plans that differ only in their model schedule, run on the same noise, have equal states until
their schedules part. The walk runs every shared beginning once: 210 schedules of 10 segments (4 of
them light) take 790 segment runs instead of 2,100, all 1,024 take 2,046 instead of 10,240.

Depth first, so the states that wait at branchings are at most one per level of the path in hand,
never one per schedule. Knows neither denoisers nor tensors; any number of roles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

from schedlab.errors import InputError
from schedlab.plan import Plan

StateT = TypeVar("StateT")
Run = Callable[[StateT, Plan, str, int, int], StateT]
"""(state, plan, role, k_from, k_to) to the state after steps k_from .. k_to - 1."""


def leaves(plans: Sequence[Plan], root: StateT, run: Run[StateT]) -> Iterator[tuple[Plan, StateT]]:
    """Every plan with its final state, in the order of the walk.

    Args:
        plans: plans that differ in nothing but the model schedule and have equal numbers of steps.
        root: the state before step 0.
        run: runs one denoiser over consecutive steps; must not change the state it is given.

    Yields:
        (plan, final state); duplicates of a plan once.
    """
    unique = list(dict.fromkeys(plans))
    if len({plan.family_digest for plan in unique}) > 1:
        raise InputError("plans of one prefix tree must differ in the model schedule only")
    ends = {plan: _run_ends(plan) for plan in unique}
    # An explicit stack: a schedule may change its role at each of a thousand steps.
    waiting = [(0, unique, root)] if unique else []
    while waiting:
        k, group, state = waiting.pop()
        if k == group[0].num_steps:
            yield group[0], state
            continue
        by_role: dict[str, list[Plan]] = {}
        for plan in group:
            by_role.setdefault(plan.model_schedule.steps[k], []).append(plan)
        if len(by_role) > 1:
            waiting += [(k, part, state) for part in reversed(by_role.values())]
            continue
        (role,) = by_role
        k_to = min(ends[plan][k] for plan in group)
        waiting.append((k_to, group, run(state, group[0], role, k, k_to)))


def steps_to_run(plans: Sequence[Plan]) -> dict[str, int]:
    """Denoising steps per role that walking the trees of `plans` takes, shared ones once."""
    steps: dict[str, int] = {}

    def count(state: None, plan: Plan, role: str, k_from: int, k_to: int) -> None:
        steps[role] = steps.get(role, 0) + k_to - k_from

    families: dict[str, list[Plan]] = {}
    for plan in plans:
        families.setdefault(plan.family_digest, []).append(plan)
    for family in families.values():
        for _ in leaves(family, None, count):
            pass
    return steps


def _run_ends(plan: Plan) -> list[int]:
    """For every step, the step at which the segment that holds it ends."""
    counts = [count for _, count in plan.model_schedule.segments]
    return [
        end for count, end in zip(counts, accumulate(counts), strict=True) for _ in range(count)
    ]
