"""What a policy sees of a step, and what it decides.

Every token has its own clock, its noise level t_i in [0, 1], which starts at 1. A policy answers
with the next clocks: **commit order is a per-token clock**. A masked position is revealed at a
step to clock s_i where its reveal uniform is below alpha(s_i), so a policy that leaves the clock
at 1 keeps the position masked, and one that sets it to 0 reveals it now.

Policies know neither processes nor denoisers.

Legend: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class StepView:
    """A step as a policy sees it.

    Args:
        step: k, 0 at the noisy end.
        num_steps: T.
        s: the noise level of the time grid after this step.
        reveal_uniform_BL: the uniform of every position's present visit, float64 (B, L).
        free_BL: positions that are not given, bool (B, L).
    """

    step: int
    num_steps: int
    s: float
    reveal_uniform_BL: Tensor
    free_BL: Tensor


class TimestepPolicy(Protocol):
    """A frozen dataclass whose fields are the policy's parameters."""

    def next_clocks(self, view: StepView) -> Tensor:
        """Clocks s_i after this step, float64, broadcastable to (B, L)."""
        ...
