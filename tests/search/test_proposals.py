from __future__ import annotations

from planted import planted_costs, planted_job

from schedlab.plan import ModelSchedule
from schedlab.search.proposals import Proposals, additive_assignments, propose, step_budgets


def test_the_additive_front_spans_every_budget() -> None:
    found = additive_assignments(planted_costs(), "L", 10)
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
