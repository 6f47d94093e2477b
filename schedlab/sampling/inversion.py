"""Draws by inversion: one uniform per token instead of one Gumbel variate per word.

For processes in which every position is drawn at every step. Two plans that draw with the same
uniform agree less often than by Gumbel-max where their predictions differ, but no V variates have
to be made.

Legend: N rows, R of them that are left, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_ATTEMPTS = 16
UniformSource = Callable[[Tensor, int], Tensor]


def draw_by_inversion(probs_NV: Tensor, top_p: float, uniforms: UniformSource) -> Tensor:
    """Tokens from the nucleus of `top_p`, int64 (N,).

    The nucleus is the smallest set of likeliest tokens whose probability reaches top_p. It is not
    looked for: a token drawn from all is kept if those that are likelier hold less than top_p,
    else drawn again. The law is the same, and no row is sorted. (Of tokens that are exactly as
    likely as the last of the nucleus all are in it.)

    Args:
        probs_NV: probabilities, summed up in float64.
        top_p: in (0, 1].
        uniforms: of (rows, attempt), one uniform in (0, 1) per row, float64.
    """
    token_N = torch.empty(len(probs_NV), dtype=torch.int64, device=probs_NV.device)
    rows_R, p_RV = torch.arange(len(probs_NV), device=probs_NV.device), probs_NV
    for attempt in range(MAX_ATTEMPTS):
        sums_RV = p_RV.cumsum(-1, dtype=torch.float64)
        target_R1 = uniforms(rows_R, attempt)[:, None] * sums_RV[:, -1:]
        drawn_R1 = torch.searchsorted(sums_RV, target_R1, right=True)
        drawn_R1.clamp_(max=probs_NV.shape[1] - 1)
        token_N[rows_R] = drawn_R1[:, 0]
        if top_p >= 1.0:
            return token_N
        likelier_R = p_RV.masked_fill(p_RV <= p_RV.gather(1, drawn_R1), 0.0).sum(-1)
        outside_R = likelier_R >= top_p
        if not outside_R.any():
            return token_N
        rows_R, p_RV = rows_R[outside_R], p_RV[outside_R]
    # Rows whose nucleus is small, at low top_p: what is left is found by sorting.
    sorted_RV, order_RV = p_RV.sort(dim=-1, descending=True, stable=True)
    before_RV = sorted_RV.cumsum(-1, dtype=torch.float64) - sorted_RV
    sums_RV = (sorted_RV * (before_RV < top_p)).cumsum(-1, dtype=torch.float64)
    target_R1 = uniforms(rows_R, MAX_ATTEMPTS)[:, None] * sums_RV[:, -1:]
    place_R1 = torch.searchsorted(sums_RV, target_R1, right=True)
    place_R1.clamp_(max=probs_NV.shape[1] - 1)
    token_N[rows_R] = order_RV.gather(1, place_R1)[:, 0]
    return token_N
