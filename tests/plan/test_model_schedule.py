"""Model schedules: text form, merging, segments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, segment_bounds

roles = st.sampled_from(["L", "H", "M", "Hb"])
segments = st.lists(st.tuples(roles, st.integers(1, 500)), min_size=1, max_size=12)


@given(segments)
def test_text_form_round_trips(pairs):
    schedule = ModelSchedule(tuple(pairs))
    assert ModelSchedule.parse(str(schedule)) == schedule


@given(segments)
def test_steps_and_counts_agree_with_segments(pairs):
    schedule = ModelSchedule(tuple(pairs))
    assert len(schedule.steps) == schedule.num_steps == sum(count for _, count in pairs)
    assert ModelSchedule.from_steps(schedule.steps) == schedule
    assert all(schedule.count(role) == schedule.steps.count(role) for role in schedule.roles)


def test_equal_neighbours_are_merged():
    assert ModelSchedule.parse("L2 L3 H1") == ModelSchedule.parse("L5 H1")
    assert str(ModelSchedule.from_assignment("LLHH", 8)) == "L4 H4"


def test_segments_cover_steps_that_do_not_divide():
    assert segment_bounds(3, 10) == [0, 3, 6, 10]
    assert str(ModelSchedule.from_assignment(["L", "H", "L"], 10)) == "L3 H3 L4"


@pytest.mark.parametrize(
    "text", ["", "L0", "750", "l5", "L-5", "L5,H5", "L1.5", "L5 H", "L99999999", "L9999999 H9"]
)
def test_bad_schedules_are_refused_with_one_line(text):
    with pytest.raises(InputError) as caught:
        ModelSchedule.parse(text)
    assert "\n" not in str(caught.value)
