"""Correlations of gradient norms and effects: by hand, against scipy, by loops, invariants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from schedlab.errors import InputError
from schedlab.metrics.gradient_reliability import (
    correlations,
    gradient_reliability,
    mid_ranks,
    weighted_pearson,
)
from schedlab.results.bootstrap import resample_counts

FEW = 200
SMALL = arrays(np.float64, 9, elements=st.integers(-3, 3).map(float))


def noisy(sequences: int = 12, length: int = 10, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Norms, effects that go with them, and a mask."""
    generator = np.random.default_rng(seed)
    gradient_SL = generator.gamma(2.0, size=(sequences, length))
    effect_SL = gradient_SL + generator.normal(size=gradient_SL.shape)
    effect_SL += generator.normal(size=(sequences, 1))
    return gradient_SL, effect_SL, generator.random(gradient_SL.shape) < 0.8


def test_three_positions_by_hand() -> None:
    """Deviations (-2, -1, 3) and (-1, 1, 0), ranks 1 2 3 and 1 3 2."""
    found = correlations([[0.0, 1, 5]], [[0.0, 2, 1]])
    np.testing.assert_allclose(found, [[1 / np.sqrt(14 * 2), 0.5]])


def test_every_sequence_is_correlated_as_by_scipy_where_it_counts() -> None:
    gradient_SL, effect_SL, counted_SL = noisy()
    effect_SL = effect_SL.round(0)  # ties
    found = correlations(gradient_SL, effect_SL, counted_SL)
    for row, (pearson, spearman) in enumerate(found):
        pair = gradient_SL[row][counted_SL[row]], effect_SL[row][counted_SL[row]]
        assert pearson == pytest.approx(stats.pearsonr(*pair)[0])
        assert spearman == pytest.approx(stats.spearmanr(*pair)[0])


def test_all_figures_are_those_of_loops_and_scipy() -> None:
    gradient_SL, effect_SL, counted_SL = noisy()
    effect_SL = effect_SL.round(0)
    found = gradient_reliability(gradient_SL, effect_SL, counted_SL, resamples=FEW)
    own = correlations(gradient_SL, effect_SL, counted_SL)
    pool = gradient_SL[counted_SL], effect_SL[counted_SL]
    assert found.pearson.value == pytest.approx(own[:, 0].mean())
    assert found.spearman.value == pytest.approx(own[:, 1].mean())
    assert found.pooled_pearson.value == pytest.approx(stats.pearsonr(*pool)[0])
    assert found.pooled_spearman.value == pytest.approx(stats.spearmanr(*pool)[0])
    assert (found.used, found.left_out, found.positions) == (12, 0, counted_SL.sum())
    for one in (found.pearson, found.spearman, found.pooled_pearson, found.pooled_spearman):
        assert one.low < one.value < one.high and one.n == 12


def test_pooled_intervals_are_of_resamples_of_whole_sequences_ranked_anew() -> None:
    """The weighted figures are those of the texts written out as often as they were drawn."""
    gradient_SL, effect_SL, _ = noisy(6, 5, seed=3)
    effect_SL = effect_SL.round(0)
    for counts_S in resample_counts(6, 5, 0).astype(np.int64):
        written = [np.repeat(x_SL, counts_S, axis=0).reshape(-1)
                   for x_SL in (gradient_SL, effect_SL)]  # fmt: skip
        weight_N = np.repeat(counts_S / 6, 5)
        ranks = [mid_ranks(x_SL.reshape(-1), weight_N) for x_SL in (gradient_SL, effect_SL)]
        found = weighted_pearson(ranks[0], ranks[1], weight_N)
        assert found == pytest.approx(stats.spearmanr(*written)[0], abs=1e-12)
        found = weighted_pearson(gradient_SL.reshape(-1), effect_SL.reshape(-1), weight_N)
        assert found == pytest.approx(stats.pearsonr(*written)[0], abs=1e-12)


def test_sequences_of_equal_values_are_left_out_and_counted() -> None:
    gradient_SL, effect_SL, counted_SL = noisy()
    expected = gradient_reliability(gradient_SL, effect_SL, counted_SL, resamples=FEW)
    saturated = np.zeros((1, 10))
    single = np.arange(10) == 4
    rows = [
        (saturated, effect_SL[:1], counted_SL[:1]),
        (gradient_SL[:1], saturated + 0.1, counted_SL[:1]),
        (gradient_SL[:1], effect_SL[:1], single[None]),
    ]
    columns = zip((gradient_SL, effect_SL, counted_SL), zip(*rows, strict=True), strict=True)
    more = [np.concatenate([own, *parts]) for own, parts in columns]
    assert np.isnan(correlations(*more)[12:]).all()
    found = gradient_reliability(*more, resamples=FEW)
    assert found.left_out == 3 and found == expected.model_copy(update={"left_out": 3})


def test_pooling_sees_differences_between_sequences_and_the_mean_does_not() -> None:
    gradient_SL = np.array([[1.0, 2, 3], [11, 12, 13], [21, 22, 23]])
    effect_SL = np.array([[3.0, 2, 1], [13, 12, 11], [23, 22, 21]])
    found = gradient_reliability(gradient_SL, effect_SL, resamples=FEW)
    assert found.pearson.value == found.spearman.value == pytest.approx(-1)
    assert found.pooled_pearson.value > 0.9 and found.pooled_spearman.value > 0.7


@given(SMALL, SMALL)
@settings(max_examples=80, deadline=None)
def test_correlations_are_symmetric_and_ignore_scale_place_and_monotone_maps(
    x: np.ndarray, y: np.ndarray
) -> None:
    one, other = correlations([x], [y]), correlations([y], [x])
    np.testing.assert_allclose(one, other, atol=1e-12)
    undefined = np.ptp(x) == 0 or np.ptp(y) == 0
    assert np.isnan(one).all() == undefined
    np.testing.assert_allclose(correlations([3 * x + 7], [-y]), -one, atol=1e-12)
    np.testing.assert_allclose(correlations([x * 1e-200], [y]), one, atol=1e-12)
    np.testing.assert_allclose(correlations([np.exp(x)], [y])[:, 1], one[:, 1], atol=1e-12)
    assert undefined or (np.abs(one) <= 1).all()


@given(SMALL)
@settings(max_examples=40, deadline=None)
def test_ranks_with_equal_weights_are_mean_ranks(x: np.ndarray) -> None:
    np.testing.assert_allclose(mid_ranks(x, np.ones(9)), stats.rankdata(x) - 0.5)


@pytest.mark.parametrize("masked", [False, True])
def test_values_must_be_finite_where_they_count(masked: bool) -> None:
    gradient_SL, effect_SL, _ = noisy(3)
    counted_SL = np.ones_like(gradient_SL, dtype=bool)
    gradient_SL[1, 2] = np.nan
    counted_SL[1, 2] = not masked
    if masked:
        assert np.isfinite(correlations(gradient_SL, effect_SL, counted_SL)).all()
    else:
        with pytest.raises(InputError, match="finite"):
            correlations(gradient_SL, effect_SL, counted_SL)


def test_arrays_that_do_not_fit_and_too_few_sequences_are_refused() -> None:
    gradient_SL, effect_SL, _ = noisy(3)
    with pytest.raises(InputError, match="alike"):
        correlations(gradient_SL, effect_SL[:2])
    with pytest.raises(InputError, match="at least 2 sequences whose values differ.* got 1 of 3"):
        gradient_SL[:2] = 0
        gradient_reliability(gradient_SL, effect_SL)
