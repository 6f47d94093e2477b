from __future__ import annotations

import pytest
from planted import planted_costs, planted_job

from schedlab.plan import ModelSchedule
from schedlab.search.additive import additive_score
from schedlab.search.proposals import Proposals, additive_assignments, propose, step_budgets
from schedlab.search.space import assignments


def test_the_additive_front_spans_every_budget() -> None:
    found = additive_assignments(planted_job(), planted_costs())
    assert {assignment.count("L") for assignment in found} == set(range(11))
    # Two scores, and both agree where nothing or everything is light.
    assert 11 <= len(found) == len(set(found)) <= 20


def test_a_schedule_proposed_twice_is_kept_once_with_both_labels() -> None:
    proposals = Proposals()
    schedules = [ModelSchedule.parse(text) for text in ("H6", "L6", "L3 H3")]
    proposals.add("handmade", schedules[:2], names=["a", "b"])
    proposals.add("exhaustive", schedules[::-1])
    assert list(proposals) == schedules
    assert proposals.families[schedules[1]] == ["handmade", "exhaustive"]
    assert proposals.names == {schedules[0]: "a", schedules[1]: "b"}
    assert proposals.of("handmade") == schedules[:2] and len(proposals) == 3


def test_a_job_proposes_each_schedule_once_and_sorts_steps_at_the_exhaustive_budget() -> None:
    job = planted_job(num_light=3)
    found = propose(job, planted_costs())
    assert len(found) == len(set(found))
    assert step_budgets(job) == [6]  # 3 of 10 segments, 20 steps
    sorted_steps = [s for s, name in found.names.items() if name.endswith("_6_steps")]
    assert sorted_steps and {s.count("L") for s in sorted_steps} == {6}
    assert len(found.of("exhaustive")) == 120 and len(found.of("handmade")) == 7


def test_the_constant_schedules_are_there_whatever_is_turned_off() -> None:
    job = planted_job(handmade=False, exhaustive=False, additive=False)
    assert [str(schedule) for schedule in propose(job, planted_costs())] == ["H20", "L20"]


def test_budgets_of_single_steps_can_be_chosen() -> None:
    assert step_budgets(planted_job(additive_steps=[3, 5])) == [3, 5]
    assert step_budgets(planted_job(num_light="all")) == []


def test_with_three_roles_the_additive_front_mixes_them_at_the_same_cost() -> None:
    job = planted_job(roles=["H", "M", "L"])
    share = {"H": 1.0, "M": 0.7, "L": 0.4}
    (table, _), two = planted_costs(), set(additive_assignments(job, planted_costs()[:1]))
    mixed = [a for a in additive_assignments(job, [table], share) if a not in two]
    assert mixed and all("M" in assignment for assignment in mixed)

    def score(assignment: tuple[str, ...]) -> float:
        return additive_score(table, ModelSchedule.from_assignment(assignment, 20))

    def cost(assignment: tuple[str, ...]) -> float:
        return sum(share[role] for role in assignment)

    everything = list(assignments(10, lights=["M", "L"]))
    for num_light in range(11):
        budget = 10 - 0.6 * num_light + 1e-9
        lowest = min(score(a) for a in everything if cost(a) <= budget)
        reached = min(score(a) for a in (*two, *mixed) if cost(a) <= budget)
        assert reached == pytest.approx(lowest)


def test_hand_made_schedules_of_several_shares_are_named_by_them() -> None:
    job = planted_job(handmade_shares=[0.25, 0.5], exhaustive=False, additive=False)
    found = propose(job)
    assert found.names[ModelSchedule.parse("L2 H15 L3")] == "sandwich"
    assert found.names[ModelSchedule.parse("L5 H10 L5")] == "sandwich_50"
    assert (
        len(found.of("handmade")) == 12 and found.names[ModelSchedule.parse("L20")] == "all_light"
    )
