"""Bootstrap intervals: coverage, pairing, agreement with scipy, errors."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from schedlab.errors import InputError
from schedlab.results.bootstrap import (
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_statistic,
    resample_counts,
    resampled_means,
)

NUM_TRIALS = 3_000


def coverage(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("n", [16, 32, 64])
def test_intervals_of_a_mean_cover_it_in_about_95_percent(n: int) -> None:
    # Each column is one simulated experiment; 3,000 of them give a standard error of 0.4 %.
    values = np.random.default_rng(n).normal(size=(n, NUM_TRIALS))
    intervals = bootstrap_mean(values)
    assert coverage(intervals.low, intervals.high, 0.0) == pytest.approx(0.95, abs=0.013)


def test_intervals_of_a_ratio_cover_it_in_about_95_percent() -> None:
    """Tokens per sequence vary, and NLL per token is skewed, as in Gen-PPL."""
    generator = np.random.default_rng(7)
    tokens = generator.integers(30, 60, size=(32, NUM_TRIALS))
    nll = tokens * (3 + generator.gamma(4, 0.25, size=tokens.shape))
    intervals = bootstrap_ratio(nll, tokens)
    assert coverage(intervals.low, intervals.high, 4.0) == pytest.approx(0.95, abs=0.015)


def test_intervals_of_a_skewed_mean_stay_near_95_percent() -> None:
    values = np.random.default_rng(3).exponential(size=(32, NUM_TRIALS))
    bca = bootstrap_mean(values)
    assert 0.925 < coverage(bca.low, bca.high, 1.0) < 0.96
    # BCa follows the skewness: more room above the mean than below.
    assert np.mean(bca.high - bca.value) > 1.2 * np.mean(bca.value - bca.low)


def test_pairing_makes_the_interval_of_a_difference_narrower() -> None:
    generator = np.random.default_rng(0)
    tokens = np.full(48, 64.0)
    common = generator.normal(4, 0.5, size=48) * tokens
    a = common + generator.normal(0.05, 0.05, size=48) * tokens
    paired = bootstrap_statistic(
        lambda a, na, b, nb: a / na - b / nb, a, tokens, common, tokens
    ).estimate()
    alone = bootstrap_ratio(a, tokens).estimate()
    assert paired.high - paired.low < 0.2 * (alone.high - alone.low)
    assert paired.excludes(0.0)


def test_bca_limits_agree_with_scipy_but_for_the_small_sample_expansion() -> None:
    values = np.random.default_rng(5).exponential(size=400)
    ours = bootstrap_mean(values, resamples=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    # At n = 400 the expansion is 0.4 %; the rest is resampling noise of the limits.
    width = theirs.high - theirs.low
    assert float(ours.low) == pytest.approx(theirs.low, abs=0.03 * width)
    assert float(ours.high) == pytest.approx(theirs.high, abs=0.03 * width)


def test_a_curve_gets_the_intervals_of_its_points() -> None:
    values = np.random.default_rng(2).normal(size=(20, 3, 4))
    curve = bootstrap_mean(values)
    assert curve.value.shape == (3, 4)
    point = bootstrap_mean(values[:, 1, 2]).estimate().model_dump()
    assert curve.estimate(1, 2).model_dump() == pytest.approx(point)  # sums in another order


def test_a_constant_has_an_interval_without_width() -> None:
    estimate = bootstrap_mean(np.full(16, 0.1)).estimate()
    assert estimate.low == pytest.approx(0.1) and estimate.high == pytest.approx(0.1)


def test_equal_seeds_give_equal_resamples_and_other_seeds_others() -> None:
    values = np.random.default_rng(2).normal(size=30)
    assert bootstrap_mean(values, seed=4).estimate() == bootstrap_mean(values, seed=4).estimate()
    assert bootstrap_mean(values, seed=4).low != bootstrap_mean(values, seed=5).low


def test_every_resample_draws_as_many_sequences_as_there_are() -> None:
    counts = resample_counts(12, 500, 0)
    assert (counts.sum(axis=1) == 12).all()
    # Each sequence is drawn once on average.
    assert counts.mean(axis=0) == pytest.approx(np.ones(12), abs=0.2)


def test_resampled_means_are_means_over_the_drawn_sequences() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 9, 2))
    means_a, means_b = resampled_means([a, b[:, 0]], resamples=50, seed=3)
    for counts, mean_a, mean_b in zip(resample_counts(9, 50, 3), means_a, means_b, strict=True):
        drawn = np.repeat(np.arange(9), counts)
        np.testing.assert_allclose(mean_a, a[drawn].mean(axis=0))
        np.testing.assert_allclose(mean_b, b[drawn, 0].mean())


def test_resamples_without_any_event_are_left_out() -> None:
    """A rare event: in some resamples no sequence has a denominator."""
    numerator = np.zeros(10)
    numerator[:2] = 3.0
    denominator = np.where(numerator > 0, 1.0, 0.0)
    estimate = bootstrap_ratio(numerator, denominator).estimate()
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((3.0, 3.0, 3.0))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([1.0],), "at least 2 sequences"),
        (([1.0, float("nan")],), "must be finite"),
        (([1.0, 2.0], [1.0, 2.0, 3.0]), "same 2 sequences"),
        (([1.0, 2.0], [0.0, 0.0]), "denominator zero"),
    ],
)
def test_values_without_an_interval_are_refused(
    columns: tuple[list[float], ...], message: str
) -> None:
    function = bootstrap_mean if len(columns) == 1 else bootstrap_ratio
    with pytest.raises(InputError, match=message):
        function(*columns)
