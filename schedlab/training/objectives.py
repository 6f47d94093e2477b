"""The training loss and its estimate on held-out windows.

Legend: B windows, L positions, N read positions, V vocabulary, S held-out windows.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from schedlab.denoisers.transformer import Transformer
from schedlab.results import Estimate
from schedlab.training.batches import mask_at_levels, next_token_batch


def weighted_cross_entropy(
    model: Transformer, input_BL: Tensor, read_N: Tensor, target_N: Tensor, weight_N: Tensor
) -> Tensor:
    """Sum over read positions of weight * -log p(target), a scalar in nats."""
    return (cross_entropy_at(model, input_BL, read_N, target_N) * weight_N).sum()


def cross_entropy_at(
    model: Transformer, input_BL: Tensor, read_N: Tensor, target_N: Tensor
) -> Tensor:
    """-log p(target) at read positions.

    Args:
        model: a denoiser, which never predicts the mask token (SUBS), or a scorer.
        input_BL: (B, L) int64 tokens.
        read_N: (N,) int64 positions in the flattened (B * L) input.
        target_N: (N,) int64 true tokens.

    Returns:
        (N,) float32 (float64 for a float64 model), in nats.
    """
    features_ND = model.features(input_BL).flatten(0, 1)[read_N]
    logits_NV = model.logits(features_ND)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    if not model.config.causal:
        forbidden_V = torch.zeros(logits_NV.shape[1], device=logits_NV.device)
        forbidden_V[model.config.mask_id] = float("-inf")
        logits_NV = logits_NV + forbidden_V
    return F.cross_entropy(logits_NV, target_N, reduction="none")


def held_out_loss(
    model: Transformer, tokens_SL: np.ndarray, *, levels: int, seed: int, chunk: int = 64
) -> Estimate:
    """Mean of `held_out_losses` with its 95 % interval over windows, in nats per token."""
    losses_S = held_out_losses(model, tokens_SL, levels=levels, seed=seed, chunk=chunk)
    return mean_with_interval(losses_S)


@torch.inference_mode()
def held_out_losses(
    model: Transformer, tokens_SL: np.ndarray, *, levels: int, seed: int, chunk: int = 64
) -> np.ndarray:
    """Loss of each held-out window.

    Denoisers: an unbiased estimate of the continuous NELBO, which is at least -log p(x) / L, with
    one noise level in each of `levels` equal parts of (0, 1]. Levels and masks follow from the
    seed and are the same for every model, so that losses of two models can be paired.
    Scorers: cross-entropy of the tokens after the first.

    Args:
        tokens_SL: (S, L) int64 windows.
        levels: noise levels per window (denoisers).
        seed: of the levels and masks (denoisers).
        chunk: windows per forward; bounds memory, does not change the result beyond rounding.

    Returns:
        (S,) float64 losses in nats per token.
    """
    if model.config.causal:
        return _next_token_losses(model, tokens_SL, chunk)
    S, L = tokens_SL.shape
    losses_S = np.zeros(S)
    for level in range(levels):
        rng = np.random.default_rng([seed, level])
        t_S = (level + 1.0 - rng.random((S,))) / levels  # in (level, level + 1] / levels
        u_SL = rng.random((S, L))
        for start in range(0, S, chunk):
            rows = slice(start, start + chunk)
            batch = mask_at_levels(
                tokens_SL[rows], t_S[rows], u_SL[rows], mask_id=model.config.mask_id
            )
            real: np.ndarray = batch.weight_N > 0
            read, weight = batch.read_N[real], batch.weight_N[real].astype(np.float64)
            ce_N = _cross_entropy(model, batch.input_BL, read, batch.target_N[real])
            size = len(batch.input_BL)
            summed = np.bincount(read // L, weights=ce_N * weight, minlength=size)
            losses_S[rows] += summed * size / levels  # weights hold 1 / (size * L)
    return losses_S


def _next_token_losses(model: Transformer, tokens_SL: np.ndarray, chunk: int) -> np.ndarray:
    losses = []
    for start in range(0, len(tokens_SL), chunk):
        batch = next_token_batch(tokens_SL[start : start + chunk])
        ce_N = _cross_entropy(model, batch.input_BL, batch.read_N, batch.target_N)
        losses.append(ce_N.reshape(len(batch.input_BL), -1).mean(axis=1))
    return np.concatenate(losses)


def _cross_entropy(
    model: Transformer, input_BL: np.ndarray, read_N: np.ndarray, target_N: np.ndarray
) -> np.ndarray:
    """`cross_entropy_at` from and to numpy, in float64."""
    device = model.embedding.weight.device
    moved = [torch.from_numpy(array).to(device) for array in (input_BL, read_N, target_N)]
    return cross_entropy_at(model, *moved).double().cpu().numpy()


def mean_with_interval(values_S: np.ndarray) -> Estimate:
    """Mean and Student's t-interval (95 %) of independent values."""
    n = len(values_S)
    mean = float(values_S.mean())
    if n < 2:
        return Estimate(value=mean, low=mean, high=mean, n=n)
    half = float(stats.t.ppf(0.975, n - 1)) * float(values_S.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)
