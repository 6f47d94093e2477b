"""The held-out loss against the exact bound of a small model, summed over all mask patterns."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.training import objectives
from schedlab.training.batches import Batch, masked_batch
from schedlab.training.objectives import (
    held_out_losses,
    losses_at,
    mean_with_interval,
    weighted_loss,
)

TEXT = np.array([1, 0, 3, 2])
MASK = 5


def _model(*, causal: bool = False, seed: int = 0) -> Transformer:
    config = TransformerConfig(
        vocab_size=6, mask_id=MASK, num_blocks=2, hidden_size=16, num_heads=2, max_length=4,
        causal=causal,
    )  # fmt: skip
    model = Transformer(config).double()
    model.init_weights(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        model.head.weight.mul_(8.0)  # sharp enough that the losses differ between patterns
    return model


def _patterns() -> Iterator[tuple[float, list[int], Tensor]]:
    """Weight, masked positions and state of every mask pattern: the integral over t of 1/t times
    its probability is a Beta integral."""
    L = len(TEXT)
    for size in range(1, L + 1):
        weight = math.gamma(size) * math.gamma(L - size + 1) / math.gamma(L + 1)
        for masked in itertools.combinations(range(L), size):
            z = TEXT.copy()
            z[list(masked)] = MASK
            yield weight / L, list(masked), torch.from_numpy(z)[None]


def _log_p(model: Transformer, z_1L: Tensor) -> Tensor:
    logits = model(z_1L)[0].clone()
    logits[:, MASK] = -torch.inf
    return torch.log_softmax(logits, -1)


def _exact_nelbo(model: Transformer) -> float:
    """Integral over t of 1/t * E[sum of masked CE]."""
    return sum(
        weight * -sum(float(_log_p(model, z)[i, TEXT[i]]) for i in masked)
        for weight, masked, z in _patterns()
    )


def _exact_divergence(model: Transformer, heavy: Transformer) -> float:
    """Integral over t of 1/t * E[sum of masked KL(heavy || model)]."""
    total = 0.0
    for weight, masked, z in _patterns():
        log_p, log_q = (_log_p(m, z)[masked, :MASK] for m in (model, heavy))
        total += weight * float((log_q.exp() * (log_q - log_p)).sum())
    return total


def _tensors(batch: Batch) -> list[Tensor]:
    arrays = (batch.input_BL, batch.t_B, batch.read_N, batch.target_N, batch.weight_N)
    return [torch.from_numpy(array) for array in arrays]


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
        losses.append(float(weighted_loss(model, None, 1.0, *_tensors(batch))))
    standard_error = np.std(losses) / math.sqrt(len(losses))
    assert standard_error < 0.02 * exact
    assert abs(np.mean(losses) - exact) < 4 * standard_error


def test_on_a_grid_training_loss_is_the_exact_nelbo_of_so_many_steps() -> None:
    """Mean over steps of -log p of what is revealed: 1/k of the masked tokens at t = k/N."""
    model, N, L = _model().requires_grad_(False), 3, len(TEXT)
    for weight in model.parameters():
        weight.mul_(8)  # a prediction that hangs on what is masked
    exact = 0.0
    for _, masked, z in _patterns():
        nats = -sum(float(_log_p(model, z)[i, TEXT[i]]) for i in masked)
        for k in range(1, N + 1):
            share = (k / N) ** len(masked) * (1 - k / N) ** (L - len(masked))
            exact += nats * share / k / L
    assert abs(exact - _exact_nelbo(model)) > 0.02 * exact  # else nothing is told apart
    losses = []
    for step in range(250):
        batch = masked_batch(
            np.tile(TEXT, (256, 1)), mask_id=MASK, smallest_t=1e-4, seed=3, step=step, grid_steps=N
        )
        assert set(batch.t_B) == {np.float32(k / N) for k in range(1, N + 1)}
        losses.append(float(weighted_loss(model, None, 1.0, *_tensors(batch))))
    standard_error = np.std(losses) / math.sqrt(len(losses))
    assert standard_error < 0.01 * exact
    assert abs(np.mean(losses) - exact) < 4 * standard_error


def test_held_out_divergence_is_the_exact_one_on_average() -> None:
    model, heavy = (_model(seed=seed).requires_grad_(False) for seed in (0, 1))
    exact = _exact_divergence(model, heavy)
    tokens = np.tile(TEXT, (8_000, 1))
    found = held_out_losses(model, tokens, levels=4, seed=0, chunk=2000, heavy=heavy)
    standard_error = found.std() / math.sqrt(len(found))
    assert standard_error < 0.03 * exact
    assert abs(found.mean() - exact) < 4 * standard_error
    assert np.abs(held_out_losses(heavy, tokens[:9], levels=2, seed=0, heavy=heavy)).max() < 1e-12


def test_a_mixed_loss_is_the_mixture() -> None:
    model, heavy = _model(), _model(seed=1)
    batch = masked_batch(np.tile(TEXT, (64, 1)), mask_id=MASK, smallest_t=0.1, seed=3, step=0)
    kl, mixed, ce = (
        float(weighted_loss(model, heavy, weight, *_tensors(batch)).detach())
        for weight in (0.0, 0.3, 1.0)
    )
    assert mixed == pytest.approx(0.7 * kl + 0.3 * ce)
    assert ce == float(weighted_loss(model, None, 1.0, *_tensors(batch)).detach())
    weighted_loss(model, heavy, 0.3, *_tensors(batch)).backward()
    assert model.head.weight.grad is not None and heavy.head.weight.grad is None


def test_logits_in_parts_give_the_same_loss_and_gradients(monkeypatch) -> None:
    heavy = _model(seed=1)
    batch = masked_batch(np.tile(TEXT, (16, 1)), mask_id=MASK, smallest_t=0.1, seed=3, step=0)
    found = []
    for most in (1 << 27, 6 * 7, 1):
        monkeypatch.setattr(objectives, "_MOST_LOGITS", most)
        model = _model()
        loss = weighted_loss(model, heavy, 0.3, *_tensors(batch))
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    for parts in found[1:]:
        for whole, part in zip(found[0], parts, strict=True):
            assert torch.allclose(whole, part, rtol=1e-12, atol=1e-14)


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
        [
            losses_at(model, z, torch.ones(1), torch.arange(4), torch.full((4,), v))
            for v in range(5)
        ]
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
