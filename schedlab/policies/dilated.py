"""The dilated schedule DUS (Luxembourg et al., 2506.19037), partly from memory [2]: groups of
positions far apart, log2(K) calls a block, whatever the predictions are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from schedlab.policies.commit import CommitPolicy, CommitView, Decision, with_best


@dataclass(frozen=True)
class Dilated(CommitPolicy):
    """Call n of a block commits positions at multiples of K / 2^(n + 1), the last the rest."""

    def commit(self, view: CommitView) -> Decision:
        """The call's group."""
        K = view.masked_BK.shape[1]
        calls = max(1, math.ceil(math.log2(K)))
        place_K = torch.arange(K, device=view.masked_BK.device)
        gap_B = (2 ** (calls - 1 - view.call_B).clamp(min=0)).long()
        return Decision(with_best(place_K % gap_B[:, None] == 0, view), {})
