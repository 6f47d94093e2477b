"""The training losses and their estimates on held-out windows.

Legend: B windows, L positions, N read positions, V vocabulary, S held-out windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from schedlab.denoisers.base import features_at
from schedlab.denoisers.network import Network
from schedlab.results import Estimate
from schedlab.training.batches import Batch, mask_at_levels, next_token_batch

_MOST_LOGITS = 1 << 27  # at a time: half a gigabyte in float32


def weighted_loss(
    model: Network,
    heavy: Network | None,
    denoising_weight: float,
    input_BL: Tensor,
    t_B: Tensor,
    read_N: Tensor,
    target_N: Tensor,
    weight_N: Tensor,
) -> Tensor:
    """Sum over read positions of weight * `losses_at`, a scalar in nats."""
    losses_N = losses_at(
        model, input_BL, t_B, read_N, target_N, heavy=heavy, denoising_weight=denoising_weight
    )
    return (losses_N * weight_N).sum()


def losses_at(
    model: Network,
    input_BL: Tensor,
    t_B: Tensor,
    read_N: Tensor,
    target_N: Tensor,
    *,
    heavy: Network | None = None,
    denoising_weight: float = 1.0,
) -> Tensor:
    """w * -log p(target) + (1 - w) * KL(heavy || model) at read positions, w = denoising_weight.

    Weighted by 1/t at masked positions and averaged over t and masks, the first term is the NELBO
    and the second the KL divergence between the heavy's and the model's reverse processes on
    states of the data [O]: what distillation lowers is what a search calls path KL.

    Args:
        model: a denoiser, which never predicts the mask token (SUBS), or a scorer.
        input_BL: (B, L) int64 tokens.
        t_B: (B,) noise levels, for denoisers that read them.
        read_N: (N,) int64 positions in the flattened (B * L) input.
        target_N: (N,) int64 true tokens.
        heavy: gets no gradients; None is for `denoising_weight` 1.

    Returns:
        (N,) float32 (float64 for a float64 model), in nats.
    """
    light_ND = features_at(model, input_BL, t_B).flatten(0, 1)[read_N]
    heavy_ND = None
    if heavy is not None and denoising_weight < 1.0:
        with torch.no_grad():
            heavy_ND = features_at(heavy, input_BL, t_B).flatten(0, 1)[read_N]

    def part(at: slice) -> Tensor:
        log_p_NV = log_predictions(model, light_ND[at])
        loss_N = denoising_weight * -log_p_NV.gather(1, target_N[at][:, None])[:, 0]
        if heavy is None or heavy_ND is None:
            return loss_N
        with torch.no_grad():
            log_q_NV = log_predictions(heavy, heavy_ND[at])
        kl_N = (log_q_NV.exp() * (log_q_NV - log_p_NV)).sum(-1)
        return loss_N + (1.0 - denoising_weight) * kl_N

    return in_parts(part, len(read_N), model.spec.vocab_size)


def in_parts(part: Callable[[slice], Tensor], num: int, vocab_size: int) -> Tensor:
    """What `part` gives for positions of a batch, (N, ...), with the logits of so many of them at
    a time as memory allows; the backward pass draws them up again."""
    size = max(1, _MOST_LOGITS // vocab_size)
    if num <= size:
        return part(slice(None))
    parts = [slice(start, start + size) for start in range(0, num, size)]
    return torch.cat([checkpoint(part, at, use_reentrant=False) for at in parts])


def log_predictions(model: Network, features_ND: Tensor) -> Tensor:
    """(N, V) log-probabilities; a denoiser's mask token has none, which is a finite -1e9 here.

    (0 * infinity would make a divergence NaN; exp(-1e9) is exactly 0.)
    """
    logits_NV = model.logits(features_ND)
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    mask_id = model.spec.mask_id
    if mask_id is not None and not _is_causal(model):
        forbidden_V = torch.zeros(logits_NV.shape[1], device=logits_NV.device)
        forbidden_V[mask_id] = -1e9
        logits_NV = logits_NV + forbidden_V
    return torch.log_softmax(logits_NV, dim=-1)


def held_out_loss(
    model: Network, tokens_SL: np.ndarray, *, levels: int, seed: int, chunk: int = 64
) -> Estimate:
    """Mean of `held_out_losses` with its 95 % interval over windows, in nats per token."""
    losses_S = held_out_losses(model, tokens_SL, levels=levels, seed=seed, chunk=chunk)
    return mean_with_interval(losses_S)


@torch.inference_mode()
def held_out_losses(
    model: Network,
    tokens_SL: np.ndarray,
    *,
    levels: int,
    seed: int,
    chunk: int = 64,
    heavy: Network | None = None,
    given: int = 0,
) -> np.ndarray:
    """Loss of each held-out window.

    Denoisers: an unbiased estimate of the continuous NELBO, which is at least -log p(x) / L, with
    one noise level in each of `levels` equal parts of (0, 1]. Levels and masks follow from the
    seed and are the same for every model, so that losses of two models can be paired.
    Denoisers beside a heavy one: in the same way, the KL divergence from its predictions.
    Scorers: cross-entropy of the tokens after the first.

    Args:
        tokens_SL: (S, L) int64 windows.
        levels: noise levels per window (denoisers).
        seed: of the levels and masks (denoisers).
        chunk: windows per forward; bounds memory, does not change the result beyond rounding.
        heavy: see above.
        given: positions at the start that are never masked and count for nothing.

    Returns:
        (S,) float64 losses in nats per token.
    """
    if _is_causal(model):
        return _next_token_losses(model, tokens_SL, chunk)
    mask_id = model.spec.mask_id
    assert mask_id is not None, "a masked denoiser"
    S, L = tokens_SL.shape
    losses_S = np.zeros(S)
    for level in range(levels):
        rng = np.random.default_rng([seed, level])
        t_S = (level + 1.0 - rng.random((S,))) / levels  # in (level, level + 1] / levels
        u_SL = rng.random((S, L))
        for start in range(0, S, chunk):
            rows = slice(start, start + chunk)
            batch = mask_at_levels(
                tokens_SL[rows], t_S[rows], u_SL[rows], mask_id=mask_id, given=given
            )
            real: np.ndarray = batch.weight_N > 0
            weight = batch.weight_N[real].astype(np.float64)
            loss_N = _losses(model, batch, real, heavy)
            size = len(batch.input_BL)
            summed = np.bincount(batch.read_N[real] // L, weights=loss_N * weight, minlength=size)
            losses_S[rows] += summed * size / levels  # weights hold 1 / (size * (L - given))
    return losses_S


def _next_token_losses(model: Network, tokens_SL: np.ndarray, chunk: int) -> np.ndarray:
    losses = []
    for start in range(0, len(tokens_SL), chunk):
        batch = next_token_batch(tokens_SL[start : start + chunk])
        loss_N = _losses(model, batch, slice(None), None)
        losses.append(loss_N.reshape(len(batch.input_BL), -1).mean(axis=1))
    return np.concatenate(losses)


def _losses(
    model: Network, batch: Batch, which: np.ndarray | slice, heavy: Network | None
) -> np.ndarray:
    """`losses_at` from and to numpy, in float64: of targets, or beside a heavy one of its
    predictions."""
    device = next(model.parameters()).device
    arrays = (batch.input_BL, batch.t_B, batch.read_N[which], batch.target_N[which])
    moved = [torch.from_numpy(array).to(device) for array in arrays]
    weight = 1.0 if heavy is None else 0.0
    losses_N = losses_at(model, *moved, heavy=heavy, denoising_weight=weight)
    return losses_N.double().cpu().numpy()


def _is_causal(model: Network) -> bool:
    return bool(getattr(model.config, "causal", False))


def mean_with_interval(values_S: np.ndarray) -> Estimate:
    """Mean and Student's t-interval (95 %) of independent values."""
    n = len(values_S)
    mean = float(values_S.mean())
    if n < 2:
        return Estimate(value=mean, low=mean, high=mean, n=n)
    half = float(stats.t.ppf(0.975, n - 1)) * float(values_S.std(ddof=1)) / math.sqrt(n)
    return Estimate(value=mean, low=mean - half, high=mean + half, n=n)
