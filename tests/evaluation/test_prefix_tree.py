"""The walk over schedules, with strings as states."""

from __future__ import annotations

import pytest
from toy_lab import assignments, plan_of

from schedlab.errors import InputError
from schedlab.evaluation.prefix_tree import leaves, steps_to_run
from schedlab.plan import Plan


def spell(state: str, plan: Plan, role: str, k_from: int, k_to: int) -> str:
    assert len(state) == k_from
    return state + role * (k_to - k_from)


def test_every_plan_arrives_with_its_own_steps_and_duplicates_once() -> None:
    plans = [plan_of("H4"), plan_of("H2 L2"), plan_of("L1 H3"), plan_of("H4")]
    found = dict(leaves(plans, "", spell))
    assert found == {plan: "".join(plan.model_schedule.steps) for plan in plans}
    assert len(list(leaves(plans, "", spell))) == 3


@pytest.mark.parametrize(("num_light", "steps"), [(4, 790), (5, 922), (None, 2046)])
def test_steps_to_run_counts_shared_steps_once(num_light: int | None, steps: int) -> None:
    assert sum(steps_to_run(assignments(10, num_light)).values()) == steps


def test_steps_to_run_counts_families_apart() -> None:
    assert steps_to_run([plan_of("H4"), plan_of("H3 L1"), plan_of("H5")]) == {"H": 9, "L": 1}


def test_states_that_wait_are_at_most_one_per_level() -> None:
    alive = peak = 0

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, peak
            alive += 1
            peak = max(peak, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    for _ in leaves(assignments(9), Counted(), lambda *_: Counted()):
        pass
    # Nine levels, the leaf in hand, the state under way.
    assert peak <= 9 + 2


def test_a_schedule_that_alternates_at_every_step_needs_no_deep_recursion() -> None:
    steps = "HL" * 2_000
    plan = plan_of(" ".join(f"{role}1" for role in steps))
    other = plan_of(f"H1 L{len(steps) - 1}")
    assert dict(leaves([plan, other], "", spell))[plan] == steps


def test_plans_that_differ_in_more_than_the_schedule_are_refused() -> None:
    with pytest.raises(InputError, match="differ in the model schedule only"):
        list(leaves([plan_of("H4"), plan_of("H4", length=3)], "", spell))
