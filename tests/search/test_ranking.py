from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from schedlab.errors import InputError
from schedlab.results import Estimate
from schedlab.search.ranking import (
    kendall,
    kendall_of_spearman,
    rank_correlation,
    spearman,
    split_half_ceiling,
)

NUM_PLANS, TOKENS = 80, 64


def sample(
    rng: np.random.Generator, true_N: np.ndarray, *, num_sequences: int = 32, noise: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """Per-sequence NLL of plans with true log Gen-PPL `true_N`; sequences share a difficulty."""
    log_ppl_BN = (
        true_N
        + rng.normal(0, 0.5, (num_sequences, 1))
        + rng.normal(0, noise, (num_sequences, len(true_N)))
    )
    return log_ppl_BN * TOKENS, np.full(log_ppl_BN.shape, TOKENS)


def log_ppl(nll_BN: np.ndarray, tokens_BN: np.ndarray) -> np.ndarray:
    return nll_BN.sum(axis=0) / tokens_BN.sum(axis=0)


def test_the_coefficients_are_scipys_also_with_ties() -> None:
    rng = np.random.default_rng(0)
    score = rng.integers(0, 6, 40).astype(float)
    quality = rng.integers(0, 9, (5, 40)).astype(float)
    rho_R, tau_R = spearman(score, quality), kendall(score, quality)
    for row, rho, tau in zip(quality, rho_R, tau_R, strict=True):
        assert rho == pytest.approx(scipy.stats.spearmanr(score, row).statistic)
        assert tau == pytest.approx(scipy.stats.kendalltau(score, row).statistic)


def test_plans_are_ranked_among_those_of_equal_budget() -> None:
    """What a budget as a whole costs changes nothing; one group gives the plain coefficients."""
    rng = np.random.default_rng(3)
    score, budget = rng.standard_normal(60), np.repeat([1, 2, 3], 20)
    true = 3 + 0.1 * score + 0.1 * rng.standard_normal(60)
    nll, tokens = sample(rng, true, noise=0.0)
    shifted, _ = sample(rng, true + budget, noise=0.0)
    options = {"budget_N": budget, "resamples": 100}
    within = rank_correlation(score, nll, tokens, **options)
    moved = rank_correlation(score - 5 * budget, shifted, tokens, **options)
    assert moved.spearman.value == pytest.approx(within.spearman.value)
    assert moved.kendall.value == pytest.approx(within.kendall.value)
    assert rank_correlation(-5.0 * budget + score, shifted, tokens).spearman.value < -0.5
    groups = [np.flatnonzero(budget == value) for value in (1, 2, 3)]
    each = [kendall(score[group], true[None, group])[0] for group in groups]
    assert within.kendall.value == pytest.approx(np.mean(each))
    each = [spearman(score[group], true[None, group])[0] for group in groups]
    assert within.spearman.value == pytest.approx(np.mean(each))


def test_a_score_that_only_tells_budgets_apart_is_refused() -> None:
    nll, tokens = sample(np.random.default_rng(0), np.linspace(3, 4, 6))
    with pytest.raises(InputError, match="not all the same"):
        rank_correlation([1, 1, 1, 2, 2, 2], nll, tokens, budget_N=[1, 1, 1, 2, 2, 2])


def test_a_perfect_score_without_noise_has_correlation_one() -> None:
    true = np.linspace(3, 4, NUM_PLANS)
    nll, tokens = sample(np.random.default_rng(0), true, noise=0.0)
    ranking = rank_correlation(true, nll, tokens, resamples=200)
    assert (ranking.spearman.value, ranking.kendall.value) == pytest.approx((1.0, 1.0))
    assert ranking.spearman.high <= 1.0 and ranking.n_plans == NUM_PLANS
    ceiling = split_half_ceiling(nll, tokens, np.arange(32) // 16)
    assert ceiling is not None and ceiling.value == pytest.approx(1.0)


def test_intervals_cover_the_expected_correlation() -> None:
    rng = np.random.default_rng(1)
    true = 3 + 0.05 * rng.standard_normal(NUM_PLANS)
    score = true + 0.03 * rng.standard_normal(NUM_PLANS)
    expected = np.mean([spearman(score, log_ppl(*sample(rng, true))[None])[0] for _ in range(600)])
    rankings = [
        rank_correlation(score, *sample(rng, true), resamples=200, seed=seed).spearman
        for seed in range(40)
    ]
    assert np.mean([r.value for r in rankings]) == pytest.approx(expected, abs=0.02)
    # Nominal 0.95: of 40 draws of a true 0.95 fewer than 34 hit with probability 0.01.
    assert np.mean([r.low <= expected <= r.high for r in rankings]) > 0.83


@pytest.mark.parametrize(("num_sequences", "block_size"), [(32, 16), (64, 8)])
def test_the_ceiling_is_what_the_truth_itself_would_reach(
    num_sequences: int, block_size: int
) -> None:
    rng = np.random.default_rng(2)
    true = 3 + 0.06 * rng.standard_normal(NUM_PLANS)
    perfect = np.mean(
        [
            spearman(true, log_ppl(*sample(rng, true, num_sequences=num_sequences))[None])[0]
            for _ in range(400)
        ]
    )
    block = np.arange(num_sequences) // block_size
    ceilings = [
        split_half_ceiling(*sample(rng, true, num_sequences=num_sequences), block)
        for _ in range(12)
    ]
    values = [c.value for c in ceilings if c is not None]
    assert np.mean(values) == pytest.approx(perfect, abs=0.03)
    assert sum(c.low <= perfect <= c.high for c in ceilings if c is not None) >= 10


def test_pure_noise_has_a_low_ceiling_or_none() -> None:
    rng = np.random.default_rng(3)
    ceilings = [
        split_half_ceiling(*sample(rng, np.full(NUM_PLANS, 3.0)), np.arange(32) // 16)
        for _ in range(8)
    ]
    assert sum(c is None for c in ceilings) >= 2
    assert all(c is None or c.low < 0.2 for c in ceilings)


def test_what_cannot_be_ranked_is_refused() -> None:
    nll, tokens = np.ones((4, 3)), np.ones((4, 3))
    with pytest.raises(InputError, match="at least 3 plans, two of equal budget, got 2"):
        rank_correlation([1.0, 2.0], nll[:, :2], tokens[:, :2])
    with pytest.raises(InputError, match="not all the same"):
        rank_correlation([1.0, 1.0, 1.0], nll, tokens)
    with pytest.raises(InputError, match="one shape"):
        rank_correlation([1.0, 2.0, 3.0], nll, tokens[:2])


@pytest.mark.parametrize("r", [-0.6, 0.0, 0.4, 0.95])
def test_kendall_follows_from_spearman_as_for_normal_variables(r: float) -> None:
    x, noise = np.random.default_rng(0).standard_normal((2, 20_000))
    y = r * x + np.sqrt(1 - r**2) * noise
    rho = float(scipy.stats.spearmanr(x, y).statistic)
    tau = kendall_of_spearman(Estimate(value=rho, low=-1, high=1, n=7))
    # Four standard errors of tau under independence, sqrt(4 / (9 n)).
    assert tau.value == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=0.02)
    assert (tau.low, tau.high) == pytest.approx((-1, 1)) and tau.n == 7
