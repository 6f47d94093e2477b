"""Do gradient norms say which tokens matter? Their correlation with what ablation does.

A classifier's gradient norm g_i at a token is a first-order guess of how much the label hangs on
it; `ablation_drop` measures that, by the drop of log p(label) without the token. The drop has a
sign and the norm has none: pass its absolute value to ask for influence in either direction.

Per sequence the correlation is over its positions, and the mean is over sequences; pooled it is
over all positions of all sequences at once, so that differences between sequences count too. Both
are of the sequences where neither quantity is the same at all positions; of the others a
correlation does not exist.

Legend: S sequences, U of them used, L positions, N positions of all sequences used.

References: Pearson; Spearman (Pearson of ranks, equal values share their mean rank). That g_i
decides which tokens are kept is of TTA (2510.26200), this check of it ours [O].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedlab.errors import InputError
from schedlab.files import Record
from schedlab.metrics.samples import FloatArray, IntArray
from schedlab.results.bootstrap import DEFAULT_RESAMPLES, bootstrap_mean, bootstrap_statistic
from schedlab.results.estimate import Estimate

BoolArray = NDArray[np.bool_]


class GradientReliability(Record):
    """Correlations of gradient norms and effects, -1 to 1, intervals over sequences.

    Args:
        pearson, spearman: means of the sequences' own.
        pooled_pearson, pooled_spearman: over all positions at once.
        used: sequences that have a correlation.
        left_out: sequences with equal values at all positions.
        positions: in the sequences used.
    """

    pearson: Estimate
    spearman: Estimate
    pooled_pearson: Estimate
    pooled_spearman: Estimate
    used: int
    left_out: int
    positions: int


def weighted_pearson(x_N: FloatArray, y_N: FloatArray, weight_N: FloatArray) -> float:
    """Pearson's correlation, with points that count by weight; NaN where a side is constant."""
    x_N, y_N = _standard(x_N, weight_N), _standard(y_N, weight_N)
    return float(np.clip((weight_N * x_N * y_N).sum(), -1.0, 1.0))


def mid_ranks(x_N: ArrayLike, weight_N: ArrayLike) -> FloatArray:
    """Weight below each value plus half of the weight of its equals, float64 (N,).

    With weights of 1 these are the mean ranks, less one half.
    """
    return _Ranking.of(np.asarray(x_N, dtype=np.float64))(np.asarray(weight_N, dtype=np.float64))


def correlations(
    gradient_SL: ArrayLike, effect_SL: ArrayLike, counted_SL: ArrayLike | None = None
) -> FloatArray:
    """Pearson's and Spearman's correlation of every sequence, float64 (S, 2).

    Args:
        gradient_SL: norms g_i.
        effect_SL: what ablation does, see `ablation_drop`.
        counted_SL: which positions count, such as those that were generated; all if None.

    Returns:
        Both correlations; NaN where either quantity is equal at all positions that count, or
        fewer than two do. Of two positions they are 1 or -1.

    Raises:
        InputError: shapes that differ, or values that are not finite where they count.
    """
    gradient_SL, effect_SL, counted = _checked(gradient_SL, effect_SL, counted_SL)
    return _correlations(gradient_SL, effect_SL, counted)


def gradient_reliability(
    gradient_SL: ArrayLike,
    effect_SL: ArrayLike,
    counted_SL: ArrayLike | None = None,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> GradientReliability:
    """Correlation over positions, by sequence and pooled, with intervals over sequences.

    The intervals of the pooled ones resample whole sequences and rank every resample anew.

    Args:
        gradient_SL, effect_SL, counted_SL: as for `correlations`.
        resamples, seed: as in `bootstrap_mean`.

    Raises:
        InputError: see `correlations`; fewer than two sequences that have one.
    """
    gradient_SL, effect_SL, counted = _checked(gradient_SL, effect_SL, counted_SL)
    own_S2 = _correlations(gradient_SL, effect_SL, counted)
    used_S = np.isfinite(own_S2[:, 0])
    used, positions = int(used_S.sum()), int(counted[used_S].sum())
    if used < 2:
        raise InputError(
            "gradient reliability needs at least 2 sequences whose values differ between"
            f" positions, got {used} of {len(used_S)}"
        )
    own = bootstrap_mean(own_S2[used_S], resamples=resamples, seed=seed)
    pool = _Pool.of(gradient_SL[used_S], effect_SL[used_S], counted[used_S])
    # Means of the columns of an identity matrix are how much each sequence weighs.
    pooled = bootstrap_statistic(pool, np.eye(used), resamples=resamples, seed=seed)
    return GradientReliability(
        pearson=own.estimate(0),
        spearman=own.estimate(1),
        pooled_pearson=pooled.estimate(0),
        pooled_spearman=pooled.estimate(1),
        used=used,
        left_out=len(used_S) - used,
        positions=positions,
    )


@dataclass(frozen=True)
class _Ranking:
    """Which of its different values, in order, each point has, int64 (N,)."""

    place_N: IntArray

    @classmethod
    def of(cls, x_N: FloatArray) -> _Ranking:
        """Sort once."""
        return cls(np.unique(x_N, return_inverse=True)[1].reshape(-1))

    def __call__(self, weight_N: FloatArray) -> FloatArray:
        """Ranks of points with weights, see `mid_ranks`."""
        weight_of_value = np.bincount(self.place_N, weights=weight_N)
        return (np.cumsum(weight_of_value) - weight_of_value / 2)[self.place_N]


@dataclass(frozen=True)
class _Pool:
    """All positions of U sequences."""

    gradient_N: FloatArray
    effect_N: FloatArray
    sequence_N: IntArray
    ranked_gradient: _Ranking
    ranked_effect: _Ranking

    @classmethod
    def of(cls, gradient_UL: FloatArray, effect_UL: FloatArray, counted_UL: BoolArray) -> _Pool:
        """Positions that count."""
        gradient_N, effect_N = gradient_UL[counted_UL], effect_UL[counted_UL]
        rankings = (_Ranking.of(gradient_N), _Ranking.of(effect_N))
        return cls(gradient_N, effect_N, np.nonzero(counted_UL)[0], *rankings)

    def __call__(self, weight_U: FloatArray) -> FloatArray:
        """Both correlations, (..., 2), of sequences that weigh (..., U)."""
        rows = [self._of_weights(row_U) for row_U in weight_U.reshape(-1, weight_U.shape[-1])]
        return np.array(rows).reshape(*weight_U.shape[:-1], 2)

    def _of_weights(self, weight_U: FloatArray) -> tuple[float, float]:
        weight_N = weight_U[self.sequence_N]
        ranks = (self.ranked_gradient(weight_N), self.ranked_effect(weight_N))
        return (
            weighted_pearson(self.gradient_N, self.effect_N, weight_N),
            weighted_pearson(*ranks, weight_N),
        )


def _checked(
    gradient_SL: ArrayLike, effect_SL: ArrayLike, counted_SL: ArrayLike | None
) -> tuple[FloatArray, FloatArray, BoolArray]:
    gradient_SL = np.asarray(gradient_SL, dtype=np.float64)
    effect_SL = np.asarray(effect_SL, dtype=np.float64)
    everywhere_SL = np.ones(gradient_SL.shape, dtype=np.bool_)
    counted = everywhere_SL if counted_SL is None else np.asarray(counted_SL, dtype=np.bool_)
    shapes = (gradient_SL.shape, effect_SL.shape, counted.shape)
    if gradient_SL.ndim != 2 or len(set(shapes)) > 1:
        raise InputError(
            "gradients, effects and which positions count must be (sequences, positions) alike,"
            f" got {', '.join(map(str, shapes))}"
        )
    if not np.isfinite([gradient_SL[counted], effect_SL[counted]]).all():
        raise InputError("gradients and effects must be finite, got NaN or infinity")
    return gradient_SL, effect_SL, counted


def _correlations(
    gradient_SL: FloatArray, effect_SL: FloatArray, counted_SL: BoolArray
) -> FloatArray:
    found_S2 = np.full((len(gradient_SL), 2), np.nan)
    for found_2, g_L, e_L, counted_L in zip(
        found_S2, gradient_SL, effect_SL, counted_SL, strict=True
    ):
        g_N, e_N, one_N = g_L[counted_L], e_L[counted_L], np.ones(counted_L.sum())
        if len(g_N) > 1 and np.ptp(g_N) > 0 and np.ptp(e_N) > 0:
            ranks = (mid_ranks(g_N, one_N), mid_ranks(e_N, one_N))
            found_2[:] = weighted_pearson(g_N, e_N, one_N), weighted_pearson(*ranks, one_N)
    return found_S2


def _standard(x_N: FloatArray, weight_N: FloatArray) -> FloatArray:
    """Weighted mean 0 and weighted sum of squares 1; the scale first, against underflow."""
    x_N = x_N - np.average(x_N, weights=weight_N)
    with np.errstate(divide="ignore", invalid="ignore"):
        x_N = x_N / np.abs(x_N).max()
        return np.asarray(x_N / np.sqrt((weight_N * x_N**2).sum()))
