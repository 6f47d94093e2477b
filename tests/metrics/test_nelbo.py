"""Likelihood bounds against sums over all mask patterns, and against -log p(x) itself."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.nelbo import CONVENTIONS, nelbo, uniform_rate_nats

TEXT = np.array([1, 0, 3, 2])
MASK = 5


@pytest.fixture(scope="module")
def masked() -> Transformer:
    config = TransformerConfig(
        vocab_size=6, mask_id=MASK, num_blocks=2, hidden_size=16, num_heads=2, max_length=4
    )
    model = Transformer(config).double().requires_grad_(False)
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.mul_(8.0)
    return model


@pytest.fixture(scope="module")
def uniform() -> DiT:
    config = DiTConfig(
        process="uniform", vocab_size=5, mask_id=None, num_blocks=1, hidden_size=16, num_heads=2,
        cond_size=8, max_length=4, time_conditioning=True,
    )  # fmt: skip
    model = DiT(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.5, generator=generator)
    return model


def exact_masked_bound(model: Transformer) -> float:
    """Integral over t of 1/t * E[sum of masked CE], nats per window."""
    total, L = 0.0, len(TEXT)
    for size in range(1, L + 1):
        for places in itertools.combinations(range(L), size):
            z = TEXT.copy()
            z[list(places)] = MASK
            logits = model(torch.from_numpy(z)[None])[0].clone()
            logits[:, MASK] = -torch.inf
            log_p = torch.log_softmax(logits, -1)
            ce = -sum(float(log_p[i, TEXT[i]]) for i in places)
            total += ce / (size * math.comb(L, size))
    return total


@pytest.mark.parametrize(
    ("convention", "num_steps"), [("mdlm", None), ("llada", None), ("mdlm", 5_000)]
)
def test_masked_bounds_are_the_exact_one_on_average(masked, convention, num_steps) -> None:
    exact = exact_masked_bound(masked)
    windows = np.tile(TEXT, (16_000, 1))
    found = nelbo(masked, windows, convention=convention, num_steps=num_steps, batch_size=500)
    # Strata make rows of a batch dependent: batches are the independent values.
    batches = found.nats_S.reshape(-1, 500).mean(axis=1)
    standard_error = batches.std(ddof=1) / math.sqrt(len(batches))
    assert standard_error < 0.02 * exact
    # Levels below 1e-3 are left out: 0.1 % of the bound.
    assert abs(batches.mean() - exact) < 4 * standard_error + 1e-3 * exact


def test_llada_counts_are_spread_over_repeats_and_rows(masked, monkeypatch) -> None:
    seen: list[list[int]] = []
    features = masked.features

    def noting(z_BL, t_B=None):
        seen.append((z_BL == MASK).sum(dim=1).tolist())
        return features(z_BL, t_B)

    monkeypatch.setattr(masked, "features", noting)
    nelbo(masked, np.tile(TEXT, (3, 1)), convention="llada", batch_size=1, repeats=4)
    assert sorted(count for (count,) in seen) == sorted([1, 2, 3, 4] * 3)
    seen.clear()
    nelbo(masked, np.tile(TEXT, (8, 1)), convention="llada", batch_size=8)
    assert sorted(seen[0]) == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("x", [0, 2])
def test_the_uniform_bound_of_one_position_is_its_log_likelihood(x: int) -> None:
    """With one position the leave-one-out prediction is the model's distribution of text, and the
    two jump processes differ by which text they end in alone: their divergence is -log p(x)."""
    p = torch.tensor([0.5, 0.2, 0.05, 0.25], dtype=torch.float64)
    V = len(p)

    def density(alpha: float) -> float:
        z_N = torch.arange(V)
        nats = uniform_rate_nats(
            p.log().expand(V, V),
            z_N,
            torch.full((V,), x),
            torch.full((V,), alpha, dtype=torch.float64),
            torch.full((V,), -1.0, dtype=torch.float64),
        )
        weight = alpha * (z_N == x) + (1 - alpha) / V
        return float((weight * nats).sum())

    found, _ = quad(density, 0.0, 1.0, epsabs=1e-10, epsrel=1e-9, limit=200)
    assert found == pytest.approx(-math.log(float(p[x])), abs=1e-6)


def test_the_uniform_estimate_is_the_integral(uniform) -> None:
    """Against a sum over all states on a fine grid of levels."""
    L, V = 2, 5
    x = torch.tensor([[1, 3]])
    states = torch.tensor(list(itertools.product(range(V), repeat=L)))
    grid = 1e-3 + (1 - 1e-3) * (np.arange(2_000) + 0.5) / 2_000
    total = 0.0
    for t in grid:
        alpha = 1 - (1 - 1e-3) * t
        features = uniform.features(states, torch.full((len(states),), t).float())
        log_p = torch.log_softmax(uniform.logits(features).double(), -1).flatten(0, 1)
        clean = x.expand(len(states), L)
        level = torch.full((len(states) * L,), alpha, dtype=torch.float64)
        nats = uniform_rate_nats(
            log_p, states.flatten(), clean.flatten(), level, torch.full_like(level, -(1 - 1e-3))
        ).view(-1, L)
        chance = (alpha * (states == clean) + (1 - alpha) / V).prod(1)
        total += float((chance * nats.sum(1)).sum()) * (1 - 1e-3) / len(grid)
    found = nelbo(uniform, x.repeat(30_000, 1).numpy(), batch_size=1_000)
    batches = found.nats_S.reshape(-1, 1_000).mean(axis=1)
    standard_error = batches.std(ddof=1) / math.sqrt(len(batches))
    # The published levels are uniform on [eps, 1] without the factor 1 - eps.
    assert abs(batches.mean() * (1 - 1e-3) - total) < 4 * standard_error + 0.01 * total
    assert standard_error < 0.03 * total


def test_tokens_that_do_not_count_are_left_out(masked) -> None:
    windows = np.tile(TEXT, (64, 1))
    counted = np.ones_like(windows, dtype=bool)
    counted[:, 2:] = False
    some, every = (nelbo(masked, windows, counted_SL=c) for c in (counted, None))
    assert (some.tokens_S == 2).all() and (every.tokens_S == 4).all()
    assert (some.nats_S <= every.nats_S).all() and some.nats_S.sum() < every.nats_S.sum()


def test_seeds_perplexity_and_interval(masked) -> None:
    windows = np.tile(TEXT, (64, 1))
    first, again, other = (nelbo(masked, windows, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.nats_S, again.nats_S)
    assert not np.array_equal(first.nats_S, other.nats_S)
    nats, perplexity = first.per_token(), first.perplexity()
    assert perplexity.value == pytest.approx(math.exp(nats.value))
    assert nats.low < nats.value < nats.high and perplexity.low < perplexity.high
    assert nats.n == 64


def test_conventions_of_another_process_are_refused(masked, uniform) -> None:
    windows = np.tile(TEXT, (4, 1))
    for model, options, message in (
        (masked, {"convention": "duo"}, "for the uniform process"),
        (uniform, {"convention": "mdlm"}, "for the masked process"),
        (masked, {"convention": "mdml"}, f"known: {', '.join(CONVENTIONS)}"),
        (masked, {"convention": "llada", "num_steps": 10}, "num_steps is for the convention mdlm"),
    ):
        with pytest.raises(InputError, match=message):
            nelbo(model, windows, **options)
