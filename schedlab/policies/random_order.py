"""Random order with even counts: one reveal per step when there are as many steps as free
positions.

The order is that of the reveal uniforms, hence uniformly random and shared by plans with common
noise. With one reveal per step and an exact denoiser the sampler draws from the exact
distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.policies.view import StepView


@dataclass(frozen=True)
class RandomOrder:
    """Step k reveals the free positions of rank floor(kN/T) .. floor((k+1)N/T) - 1, N per row."""

    def next_clocks(self, view: StepView) -> Tensor:
        """0 for the positions whose turn has come, 1 for the others, float64 (B, L)."""
        order_BL = view.reveal_uniform_BL.masked_fill(~view.free_BL, torch.inf).argsort(-1)
        rank_BL = order_BL.argsort(-1)
        count_B1 = view.free_BL.sum(-1, keepdim=True)
        due_B1 = (view.step + 1) * count_B1 // view.num_steps
        return (rank_BL >= due_B1).to(torch.float64)
