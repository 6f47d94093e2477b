"""SlowFast sampling (Wei et al., 2506.10848) [P]: look how far the prediction holds, then commit.

A block is filled in cycles. A cycle begins slowly: every call commits the `count` most confident
tokens behind the last cycle and notes its horizon, the farthest token that the network is not at a
loss about. Once the horizon stands still it is the end of the cycle, and the calls that follow
commit every sure token before it, until there is no mask left there.

Left out: predictions behind the horizon that are kept from call to call, as that is a matter of
caches and not of which tokens are committed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.commit import CommitPolicy, CommitView, Decision, History, best


@dataclass(frozen=True)
class SlowFast(CommitPolicy):
    """Commits few tokens while it explores, and all sure ones up to the horizon afterwards.

    Args:
        threshold: sure is more than this; where no token is, the `count` most confident go [C].
        horizon_threshold: the horizon is behind the farthest masked token of at least this
            confidence; the first mask where there is none [O].
        explore_calls: a cycle explores so many calls at most; its horizon is then the mean of the
            last ones, rounded down [C].
        window: calls over which a horizon stands still; it is then that of the last one [C].
        variance: and below which variance of it (of the window as a whole, not a sample of it).
        count: tokens of a call that explores [C: 1].
    """

    block_length: int = 0
    threshold: float = 0.85
    horizon_threshold: float = 0.1
    explore_calls: int = 8
    window: int = 2
    variance: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.window <= self.explore_calls:
            raise InputError(
                "window must be at least 1 and at most explore_calls, got"
                f" {self.window} and {self.explore_calls}"
            )
        if self.count < 1:
            raise InputError(f"count must be positive, got {self.count}")

    def start(self, masked_BK: Tensor) -> History:
        """The first cycle begins at the block's first position."""
        B, device = len(masked_BK), masked_BK.device

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.int64, device=device)

        return {
            "begin": zeros(B),  # of the cycle
            "end": zeros(B),  # of the cycle; its begin or less while it explores
            "explored": zeros(B),  # calls
            "horizons": zeros(B, self.window),  # of the last ones
        }

    def commit(self, view: CommitView) -> Decision:
        """The most confident ones, or the sure ones of the cycle."""
        past, confidence_BK = view.history, view.confidence_BK
        begin_B, end_B = past["begin"], past["end"]
        place_K = torch.arange(view.masked_BK.shape[1], device=begin_B.device)
        is_slow_B = end_B <= begin_B
        # No mask is left before the begin, so what is open is all that is masked.
        within_BK = view.masked_BK & (is_slow_B[:, None] | (place_K < end_B[:, None]))
        sure_BK = within_BK & (confidence_BK > self.threshold) & ~is_slow_B[:, None]
        count_B = torch.where(sure_BK.any(dim=-1), 0, self.count)
        commit_BK = sure_BK | best(confidence_BK, within_BK, count_B)

        horizon_B = self._horizon(view, place_K)
        horizons_BW = torch.cat((past["horizons"][:, 1:], horizon_B[:, None]), dim=-1)
        horizons_BW = torch.where(is_slow_B[:, None], horizons_BW, past["horizons"])
        explored_B = past["explored"] + is_slow_B.long()
        variance_B = horizons_BW.double().var(dim=-1, correction=0)
        is_still_B = (explored_B >= self.window) & (variance_B < self.variance)
        found_B = torch.where(is_still_B, horizon_B, horizons_BW.sum(dim=-1) // self.window)
        is_found_B = is_slow_B & (is_still_B | (explored_B >= self.explore_calls))
        end_B = torch.where(is_found_B, found_B, end_B)

        # A cycle without masks is over: the next one begins behind it.
        left_BK = view.masked_BK & ~commit_BK & (place_K < end_B[:, None])
        is_over_B = (end_B > begin_B) & ~left_BK.any(dim=-1)
        history = {
            "begin": torch.where(is_over_B, end_B, begin_B),
            "end": end_B,
            "explored": torch.where(is_over_B, 0, explored_B),
            "horizons": horizons_BW,
        }
        return Decision(commit_BK, history)

    def _horizon(self, view: CommitView, place_K: Tensor) -> Tensor:
        """Positions up to and with the farthest one that counts, (B,)."""
        counts_BK = view.masked_BK & (view.confidence_BK >= self.horizon_threshold)
        first_BK = place_K == view.masked_BK.long().argmax(dim=-1, keepdim=True)
        counts_BK = torch.where(counts_BK.any(dim=-1, keepdim=True), counts_BK, first_BK)
        return torch.where(counts_BK, place_K + 1, 0).amax(dim=-1)
