"""Ancestral order: all tokens share the clock of the time grid (MDLM, arXiv 2406.07524)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.policies.view import StepView


@dataclass(frozen=True)
class Ancestral:
    """s_i = s for every token."""

    def next_clocks(self, view: StepView) -> Tensor:
        """The grid's next level, shape (1, 1)."""
        device = view.reveal_uniform_BL.device
        return torch.full((1, 1), view.s, dtype=torch.float64, device=device)
