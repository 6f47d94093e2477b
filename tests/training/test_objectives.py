"""The held-out loss against the exact bound of a small model, summed over all mask patterns."""

import itertools
import math

import numpy as np
import pytest
import torch

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.training.batches import masked_batch
from schedlab.training.objectives import (
    cross_entropy_at,
    held_out_losses,
    mean_with_interval,
    weighted_cross_entropy,
)

TEXT = np.array([1, 0, 3, 2])
MASK = 5


def _model(*, causal: bool = False) -> Transformer:
    config = TransformerConfig(
        vocab_size=6, mask_id=MASK, num_blocks=2, hidden_size=16, num_heads=2, max_length=4,
        causal=causal,
    )  # fmt: skip
    model = Transformer(config).double()
    model.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.head.weight.mul_(8.0)  # sharp enough that the losses differ between patterns
    return model


def _exact_nelbo(model: Transformer) -> float:
    """Integral over t of 1/t * E[sum of masked CE]: a Beta integral for every mask pattern."""
    total, L = 0.0, len(TEXT)
    for size in range(1, L + 1):
        weight = math.gamma(size) * math.gamma(L - size + 1) / math.gamma(L + 1)
        for masked in itertools.combinations(range(L), size):
            z = TEXT.copy()
            z[list(masked)] = MASK
            logits = model(torch.from_numpy(z)[None])[0].clone()
            logits[:, MASK] = -torch.inf
            log_p = torch.log_softmax(logits, -1)
            total += weight * -sum(float(log_p[i, TEXT[i]]) for i in masked)
    return total / L


def test_held_out_loss_is_the_exact_nelbo_on_average() -> None:
    model = _model()
    exact = _exact_nelbo(model.requires_grad_(False))
    losses = held_out_losses(model, np.tile(TEXT, (8_000, 1)), levels=4, seed=0, chunk=2000)
    standard_error = losses.std() / math.sqrt(len(losses))
    assert standard_error < 0.03 * exact
    assert abs(losses.mean() - exact) < 4 * standard_error


def test_training_loss_is_the_exact_nelbo_on_average() -> None:
    model = _model().requires_grad_(False)
    exact = _exact_nelbo(model)
    losses = []
    for step in range(400):
        tokens = np.tile(TEXT, (256, 1))
        batch = masked_batch(tokens, mask_id=MASK, smallest_t=1e-4, seed=3, step=step)
        arrays = (batch.input_BL, batch.read_N, batch.target_N, batch.weight_N)
        losses.append(float(weighted_cross_entropy(model, *map(torch.from_numpy, arrays))))
    standard_error = np.std(losses) / math.sqrt(len(losses))
    assert standard_error < 0.02 * exact
    assert abs(np.mean(losses) - exact) < 4 * standard_error


@pytest.mark.parametrize("causal", [False, True])
def test_chunks_do_not_change_the_losses(causal: bool) -> None:
    tokens = np.random.default_rng(0).integers(5, size=(30, 4))
    model = _model(causal=causal)
    whole = held_out_losses(model, tokens, levels=3, seed=1, chunk=30)
    parts = held_out_losses(model, tokens, levels=3, seed=1, chunk=7)
    assert np.allclose(whole, parts, rtol=1e-6)
    assert whole.shape == (30,)


def test_scorer_loss_is_the_mean_cross_entropy_of_the_following_tokens() -> None:
    model = _model(causal=True).requires_grad_(False)
    log_p = torch.log_softmax(model(torch.from_numpy(TEXT)[None])[0], -1)
    expected = -np.mean([float(log_p[i, TEXT[i + 1]]) for i in range(3)])
    assert held_out_losses(model, TEXT[None], levels=1, seed=0)[0] == pytest.approx(expected)


def test_a_denoiser_never_predicts_the_mask() -> None:
    model = _model().requires_grad_(False)
    z = torch.full((1, 4), MASK)
    ce = torch.stack(
        [cross_entropy_at(model, z, torch.arange(4), torch.full((4,), v)) for v in range(5)]
    )
    assert torch.allclose(torch.exp(-ce).sum(0), torch.ones(4, dtype=torch.float64))


def test_interval_covers_at_its_rate() -> None:
    rng = np.random.default_rng(0)
    covered = [
        (e := mean_with_interval(rng.exponential(size=60))).low <= 1.0 <= e.high
        for _ in range(2000)
    ]
    assert 0.92 < np.mean(covered) < 0.97
    assert mean_with_interval(np.array([2.0])).n == 1
