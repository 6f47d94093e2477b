"""Dream's orders (Ye et al., 2508.15487) [C]: by entropy, by margin, by largest probability.

A call at t that leads to s commits int(n (1 - s / t)) of the n masks, t falling evenly from 1 to
`eps` over the calls; the last call commits what is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from schedlab.policies.commit import CommitPolicy, CommitView, Decision, Statistic, best


@dataclass(frozen=True)
class _Dream(CommitPolicy):
    block_length: int = 0
    eps: float = 1e-3
    by_share: ClassVar[bool] = False
    tempered: ClassVar[bool] = True

    def reads(self, masks: int, num_calls: int) -> list[int]:
        """Known: every call runs until nothing is left, those that commit nothing too."""
        grid = torch.linspace(1, self.eps, num_calls + 1)
        reads, left = list[int](), masks
        for call in range(num_calls):
            if left:
                reads.append(left)
                left -= int(left * (1.0 - grid[call + 1] / grid[call]))
        return reads

    def count(self, view: CommitView) -> Tensor:
        """How many this call commits, (B,)."""
        # In float32, as the published code: which products reach a whole number depends on it.
        grid = torch.linspace(1, self.eps, view.num_calls + 1, device=view.call_B.device)
        call_B = view.call_B.clamp(max=view.num_calls - 1)
        masks_B = view.masked_BK.sum(dim=-1)
        count_B = (masks_B * (1.0 - grid[call_B + 1] / grid[call_B])).long()
        return torch.where(call_B == view.num_calls - 1, masks_B, count_B)


@dataclass(frozen=True)
class Entropy(_Dream):
    """The surest predictions first: smallest entropy."""

    needs: ClassVar[tuple[Statistic, ...]] = ("entropy",)

    def commit(self, view: CommitView) -> Decision:
        """Those of smallest entropy."""
        assert view.entropy_BK is not None
        return Decision(best(-view.entropy_BK, view.masked_BK, self.count(view)), {})


@dataclass(frozen=True)
class Margin(_Dream):
    """Largest difference of the two largest probabilities first."""

    needs: ClassVar[tuple[Statistic, ...]] = ("margin",)

    def commit(self, view: CommitView) -> Decision:
        """Those of largest margin."""
        assert view.margin_BK is not None
        return Decision(best(view.margin_BK, view.masked_BK, self.count(view)), {})


@dataclass(frozen=True)
class Top1(_Dream):
    """Largest probability first (`maskgit_plus`)."""

    def commit(self, view: CommitView) -> Decision:
        """Those of largest confidence."""
        return Decision(best(view.confidence_BK, view.masked_BK, self.count(view)), {})
