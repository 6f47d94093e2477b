"""Levels that fall with the signal of every token, and the released noise-matched control."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.allocation.base import Allocation, AllocationView


@dataclass(frozen=True)
class Adaptive(Allocation):
    """t_i = a t + (1 - a) (1 - g_i) t, g_i the score, a = `smooth` (alpha_smooth) [P].

    1 is constant, 0 purely adaptive.
    """

    smooth: float = 0.6

    def __post_init__(self) -> None:
        """Check the share."""
        super().__post_init__()
        if not 0 <= self.smooth <= 1:
            raise InputError(f"smooth must be in [0, 1], got {self.smooth}")

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(B, L)."""
        return view.t * (self.smooth + (1.0 - self.smooth) * (1.0 - view.score_BL))


@dataclass(frozen=True)
class Scaled(Allocation):
    """t_i = `factor` t + `offset`, common to all tokens: a control of less noise [C]."""

    signal: str = "none"
    factor: float = 1.0
    offset: float = 0.0

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(1, 1)."""
        level = self.factor * view.t + self.offset
        return torch.full((1, 1), level, dtype=torch.float64, device=view.free_BL.device)
