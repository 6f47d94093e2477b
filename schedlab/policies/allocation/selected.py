"""Levels of two kinds: selected tokens get `low` times t, the others t.

The released code has these rules; which values it gives selected tokens is ours [O].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.allocation.base import Allocation, AllocationView


@dataclass(frozen=True)
class _Selected(Allocation):
    low: float = 0.5

    def __post_init__(self) -> None:
        """Check the factor."""
        super().__post_init__()
        if not 0 <= self.low <= 1:
            raise InputError(f"low must be in [0, 1], got {self.low}")

    def selected(self, view: AllocationView) -> Tensor:
        """Which tokens are kept closer, bool (B, L)."""
        raise NotImplementedError

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(B, L)."""
        kept_BL = self.selected(view) & view.open_BL
        # Both in float64: of two numbers `where` would make float32, below the grid's levels.
        share_BL = torch.ones(kept_BL.shape, dtype=torch.float64, device=kept_BL.device)
        return view.t * share_BL.masked_fill_(kept_BL, self.low)


@dataclass(frozen=True)
class TopK(_Selected):
    """The `share` of the tokens with the highest signal (at least one)."""

    share: float = 0.2

    def __post_init__(self) -> None:
        """Check the share."""
        super().__post_init__()
        _check_share(self.share)

    def selected(self, view: AllocationView) -> Tensor:
        """Ties go to the earlier token."""
        count_B1 = self.share * view.open_BL.sum(-1, keepdim=True).double()
        count_B1 = (count_B1 - 1e-9).ceil().clamp(min=1)  # 0.72 of 75 is 54
        return _rank(view) < count_B1


@dataclass(frozen=True)
class CumulativeShare(_Selected):
    """The fewest tokens of highest signal whose scores sum up to `share` of all (top-p)."""

    share: float = 0.5

    def __post_init__(self) -> None:
        """Check the share."""
        super().__post_init__()
        _check_share(self.share)

    def selected(self, view: AllocationView) -> Tensor:
        """Ties go to the earlier token."""
        score_BL = view.score_BL
        order_BL = score_BL.masked_fill(~view.open_BL, -1.0).argsort(
            dim=-1, descending=True, stable=True
        )
        sorted_BL = score_BL.gather(-1, order_BL)
        before_BL = sorted_BL.cumsum(-1) - sorted_BL
        kept_BL = before_BL < self.share * sorted_BL.sum(-1, keepdim=True)
        return torch.empty_like(kept_BL).scatter_(-1, order_BL, kept_BL)


@dataclass(frozen=True)
class Threshold(_Selected):
    """Tokens whose signal exceeds its mean over the sequence by `deviations` standard
    deviations."""

    deviations: float = 1.0

    def selected(self, view: AllocationView) -> Tensor:
        """None where all are equal."""
        score_BL, open_BL = view.score_BL, view.open_BL
        count_B1 = open_BL.sum(-1, keepdim=True).clamp(min=1)
        mean_B1 = score_BL.sum(-1, keepdim=True) / count_B1
        gap_BL = (score_BL - mean_B1) * open_BL
        std_B1 = (gap_BL.square().sum(-1, keepdim=True) / count_B1).sqrt()
        return (gap_BL > self.deviations * std_B1) & (std_B1 > 0)


@dataclass(frozen=True)
class Softmax(Allocation):
    """t_i = t (1 - (1 - low) w_i / max w), w the softmax of the score over `tau` [O]."""

    low: float = 0.5
    tau: float = 0.2

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        if not 0 <= self.low <= 1 or not self.tau > 0:
            raise InputError(
                f"low must be in [0, 1] and tau positive, got {self.low} and {self.tau}"
            )

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(B, L)."""
        score_BL = view.score_BL
        top_B1 = score_BL.amax(-1, keepdim=True)
        weight_BL = ((score_BL - top_B1) / self.tau).exp()  # of the largest
        # Where all are equal nothing is told apart: all are constant.
        return view.t * (1.0 - (1.0 - self.low) * weight_BL * (top_B1 > 0))


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise InputError(f"share must be in [0, 1], got {share}")


def _rank(view: AllocationView) -> Tensor:
    """Number of free tokens with a higher score, earlier ones first among equals, (B, L)."""
    score_BL = view.score_BL.masked_fill(~view.open_BL, -1.0)
    order_BL = score_BL.argsort(dim=-1, descending=True, stable=True)
    return order_BL.argsort(dim=-1, stable=True)
