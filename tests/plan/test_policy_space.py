"""What can be tuned of every policy, and ranges as a search walks them."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.plan import PolicySpec
from schedlab.plan.plan import PolicyName
from schedlab.plan.policy_space import POLICY_SPACES, Knob, PolicySpace, Range, space_of
from schedlab.policies import (
    ALLOCATION_POLICIES,
    COMMIT_POLICIES,
    REMASK_POLICIES,
    TIMESTEP_POLICIES,
    UNIFORM_POLICIES,
    check_policy,
    default_parameters,
)

NAMES = sorted(POLICY_SPACES)


def test_every_policy_has_a_space_and_no_other_name_has() -> None:
    known = {*TIMESTEP_POLICIES, *COMMIT_POLICIES, *REMASK_POLICIES, *ALLOCATION_POLICIES}
    known |= {"first_hitting", *UNIFORM_POLICIES}
    assert set(POLICY_SPACES) == known == set(get_args(PolicyName))
    for name in known:
        assert space_of(name) is POLICY_SPACES[name]
    with pytest.raises(InputError, match="no search space"):
        space_of("unknown")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_tuned_are_parameters_of_the_policy(name: PolicyName) -> None:
    space, defaults = POLICY_SPACES[name], default_parameters(name)
    for parameter, range_ in space.ranges.items():
        assert isinstance(defaults[parameter], int if range_.whole else float), parameter
    assert space.in_blocks == (name in COMMIT_POLICIES) == ("block_length" in defaults)
    if isinstance(space.knob, Knob):
        assert set(space.knob.parameters) <= set(space.ranges)
        assert max(space.knob.parameters.values()) > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_corner_and_every_swept_value_is_accepted_by_the_policy(name: PolicyName) -> None:
    space = POLICY_SPACES[name]
    ends = [
        [(parameter, int(end) if range_.whole else end) for end in (range_.low, range_.high)]
        for parameter, range_ in space.ranges.items()
    ]
    all_ends = itertools.islice(itertools.product(*ends), 4096)
    for corner in all_ends:
        check_policy(PolicySpec(name=name, parameters=dict(corner)))
    if isinstance(space.knob, Knob):
        for value in space.knob.range.spread(9):
            check_policy(PolicySpec(name=name, parameters=space.knob.at(value)))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_lie_within_what_is_looked_at(name: PolicyName) -> None:
    """So that a search can only gain on what a policy does where nothing is said."""
    defaults = default_parameters(name)
    for parameter, range_ in POLICY_SPACES[name].ranges.items():
        assert range_.low <= float(defaults[parameter]) <= range_.high, parameter  # type: ignore[arg-type]


def test_words_are_accepted_and_the_first_is_what_a_policy_does_by_default() -> None:
    """Sweeps and seeds take the first."""
    for name, space in POLICY_SPACES.items():
        for parameter, words in space.choices.items():
            assert words[0] == default_parameters(name)[parameter] and len(words) > 1
            for word in words:
                check_policy(PolicySpec(name=name, parameters={parameter: word}))
    assert any(space.choices for space in POLICY_SPACES.values())


def test_whether_steps_are_the_knob_is_whether_steps_are_calls() -> None:
    """But for two: `prophet`'s thresholds say how many of its calls it leaves out, and
    `dream_threshold` commits at most the even share of the steps, in calls not known before."""
    for name in COMMIT_POLICIES.keys() - {"prophet", "dream_threshold"}:
        by_steps = POLICY_SPACES[name].knob == "steps"  # type: ignore[index]
        assert by_steps == (not COMMIT_POLICIES[name].by_share), name


def test_a_knob_of_several_parameters_moves_them_together() -> None:
    knob = POLICY_SPACES["prophet"].knob
    assert isinstance(knob, Knob)
    assert knob.at(2.5) == {"early": 7.5, "middle": 5.0, "late": 2.5}
    ranges = POLICY_SPACES["prophet"].ranges
    assert (ranges["early"].low, ranges["early"].high) == (1.5, 36.0)
    assert ranges["late"] == knob.range


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    scale = draw(st.sampled_from(["linear", "log", "complement"]))
    if scale == "linear":
        low = draw(st.floats(-1e3, 1e3))
        high = low + draw(st.floats(1e-2, 1e3))
        whole = draw(st.booleans())
        if whole:
            low, high = float(round(low)), float(round(high) + 1)
        return Range(low, high, "linear", whole)
    if scale == "log":
        low = draw(st.floats(1e-4, 1e2))
        high = low * draw(st.floats(1.1, 1e3))
        whole = draw(st.booleans())
        if whole:
            low, high = max(1.0, round(low)), max(1.0, round(low)) + round(high)
        return Range(low, high, "log", whole)
    high = 1 - draw(st.floats(1e-4, 0.5))
    return Range(high - draw(st.floats(1e-2, 0.4)), high, "complement")


@given(ranges(), st.integers(2, 40))
@example(Range(1 / 3, 2 / 3), 5)
@example(Range(1, 7, whole=True), 40)
@example(Range(0.3, 0.999, "complement"), 8)
def test_a_spread_rises_from_end_to_end_and_stays_within(range_: Range, num: int) -> None:
    values = range_.spread(num)
    assert values[0] == range_.low and values[-1] == range_.high
    assert all(a < b for a, b in itertools.pairwise(values))
    assert (1 if range_.low == range_.high else 2) <= len(values) <= num
    if range_.whole:
        assert all(value == round(value) for value in values)
    assert all(range_.low <= value <= range_.high for value in values)


@given(ranges().filter(lambda r: not r.whole and r.high - r.low > 0.1), st.integers(3, 9))
def test_a_spread_is_even_on_its_scale(range_: Range, num: int) -> None:
    places = {
        "linear": lambda v: v,
        "log": math.log,
        "complement": lambda v: -math.log(1 - v),
    }[range_.scale]
    found = [places(value) for value in range_.spread(num)]
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert max(steps) - min(steps) <= 0.05 * max(steps)  # values are rounded to 6 digits


def test_a_single_value_is_the_middle_of_the_scale() -> None:
    assert Range(1, 100, "log").spread(1) == [10.0]
    assert Range(0.0, 1.0).spread(1) == [0.5]
    assert Range(0.9, 0.999, "complement").spread(1) == [0.99]


def test_a_policy_without_a_knob_has_its_other_ranges_only() -> None:
    assert PolicySpace(None, {"x": Range(0, 1)}).ranges == {"x": Range(0, 1)}
    assert PolicySpace("steps").ranges == {}
