"""95 % bootstrap intervals over sequences, for scalars and for whole curves at once.

The unit of resampling is the sequence (tokens of one sequence are dependent). Every statistic here
is a smooth function of column means, so a resample is a row of multinomial counts and all columns
cost one matrix product. Two calls with the same number of sequences, seed and resamples draw the
same resamples: what is compared is then paired, and intervals of differences are computed from
per-sequence pairs.

Intervals are BCa (bias-corrected, accelerated) with Hesterberg's small-sample expansion: the
normal quantile is replaced by sqrt(n / (n - 1)) times Student's quantile with n - 1 degrees of
freedom; without it intervals are too narrow at a few dozen sequences. `method="percentile"` leaves
bias correction and acceleration out.

Shapes: S sequences, R resamples, K whatever trailing shape the columns have (none, a curve,
several curves), J the statistic's shape.

References: Efron, Better bootstrap confidence intervals, JASA 1987; Hesterberg, What teachers
should know about the bootstrap, The American Statistician 2015 (sections 4 and 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import t as student_t

from schedlab.errors import InputError
from schedlab.results.estimate import Estimate

DEFAULT_RESAMPLES = 2_000
CONFIDENCE = 0.95

FloatArray = NDArray[np.float64]
Method = Literal["bca", "percentile"]
Statistic = Callable[..., FloatArray]
"""From one array of means per column, (..., K), to (..., J); the leading axes are resamples."""


@dataclass(frozen=True)
class Intervals:
    """Point values and 95 % intervals of one statistic at K places (K may be empty: a scalar)."""

    value: FloatArray
    low: FloatArray
    high: FloatArray
    n: int

    def estimate(self, *index: int) -> Estimate:
        """The estimate at one place; without index for a scalar."""
        return Estimate(
            value=float(self.value[index]),
            low=float(self.low[index]),
            high=float(self.high[index]),
            n=self.n,
        )

    def map(self, increasing: Callable[[FloatArray], FloatArray]) -> Intervals:
        """The same intervals under an increasing transformation, such as exp."""
        return Intervals(
            increasing(self.value), increasing(self.low), increasing(self.high), self.n
        )


def bootstrap_mean(
    values: ArrayLike,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    method: Method = "bca",
) -> Intervals:
    """Mean over sequences with its interval.

    Args:
        values: shape (S,) or (S, K...); pass per-sequence differences for a paired comparison.
        resamples: number of bootstrap resamples R.
        seed: of the resamples; equal seeds and S give equal resamples.
        method: "bca" or "percentile".

    Returns:
        Intervals of shape (K...).

    Raises:
        InputError: fewer than two sequences, or a value that is not finite.
    """
    return bootstrap_statistic(_identity, values, resamples=resamples, seed=seed, method=method)


def bootstrap_ratio(
    numerator: ArrayLike,
    denominator: ArrayLike,
    *,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    method: Method = "bca",
) -> Intervals:
    """Ratio of sums, sum(numerator) / sum(denominator), such as NLL per token, with its interval.

    Args:
        numerator, denominator: per-sequence sums, shapes (S,) or (S, K...).
        resamples, seed, method: as in `bootstrap_mean`.

    Returns:
        Intervals of shape (K...). Where the denominator is zero in a few resamples (rare events),
        the interval is over the other resamples.

    Raises:
        InputError: fewer than two sequences, a value that is not finite, or a denominator that
            sums to zero.
    """
    return bootstrap_statistic(
        _ratio, numerator, denominator, resamples=resamples, seed=seed, method=method
    )


def bootstrap_statistic(
    statistic: Statistic,
    *columns: ArrayLike,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    method: Method = "bca",
) -> Intervals:
    """A function of the columns' means over sequences, with its interval.

    Args:
        statistic: function of one array of means per column that keeps leading axes: elementwise,
            such as `lambda a, b, c, d: a / b - c / d` for a paired difference of two ratios of
            sums, or along the last axis, such as a contrast of curves.
        columns: per-sequence values, shapes (S,) or (S, K...).
        resamples, seed, method: as in `bootstrap_mean`.

    Returns:
        Intervals of the statistic's shape.

    Raises:
        InputError: fewer than two sequences, a value that is not finite, or a statistic that is
            undefined.
    """
    columns_SK = _checked(columns)
    num_sequences = columns_SK[0].shape[0]
    means_K = [column.mean(axis=0) for column in columns_SK]
    with np.errstate(divide="ignore", invalid="ignore"):
        value_K = np.asarray(statistic(*means_K), dtype=np.float64)
        if not np.isfinite(value_K).all():
            raise InputError(
                "the statistic must be defined on all sequences together, got a value that is"
                " not finite; is a denominator zero?"
            )
        replicates_RK = np.asarray(
            statistic(*resampled_means(columns_SK, resamples=resamples, seed=seed))
        )
        # Leave-one-out means in closed form: no n x n weights.
        left_out_SK = np.asarray(
            statistic(
                *(
                    mean + (mean - column) / (num_sequences - 1)
                    for mean, column in zip(means_K, columns_SK, strict=True)
                )
            )
        )
    low_K, high_K = _limits(value_K, replicates_RK, left_out_SK, num_sequences, method)
    return Intervals(value_K, low_K, high_K, num_sequences)


def resampled_means(
    columns_SK: list[FloatArray], *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0
) -> list[FloatArray]:
    """Means of every column in every resample: a list of (R, K...) arrays.

    For statistics that cannot be vectorised (a front): compute them per resample.
    """
    num_sequences = columns_SK[0].shape[0]
    flat = [column.reshape(num_sequences, -1) for column in columns_SK]
    stacked_SC = np.concatenate(flat, axis=1)
    counts_RS = resample_counts(num_sequences, resamples, seed)
    # Chunks keep the float64 copy of the counts small for large S.
    rows = max(1, 4_000_000 // max(1, num_sequences))
    means_RC = np.concatenate(
        [
            counts_RS[first : first + rows].astype(np.float64) @ stacked_SC
            for first in range(0, resamples, rows)
        ]
    )
    means_RC /= num_sequences
    parts = np.split(means_RC, np.cumsum([part.shape[1] for part in flat])[:-1], axis=1)
    return [
        part.reshape(resamples, *column.shape[1:])
        for part, column in zip(parts, columns_SK, strict=True)
    ]


@lru_cache(maxsize=8)
def resample_counts(num_sequences: int, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each sequence occurs in each resample, shape (R, S), read-only; rows sum to S."""
    generator = np.random.Generator(np.random.PCG64([seed, num_sequences]))
    counts_RS = np.empty((resamples, num_sequences), dtype=np.uint16)
    for row in counts_RS:
        picks = generator.integers(num_sequences, size=num_sequences)
        row[:] = np.bincount(picks, minlength=num_sequences)
    counts_RS.setflags(write=False)
    return counts_RS


def _checked(columns: tuple[ArrayLike, ...]) -> list[FloatArray]:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    num_sequences = arrays[0].shape[0] if arrays[0].ndim else 0
    if num_sequences < 2:
        raise InputError(
            "an interval over sequences needs at least 2 sequences,"
            f" got {num_sequences}; sample more"
        )
    for array in arrays:
        if array.shape[:1] != (num_sequences,):
            raise InputError(
                f"all columns must hold the same {num_sequences} sequences, got {array.shape}"
            )
        if not np.isfinite(array).all():
            raise InputError("per-sequence values must be finite, got NaN or infinity")
    return arrays


def _limits(
    value_K: FloatArray,
    replicates_RK: FloatArray,
    left_out_SK: FloatArray,
    num_sequences: int,
    method: Method,
) -> tuple[FloatArray, FloatArray]:
    shape = value_K.shape
    replicates_RC = replicates_RK.reshape(replicates_RK.shape[0], -1)
    # Undefined resamples sort to the end as NaN and are not counted.
    ordered_RC = np.sort(np.where(np.isfinite(replicates_RC), replicates_RC, np.nan), axis=0)
    defined_C = np.isfinite(ordered_RC).sum(axis=0)
    tail = (1 - CONFIDENCE) / 2
    expansion = np.sqrt(num_sequences / (num_sequences - 1))
    z = expansion * student_t.ppf(1 - tail, num_sequences - 1)
    if method == "bca":
        bias_C = _bias(ordered_RC, defined_C, value_K.reshape(-1))
        acceleration_C = _acceleration(left_out_SK.reshape(num_sequences, -1))
    else:
        bias_C = acceleration_C = np.zeros(defined_C.shape)
    limits = []
    for sign in (-1.0, 1.0):
        shifted_C = bias_C + sign * z
        level_C = ndtr(bias_C + shifted_C / (1 - acceleration_C * shifted_C))
        limits.append(_quantile(ordered_RC, defined_C, level_C).reshape(shape))
    return limits[0], limits[1]


def _bias(ordered_RC: FloatArray, defined_C: NDArray[np.int64], value_C: FloatArray) -> FloatArray:
    """z_0: normal quantile of the share of resamples below the value; ties count half."""
    # Equality up to rounding: resampled means of a constant column differ in the last bits.
    near_RC = np.isclose(ordered_RC, value_C, rtol=1e-12, atol=0.0)
    below_C = ((ordered_RC < value_C) & ~near_RC).sum(axis=0) + 0.5 * near_RC.sum(axis=0)
    share_C = below_C / defined_C
    margin = 0.5 / ordered_RC.shape[0]
    return np.asarray(ndtri(np.clip(share_C, margin, 1 - margin)))


def _acceleration(left_out_SC: FloatArray) -> FloatArray:
    """a: skewness of the jackknife over 6; zero where it is constant or undefined."""
    deviation_SC = left_out_SC.mean(axis=0) - left_out_SC
    square_C = (deviation_SC**2).sum(axis=0)
    cube_C = (deviation_SC**3).sum(axis=0)
    usable_C = np.isfinite(cube_C) & (square_C > 0)
    safe_C = np.where(usable_C, square_C, 1.0)
    return np.where(usable_C, np.where(usable_C, cube_C, 0.0) / (6 * safe_C**1.5), 0.0)


def _quantile(
    ordered_RC: FloatArray, defined_C: NDArray[np.int64], level_C: FloatArray
) -> FloatArray:
    """Linear interpolation between order statistics, with its own level in every column."""
    position_C = np.clip(level_C, 0.0, 1.0) * (defined_C - 1)
    below_C = np.floor(position_C).astype(np.int64)
    above_C = np.minimum(below_C + 1, defined_C - 1)
    column_C = np.arange(ordered_RC.shape[1])
    share_C = position_C - below_C
    low_C, high_C = ordered_RC[below_C, column_C], ordered_RC[above_C, column_C]
    return np.asarray(low_C + share_C * (high_C - low_C))


def _identity(mean: FloatArray) -> FloatArray:
    return mean


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return numerator / denominator
