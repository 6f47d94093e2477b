"""How well a cheap score ranks plans by sampled quality, and how well anything could.

Sampled quality is noisy, so even a perfect score would not reach a rank correlation of 1. The
ceiling: split the seed blocks into halves, correlate the two halves' qualities over plans, correct
for the halved number of sequences (Spearman-Brown, `2 r / (1 + r)`, the reliability of the full
measurement), and take the square root, which is what a noise-free score would reach against the
noisy measurement. The ceiling of Kendall's tau follows from that of rho as for normal variables
(Greiner: rho = 6 / pi asin(r / 2), tau = 2 / pi asin(r)), our own step [O].

Plans of different cost are never ranked against each other: more light steps are usually both
cheaper and worse, so a score that only counted them would look like foresight. Ranks are taken
within groups of equal budget, scaled to the group's size and centred, and correlated over all
plans; Kendall's tau counts pairs within groups. With one group this is the plain coefficient.

Intervals resample sequences, the same ones for every plan. A full resample doubles the noise of
qualities that have noise already: correlations fall and vary less than the estimate does
(coverage 0.90 for rho, 0.69 for the ceiling in a simulation). So resampling is damped (each
sequence's weight goes half of the way from 1 to its count), and the deviations from their mean
are doubled again, on Fisher's z scale (coverage 0.97 and 0.98 to 1). The interval is for the
correlation expected at this number of sequences, not at infinitely many.

Shapes: N plans, B sequences, R resamples, H random halvings.

References: Spearman 1904; Greiner 1909 (in Kruskal, JASA 1958); Kendall 1945 (tau-b); Brown 1910;
Spearman 1910.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import kendalltau, rankdata

from schedlab.errors import InputError
from schedlab.results import Estimate
from schedlab.results.bootstrap import DEFAULT_RESAMPLES, resample_counts, resampled_means

FloatArray = NDArray[np.float64]
Groups = list[NDArray[np.int64]]

MIN_BLOCKS = 4
HALVINGS = 20
CEILING_RESAMPLES = 400
DAMPING = 0.5


@dataclass(frozen=True)
class Ranking:
    """Rank correlations of a score with log Gen-PPL over N plans."""

    spearman: Estimate
    kendall: Estimate
    n_plans: int


def rank_correlation(
    score_N: ArrayLike,
    nll_BN: ArrayLike,
    tokens_BN: ArrayLike,
    *,
    budget_N: ArrayLike | None = None,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
) -> Ranking:
    """Spearman's rho and Kendall's tau-b of a score with sampled log Gen-PPL.

    Args:
        score_N: the score of every plan, shape (N,).
        nll_BN: negative log-likelihood of every sequence, nats, shape (B, N).
        tokens_BN: scored tokens of every sequence, shape (B, N).
        budget_N: plans with equal values are ranked among themselves; all, by default.
        resamples, seed: of the bootstrap over sequences.

    Raises:
        InputError: fewer than 3 plans, or a score that is the same for all of equal budget.
    """
    score = np.asarray(score_N, dtype=np.float64)
    groups = _groups(budget_N, len(score))
    _check(score, groups)
    nll, tokens = _columns(nll_BN, tokens_BN)
    num_sequences = len(nll)
    nll_N, tokens_N = nll.mean(axis=0), tokens.mean(axis=0)
    nll_RN, tokens_RN = resampled_means([nll, tokens], resamples=resamples, seed=seed)
    quality_RN = (nll_N + DAMPING * (nll_RN - nll_N)) / (
        tokens_N + DAMPING * (tokens_RN - tokens_N)
    )
    quality_RN = np.vstack([nll_N / tokens_N, quality_RN])
    rho_R = spearman(score, quality_RN, groups)
    tau_R = kendall(score, quality_RN, groups)
    return Ranking(
        spearman=_interval(float(rho_R[0]), rho_R[1:], num_sequences),
        kendall=_interval(float(tau_R[0]), tau_R[1:], num_sequences),
        n_plans=len(score),
    )


def split_half_ceiling(
    nll_BN: ArrayLike,
    tokens_BN: ArrayLike,
    block_B: ArrayLike,
    *,
    budget_N: ArrayLike | None = None,
    seed: int = 0,
) -> Estimate | None:
    """The Spearman correlation that a noise-free score would reach; None without any reliability.

    Args:
        nll_BN, tokens_BN, budget_N: as in `rank_correlation`.
        block_B: the seed block of every sequence, shape (B,). With fewer than 4 blocks sequences
            are halved instead: they are just as independent, and few blocks give few halvings.
        seed: of the random halvings and the bootstrap.
    """
    nll, tokens = _columns(nll_BN, tokens_BN)
    half_HB = _halvings(np.asarray(block_B), np.random.default_rng([seed, len(nll)]))
    groups = _groups(budget_N, nll.shape[1])
    value = _ceiling(half_HB, np.ones(len(nll)), nll, tokens, groups)
    if value == 0:
        return None
    weight_RB = 1 + DAMPING * (resample_counts(len(nll), CEILING_RESAMPLES, seed) - 1.0)
    replicates = [_ceiling(half_HB, weight_B, nll, tokens, groups) for weight_B in weight_RB]
    interval = _interval(value, np.array(replicates), len(nll))
    return interval.model_copy(update={"low": max(0.0, interval.low)})  # a root is not negative


def kendall_of_spearman(rho: Estimate) -> Estimate:
    """Kendall's tau of two normal variables with this Spearman's rho (Greiner's relations)."""
    value, low, high = (
        2 / np.pi * np.arcsin(2 * np.sin(np.pi / 6 * end))
        for end in (rho.value, rho.low, rho.high)
    )
    return Estimate(value=float(value), low=float(low), high=float(high), n=rho.n)


def spearman(
    score_N: FloatArray, quality_RN: FloatArray, groups: Groups | None = None
) -> FloatArray:
    """Spearman's rho (mean ranks for ties) of one score with R qualities, shape (R,)."""
    groups = groups or _groups(None, len(score_N))
    return _pearson(_ranks(score_N[None], groups), _ranks(quality_RN, groups))


def kendall(
    score_N: FloatArray, quality_RN: FloatArray, groups: Groups | None = None
) -> FloatArray:
    """Kendall's tau-b of one score with R qualities, shape (R,); 0 where a quality is all ties.

    Of several groups, the mean weighted by their numbers of pairs.
    """
    groups = groups or _groups(None, len(score_N))
    pairs = np.array([len(group) * (len(group) - 1) for group in groups], dtype=np.float64)
    tau_RG = [
        [kendalltau(score_N[group], quality_N[group]).statistic for group in groups]
        for quality_N in quality_RN
    ]
    return np.asarray(np.nan_to_num(np.array(tau_RG), nan=0.0) @ pairs / pairs.sum())


def _groups(budget_N: ArrayLike | None, num_plans: int) -> Groups:
    """Indices of the plans of each budget, where there is more than one to rank."""
    budgets = np.zeros(num_plans) if budget_N is None else np.asarray(budget_N)
    found = [np.flatnonzero(budgets == budget) for budget in np.unique(budgets)]
    return [group for group in found if len(group) > 1]


def _ranks(value_RN: FloatArray, groups: Groups) -> FloatArray:
    """Ranks within each group, scaled to (-1/2, 1/2); 0 for plans without a peer."""
    rank_RN = np.zeros(value_RN.shape)
    for group in groups:
        rank_RN[..., group] = rankdata(value_RN[..., group], axis=-1) / (len(group) + 1) - 0.5
    return rank_RN


def _halvings(block_B: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which sequences belong to the first half, in H random halvings; shape (H, B)."""
    units, unit_B = np.unique(block_B, return_inverse=True)
    if len(units) < MIN_BLOCKS:
        unit_B = np.arange(len(block_B))
    num_units = int(unit_B.max()) + 1
    first_HU = np.zeros((HALVINGS, num_units), dtype=bool)
    for row in first_HU:
        row[generator.permutation(num_units)[: num_units // 2]] = True
    return first_HU[:, unit_B]


def _ceiling(
    half_HB: NDArray[np.bool_],
    weight_B: FloatArray,
    nll: FloatArray,
    tokens: FloatArray,
    groups: Groups,
) -> float:
    """Root of the corrected mean correlation of the two halves; 0 without agreement."""
    first_HN, second_HN = (
        (mask_HB * weight_B @ nll) / (mask_HB * weight_B @ tokens)
        for mask_HB in (half_HB, ~half_HB)
    )
    correlation = _pearson(_ranks(first_HN, groups), _ranks(second_HN, groups)).mean()
    return float(np.sqrt(max(0.0, 2 * correlation / (1 + correlation))))


def _interval(value: float, replicates_R: FloatArray, n: int) -> Estimate:
    """From damped replicates; see the module's docstring."""
    limit = 1 - 1e-9
    z = np.arctanh(np.clip(value, -limit, limit))
    z_R = np.arctanh(np.clip(replicates_R, -limit, limit))
    low, high = np.tanh(z + np.quantile(z_R - z_R.mean(), [0.025, 0.975]) / DAMPING)
    return Estimate(value=value, low=float(min(low, value)), high=float(max(high, value)), n=n)


def _pearson(x: FloatArray, y: FloatArray) -> FloatArray:
    """Pearson correlation along the last axis, rows broadcast."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1))
    return np.asarray((x * y).sum(axis=-1) / np.where(scale > 0, scale, np.inf))


def _columns(nll_BN: ArrayLike, tokens_BN: ArrayLike) -> tuple[FloatArray, FloatArray]:
    nll, tokens = (np.asarray(values, dtype=np.float64) for values in (nll_BN, tokens_BN))
    if nll.ndim != 2 or nll.shape != tokens.shape or len(nll) < 2:
        raise InputError(
            f"quality needs (sequences, plans) arrays of one shape with at least 2 sequences,"
            f" got {nll.shape} and {tokens.shape}"
        )
    return nll, tokens


def _check(score_N: FloatArray, groups: Groups) -> None:
    if len(score_N) < 3 or not groups:
        raise InputError(
            f"a rank correlation needs at least 3 plans, two of equal budget, got {len(score_N)}"
        )
    if not np.isfinite(score_N).all() or all(np.ptp(score_N[group]) == 0 for group in groups):
        raise InputError("a rank correlation needs finite scores that are not all the same")
