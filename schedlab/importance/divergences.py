"""Cross-entropy, KL and Jensen-Shannon between denoisers' predictions, position by position.

Computed in float32 for networks and in float64 for float64 denoisers: the error of float32 is
about 1e-6 nats at a position and averages out, far below any interval (measured in the tests).
That is the error of this computation; logits of a bfloat16 network are rounded before it.

Legend: N positions, V vocabulary with the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn.functional import softplus

from schedlab.processes import MaskedProcess

LOG_PROB_FLOOR = -1e4
"""Stands for log 0, so that 0 log 0 is 0: an infinite KL shows as one of thousands of nats."""

_TEMPORARIES = 6
_MOST_ROWS = 128


def log_probs(logits_NV: Tensor, process: MaskedProcess) -> Tensor:
    """Log-probabilities of the token at masked positions, (N, V), floored at `LOG_PROB_FLOOR`."""
    dtype = torch.promote_types(logits_NV.dtype, torch.float32)
    return process.log_p_x(logits_NV, dtype=dtype).clamp_(min=LOG_PROB_FLOOR)


def kl_divergence(log_p_NV: Tensor, log_q_NV: Tensor) -> Tensor:
    """KL(p || q) in nats, (N,)."""
    return torch.linalg.vecdot(log_p_NV.exp(), log_p_NV - log_q_NV)


def position_stats(
    log_probs_NV: Mapping[str, Tensor], heavy: str, losses_N: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Every metric at every position.

    Args:
        log_probs_NV: per denoiser role, (N, V), all of the same positions.
        heavy: the role that the others are compared with.
        losses_N: per role, with the clean tokens; cross-entropies and loss gaps need them.

    Returns:
        By `metric/role` or `metric/heavy/other`, nats, float64 (N,). `kl_heavy_light` is
        KL(heavy || other), whoever the other is; `js` is the Jensen-Shannon divergence, at most
        log 2.
    """
    others = [role for role in log_probs_NV if role != heavy]
    stats: dict[str, Tensor] = {}
    if losses_N is not None:
        for role, loss_N in losses_N.items():
            stats[f"cross_entropy/{role}"] = loss_N
        for role in others:
            gap_N = stats[f"cross_entropy/{role}"] - stats[f"cross_entropy/{heavy}"]
            stats[f"loss_gap/{heavy}/{role}"] = gap_N
            stats[f"abs_loss_gap/{heavy}/{role}"] = gap_N.abs()
    p_NV = log_probs_NV[heavy].exp()
    for role in others:
        q_NV = log_probs_NV[role].exp()
        difference_NV = log_probs_NV[heavy] - log_probs_NV[role]
        kl_pq_N = torch.linalg.vecdot(p_NV, difference_NV).double()
        kl_qp_N = -torch.linalg.vecdot(q_NV, difference_NV).double()
        # With m = (p + q) / 2 and d = log(p / q): log(p / m) = log 2 - softplus(-d) and
        # log(q / m) = log(p / m) - d. No log of a sum that may underflow, and exactly 0 for equal
        # predictions.
        log_p_over_m_NV = softplus(difference_NV.neg_()).neg_().add_(math.log(2.0))
        both_N = torch.linalg.vecdot(q_NV.add_(p_NV), log_p_over_m_NV).double()
        stats[f"kl_heavy_light/{heavy}/{role}"] = kl_pq_N
        stats[f"kl_light_heavy/{heavy}/{role}"] = kl_qp_N
        stats[f"js/{heavy}/{role}"] = 0.5 * (both_N + kl_qp_N)
    return stats


def row_chunks(
    num_rows: int, *, vocab_size: int, num_denoisers: int, budget_bytes: int
) -> Iterator[slice]:
    """Slices of rows whose (rows, V) arrays fit the budget together, counted at 8 bytes a number.

    Alive at once are one array per denoiser and a handful of temporaries. Never more than
    `_MOST_ROWS`: larger arrays leave the caches and gain nothing, and arrays of many MiB in ever
    other sizes leave holes on the heap. The bundled analysis (192 windows) took 67 s and 2.9 GB
    with the budget alone, 54 s and 0.8 GB so.
    """
    row_bytes = vocab_size * 8 * (num_denoisers + _TEMPORARIES)
    rows = max(1, min(_MOST_ROWS, budget_bytes // row_bytes))
    for first in range(0, num_rows, rows):
        yield slice(first, min(first + rows, num_rows))
