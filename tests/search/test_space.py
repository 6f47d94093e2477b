from __future__ import annotations

import math

import pytest

from schedlab.errors import BudgetError, InputError
from schedlab.plan import ModelSchedule
from schedlab.search.space import assignment_count, assignment_of, assignments, handmade


def test_the_seven_handmade_schedules_at_1000_steps_are_the_published_ones() -> None:
    assert {name: str(schedule) for name, schedule in handmade(1000).items()} == {
        "all_heavy": "H1000",
        "light_first": "L250 H750",
        "light_second": "H250 L250 H500",
        "light_third": "H500 L250 H250",
        "light_last": "H750 L250",
        "sandwich": "L125 H750 L125",
        "all_light": "L1000",
    }


@pytest.mark.parametrize("num_steps", [4, 5, 6, 7, 8, 10, 37, 50, 64, 1001])
def test_handmade_schedules_have_all_steps_and_one_budget_at_any_number_of_steps(
    num_steps: int,
) -> None:
    schedules = handmade(num_steps, heavy="Hb", light="M")
    assert len(schedules) == 7
    assert {schedule.num_steps for schedule in schedules.values()} == {num_steps}
    mixed = [s for name, s in schedules.items() if not name.startswith("all_")]
    # With 4 steps a quarter is one step, and a sandwich needs two.
    expected = {1, 2} if num_steps == 4 else {mixed[0].count("M")}
    assert {schedule.count("M") for schedule in mixed} == expected
    assert schedules["sandwich"].steps[0] == schedules["sandwich"].steps[-1] == "M"


def test_fewer_than_four_steps_have_no_quarters() -> None:
    with pytest.raises(InputError, match="at least 4 steps, got 3"):
        handmade(3)


def test_four_light_of_ten_segments_are_210_different_schedules() -> None:
    found = [ModelSchedule.from_assignment(a, 50) for a in assignments(10, num_light=4)]
    assert len(set(found)) == len(found) == 210
    assert {schedule.count("L") for schedule in found} == {20}


@pytest.mark.parametrize(
    ("num_segments", "lights", "num_light"),
    [(10, ("L",), None), (4, ("L", "M"), None), (5, ("L", "M"), 2), (6, ("L",), 0)],
)
def test_the_count_is_the_number_of_different_assignments(
    num_segments: int, lights: tuple[str, ...], num_light: int | None
) -> None:
    found = list(assignments(num_segments, lights=lights, num_light=num_light))
    assert len(set(found)) == len(found)
    assert len(found) == assignment_count(
        num_segments, num_lights=len(lights), num_light=num_light
    )
    if num_light is None:
        assert len(found) == (len(lights) + 1) ** num_segments
    else:
        assert len(found) == math.comb(num_segments, num_light) * len(lights) ** num_light


def test_every_segment_is_light_in_84_of_the_210() -> None:
    found = list(assignments(10, num_light=4))
    assert [sum(a[j] == "L" for a in found) for j in range(10)] == [84] * 10


def test_an_assignment_is_recovered_from_its_schedule() -> None:
    for assignment in assignments(5, lights=("L", "M")):
        schedule = ModelSchedule.from_assignment(assignment, 17)
        assert assignment_of(schedule, 5) == assignment


def test_a_schedule_that_switches_inside_a_segment_has_no_assignment() -> None:
    assert assignment_of(ModelSchedule.parse("L3 H7"), 5) is None
    assert assignment_of(ModelSchedule.parse("L4 H6"), 5) == ("L", "L", "H", "H", "H")
    assert assignment_of(ModelSchedule.parse("L4"), 5) is None


def test_too_large_a_set_is_refused_before_anything_is_enumerated() -> None:
    with pytest.raises(BudgetError, match="1073741824 assignments of 2 roles to 30 segments"):
        assignments(30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_segments": 0}, "number of segments must be >= 1"),
        ({"num_segments": 3, "num_light": 4}, "between 0 and 3, got 4"),
        ({"num_segments": 3, "lights": ("H",)}, "roles must differ"),
        ({"num_segments": 3, "lights": ()}, "roles must differ"),
    ],
)
def test_impossible_spaces_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        assignments(**arguments)


def test_other_shares_move_the_middles_only_as_far_as_they_must() -> None:
    half = {name: str(schedule) for name, schedule in handmade(40, share=0.5).items()}
    assert half == {
        "all_heavy": "H40",
        "light_first": "L20 H20",
        "light_second": "H5 L20 H15",
        "light_third": "H15 L20 H5",
        "light_last": "H20 L20",
        "sandwich": "L10 H20 L10",
        "all_light": "L40",
    }
    most = {name: str(schedule) for name, schedule in handmade(40, share=0.75).items()}
    assert "light_second" not in most and most["light_first"] == "L30 H10"  # the same schedule
    for share in (0.1, 0.25, 0.6):
        mixed = [s for s in handmade(40, share=share).values() if len(s.roles) > 1]
        assert {schedule.count("L") for schedule in mixed} == {round(40 * share)}
