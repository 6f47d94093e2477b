from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.results import Estimate
from schedlab.search.front import (
    Candidates,
    entropy_band,
    hypervolume,
    non_dominated,
    pick_best,
    pick_budget,
    pick_knee,
    reference_point,
)


def candidates(log_ppl: list, saved: list, in_band: list | None = None) -> Candidates:
    return Candidates(log_ppl, saved, in_band or [True] * len(log_ppl))


def test_front_of_a_hand_drawn_set() -> None:
    # The last is dominated by the second, the third equals the second.
    np.testing.assert_array_equal(
        non_dominated([1.0, 2.0, 2.0, 3.0], [1.0, 0.5, 0.5, 0.6]), [True, True, True, False]
    )


def test_values_that_are_not_finite_are_neither_on_the_front_nor_hide_others() -> None:
    front = non_dominated([math.nan, -math.inf, 1.0, 2.0], [0.0, 0.0, 1.0, math.nan])
    np.testing.assert_array_equal(front, [False, False, True, False])
    assert hypervolume([math.nan, 1.0, 9.0], [0.1, 0.5, 0.5], (2.0, 1.0)) == pytest.approx(0.5)
    assert hypervolume([math.nan], [0.5], (2.0, 1.0)) == 0.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30))
def test_front_and_hypervolume_agree_with_definitions(seed: int, num_plans: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 8, (num_plans, 2)) / 8  # ties on purpose
    front = non_dominated(points[:, 0], points[:, 1])
    for i, point in enumerate(points):
        beaten = ((points <= point).all(axis=1) & (points < point).any(axis=1)).any()
        assert front[i] == (not beaten)
    # The unit square on the same lattice: cells dominated by some point.
    cells = np.stack(np.meshgrid(np.arange(8), np.arange(8)), axis=-1).reshape(-1, 2) / 8
    dominated = (points[None] <= cells[:, None]).all(axis=-1).any(axis=1)
    assert hypervolume(points[:, 0], points[:, 1], (1.0, 1.0)) == pytest.approx(dominated.mean())


def test_the_reference_point_is_a_tenth_beyond_both_constant_schedules() -> None:
    log_ppl, cost = reference_point(math.log(50), math.log(80))
    assert (math.exp(log_ppl), cost) == pytest.approx((88.0, 1.1))


def test_the_entropy_band_is_the_wider_of_standard_errors_and_nats() -> None:
    sure = Estimate(value=4.0, low=3.99, high=4.01, n=64)
    unsure = Estimate(value=4.0, low=3.8, high=4.2, n=16)
    assert entropy_band(sure) == pytest.approx((3.9, 4.1))
    low, high = entropy_band(unsure)
    assert high - 4.0 == pytest.approx(3 * 0.4 / (2 * 1.959964)) and low == pytest.approx(8 - high)
    assert entropy_band(sure, nats=0.5) == pytest.approx((3.5, 4.5))


def test_best_saves_something_and_stays_within_the_band() -> None:
    # 0 is all-heavy, 1 is better still but its entropy collapsed, 2 is the honest best.
    found = candidates([3.0, 2.0, 3.1, 3.2], [0.0, 0.2, 0.2, 0.6], [True, False, True, True])
    assert pick_best(found) == 2
    assert pick_best(candidates([3.0], [0.0])) is None
    assert pick_best(candidates([math.nan, 3.0], [0.5, 0.1])) == 1


def test_of_equally_good_plans_the_one_that_saves_more_is_best() -> None:
    assert pick_best(candidates([3.0, 2.5, 2.5], [0.0, 0.1, 0.2])) == 2


def test_a_budget_pick_saves_at_least_that_much() -> None:
    found = candidates([3.0, 3.1, 3.3, 3.9], [0.0, 0.2, 0.4, 0.7])
    picks = [pick_budget(found, saving) for saving in (0.1, 0.2, 0.3, 0.7, 0.8)]
    assert picks == [1, 1, 2, 3, None]


def test_the_knee_of_a_bent_front_is_its_corner() -> None:
    # Cheap until 0.5 is saved, dear beyond.
    saved = np.linspace(0, 0.7, 8)
    log_ppl = np.where(saved <= 0.5, 3 + 0.1 * saved, 3.05 + 4 * (saved - 0.5))
    assert pick_knee(Candidates(log_ppl, saved, np.ones(8, bool))) == 5


def test_the_knee_is_never_dominated_nor_outside_the_band() -> None:
    found = candidates(
        [3.0, 3.3, 3.05, 2.0, 3.6], [0.0, 0.3, 0.4, 0.5, 0.7], [True, True, True, False, True]
    )
    assert pick_knee(found) == 2


def test_without_an_interior_point_the_knee_is_the_end_that_saves_more() -> None:
    assert pick_knee(candidates([3.0, 3.5], [0.0, 0.6])) == 1
    assert pick_knee(candidates([3.0], [0.0])) is None
    # A plan that is better and cheaper than all-heavy leaves a front of one.
    assert pick_knee(candidates([3.0, 2.9, 3.5], [0.0, 0.5, 0.3])) == 1


def test_candidates_of_different_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="one value per plan"):
        Candidates([1.0, 2.0], [0.0], [True])
