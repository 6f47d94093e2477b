"""schedlab's parametrisation of STDD (2601.04205) [O]: thresholds from time and neighbourhood.

The paper's equations are not public; what is known is that a threshold per token follows from the
spread of its confidence over the last calls and from how it stands out among its neighbours, with
factors for fast and slow tokens. The signs of both weights are for a search to find.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.commit import (
    CommitPolicy,
    CommitView,
    Decision,
    History,
    Statistic,
    with_best,
)


@dataclass(frozen=True)
class Stdd(CommitPolicy):
    """Commits tokens with c_i >= clip(threshold + temporal TV_i - spatial SD_i) * factor.

    Args:
        threshold: thr_0.
        temporal: a, weight of TV_i, the standard deviation of c_i over the last `window` calls
            (`unseen_spread` until that many were made).
        spatial: b, weight of SD_i: how the position stands out among its masked neighbours up to
            `neighbours` positions away.
        deviance: what SD_i is: "confidence", c_i minus the mean of theirs, with its sign; or
            "cosine", 1 minus the cosine of its predicted probabilities and the mean of theirs.
        lowest, highest: what the threshold is clipped to.
        fast: factor of tokens with the same argmax for `fast_calls` calls whose spread, once it is
            seen, is within the `fast_quantile` smallest of the block's masked positions.
        slow: factor of all others.
    """

    confidence: str = "likeliest"
    threshold: float = 0.9
    temporal: float = 0.5
    spatial: float = 0.2
    deviance: str = "confidence"
    window: int = 4
    neighbours: int = 2
    lowest: float = 0.3
    highest: float = 0.99
    fast: float = 0.9
    slow: float = 1.0
    fast_calls: int = 2
    fast_quantile: float = 0.5
    unseen_spread: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window < 1 or self.neighbours < 0:
            raise InputError(
                "window must be positive and neighbours not negative, got"
                f" {self.window} and {self.neighbours}"
            )
        if self.deviance not in ("confidence", "cosine"):
            raise InputError(f"deviance must be 'confidence' or 'cosine', got {self.deviance!r}")
        if not 0 <= self.fast_quantile <= 1:
            raise InputError(f"fast_quantile must be in [0, 1], got {self.fast_quantile}")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """Predictions of neighbours are compared for the cosine only."""
        return ("products",) if self.deviance == "cosine" else ()

    def start(self, masked_BK: Tensor) -> History:
        """Nothing seen yet."""
        B, K = masked_BK.shape
        device = masked_BK.device
        return {
            "confidence": torch.zeros(B, K, self.window, dtype=torch.float64, device=device),
            "seen": torch.zeros(B, K, dtype=torch.int64, device=device),
            "token": torch.full((B, K), -1, dtype=torch.int64, device=device),
            "same": torch.zeros(B, K, dtype=torch.int64, device=device),
        }

    def commit(self, view: CommitView) -> Decision:
        """Those at or above their own threshold."""
        now_BK = view.confidence_BK.masked_fill(~view.masked_BK, 0.0)
        past = view.history
        last_BKW = torch.cat((past["confidence"][..., 1:], now_BK[..., None]), dim=-1)
        seen_BK = past["seen"] + 1
        same_BK = torch.where(view.token_BK == past["token"], past["same"] + 1, 1)
        is_seen_BK = seen_BK >= self.window
        spread_BK = torch.where(is_seen_BK, last_BKW.std(dim=-1, correction=0), self.unseen_spread)
        stands_out_BK = self._stands_out(now_BK, view)
        threshold_BK = self.threshold + self.temporal * spread_BK - self.spatial * stands_out_BK
        threshold_BK = threshold_BK.clamp(self.lowest, self.highest)
        of_masks_BK = spread_BK.masked_fill(~view.masked_BK, torch.nan)
        small_B1 = of_masks_BK.nanquantile(self.fast_quantile, dim=-1, keepdim=True)
        is_fast_BK = (same_BK >= self.fast_calls) & is_seen_BK & (spread_BK <= small_B1)
        threshold_BK = threshold_BK * torch.where(is_fast_BK, self.fast, self.slow)
        history = {
            "confidence": last_BKW,
            "seen": seen_BK,
            "token": view.token_BK,
            "same": same_BK,
        }
        return Decision(with_best(now_BK >= threshold_BK, view), history)

    def _stands_out(self, now_BK: Tensor, view: CommitView) -> Tensor:
        """SD_i; 0 where there are no masked neighbours."""
        if view.products_BKK is None:
            return now_BK - self._around(now_BK, view.masked_BK)
        # p_i . m and |m|^2 of the neighbours' sum m, from inner products alone.
        place_K = torch.arange(now_BK.shape[1], device=now_BK.device)
        apart_KK = (place_K[:, None] - place_K).abs()
        near_KK = (apart_KK <= self.neighbours) & (apart_KK > 0)
        near_BKK = (near_KK & view.masked_BK[:, None]).double()
        both_BKK = near_BKK @ view.products_BKK  # m_i . p_j
        inner_BK = both_BKK.diagonal(dim1=1, dim2=2)
        squares_BK = (both_BKK * near_BKK).sum(dim=-1)
        own_BK = view.products_BKK.diagonal(dim1=1, dim2=2)
        cosine_BK = inner_BK / (own_BK * squares_BK).clamp(min=1e-30).sqrt()
        return torch.where(squares_BK > 0, 1.0 - cosine_BK, 0.0)

    def _around(self, now_BK: Tensor, masked_BK: Tensor) -> Tensor:
        """Mean confidence of masked neighbours; the position's own where it has none."""
        n = self.neighbours
        others = torch.ones(2 * n + 1, dtype=torch.float64, device=now_BK.device)
        others[n] = 0.0
        sums_BK, counts_BK = (
            (F.pad(values, (n, n)).unfold(-1, 2 * n + 1, 1) * others).sum(dim=-1)
            for values in (now_BK * masked_BK, masked_BK.double())
        )
        return torch.where(counts_BK > 0, sums_BK / counts_BK.clamp(min=1.0), now_BK)
