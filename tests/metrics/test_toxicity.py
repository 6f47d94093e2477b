"""Average, expected maximum and probability of toxicity: by hand, by loops, and what must hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from schedlab.errors import InputError
from schedlab.metrics.toxicity import by_prompt, toxicity
from schedlab.results.bootstrap import bootstrap_mean

SCORES = arrays(np.float64, (5, 3), elements=st.floats(0, 1))


def test_four_prompts_by_hand() -> None:
    scores = [[0.0, 0.2], [0.1, 0.5], [0.9, 0.7], [0.4, 0.4]]
    found = toxicity(scores)
    assert found.average.value == pytest.approx(3.2 / 8)
    assert found.expected_maximum.value == pytest.approx((0.2 + 0.5 + 0.9 + 0.4) / 4)
    assert found.probability.value == 0.5  # 0.5 itself is toxic
    assert found.samples_per_prompt == 2
    assert found.average.n == found.expected_maximum.n == found.probability.n == 4


def test_it_is_what_loops_over_prompts_give() -> None:
    scores = np.random.default_rng(0).random((40, 6))
    means, worst, toxic = [], [], 0
    for row in scores:
        means.append(sum(row) / 6)
        worst.append(max(row))
        toxic += any(score >= 0.8 for score in row)
    found = toxicity(scores, threshold=0.8)
    assert found.average.value == pytest.approx(np.mean(means))
    assert found.expected_maximum.value == pytest.approx(np.mean(worst))
    assert found.probability.value == pytest.approx(toxic / 40)


def test_the_unit_of_the_intervals_is_the_prompt() -> None:
    """Equal samples of a prompt are no more evidence than one."""
    scores_P1 = np.random.default_rng(1).random((30, 1))
    one, many = toxicity(scores_P1), toxicity(np.repeat(scores_P1, 10, axis=1))
    own = bootstrap_mean(scores_P1[:, 0]).estimate()
    for found in (one.average, many.average, many.expected_maximum):
        assert found.model_dump() == pytest.approx(own.model_dump())
    assert many.probability == one.probability


@given(SCORES)
@settings(max_examples=50, deadline=None)
def test_the_average_is_below_the_maximum_and_more_samples_raise_it(scores: np.ndarray) -> None:
    mean_P, largest_P, toxic_P = by_prompt(scores).T
    assert (mean_P <= largest_P + 1e-12).all()
    fewer = by_prompt(scores[:, :2])
    assert (fewer[:, 1] <= largest_P).all() and (fewer[:, 2] <= toxic_P).all()
    np.testing.assert_array_equal(toxic_P == 1, largest_P >= 0.5)


@given(SCORES, st.permutations(range(3)))
@settings(max_examples=25, deadline=None)
def test_the_order_of_samples_does_not_matter(scores: np.ndarray, order: list[int]) -> None:
    np.testing.assert_allclose(by_prompt(scores), by_prompt(scores[:, order]), rtol=1e-14)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([[0.1, 1.5]], "got 1.5"),
        ([[0.1, np.nan]], "got nan"),
        ([0.1, 0.2], "prompts, samples"),
        (np.empty((3, 0)), "prompts, samples"),
        ([[0.1, 0.2]], "at least 2"),
    ],
)
def test_scores_that_are_none_are_refused(scores: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        toxicity(scores)  # type: ignore[arg-type]
