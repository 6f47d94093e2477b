"""Time grids with free points fall from 1 whatever is chosen; even increments change nothing."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, Plan
from schedlab.plan.grid import spread_grid

positive = st.lists(st.floats(0.01, 100.0), min_size=1, max_size=12)


@given(increments=positive, num_steps=st.integers(1, 300))
def test_any_increments_are_a_grid(increments: list[float], num_steps: int) -> None:
    levels = spread_grid([*increments, 3.0, 1.0], num_steps)
    assert not isinstance(levels, str)
    assert len(levels) == num_steps and levels[0] == 1.0
    assert all(0 < later <= level for level, later in itertools.pairwise(levels))
    schedule = ModelSchedule.constant("H", num_steps)
    plan = Plan(length=4, model_schedule=schedule, process="uniform", time_grid=levels)
    assert Plan.from_json(plan.to_json()).digest == plan.digest


@given(size=st.integers(1, 20), num_steps=st.integers(1, 100), height=st.floats(0.1, 10.0))
def test_equal_increments_are_the_uniform_grid(size: int, num_steps: int, height: float) -> None:
    assert spread_grid([height] * size, num_steps) == "uniform"
    nearly = [height] * size + [height * (1 + 1e-9)]
    levels = [1 - k / num_steps for k in range(num_steps)]
    assert spread_grid(nearly, num_steps) == pytest.approx(levels, abs=1e-5)


def test_a_part_in_which_t_falls_more_has_fewer_levels_in_it() -> None:
    assert spread_grid([3.0, 1.0], 4) == [1.0, 0.625, 0.25, 0.125]


@pytest.mark.parametrize("increments", [[], [1.0, 0.0], [-1.0]])
def test_what_does_not_fall_is_refused(increments: list[float]) -> None:
    with pytest.raises(InputError, match="increments must be some and positive"):
        spread_grid(increments, 4)
