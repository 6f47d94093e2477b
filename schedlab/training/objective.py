"""What a run minimises and is measured by; one implementation per kind of model.

Legend: B rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from schedlab.denoisers.network import Network
from schedlab.results import Estimate


@dataclass(frozen=True)
class NoisyRows:
    """Rows of a share of a step, noised.

    Args:
        x_BL, z_BL: clean and noisy tokens.
        t_B: noise levels, (B, L) where the denoiser reads one for every token.
        predicted_BL: where the denoiser is read.
    """

    x_BL: Tensor
    z_BL: Tensor
    t_B: Tensor
    predicted_BL: Tensor


class Objective(Protocol):
    """A loss as a pure function of the weights, the step and `memory`, and its estimate on
    held-out rows."""

    @property
    def memory(self) -> dict[str, Tensor]:
        """What later steps depend on besides the weights; most objectives keep nothing."""
        return {}

    @property
    def unit(self) -> str:
        """Of the loss, for people."""
        ...

    def loss(self, model: Network, step: int, part: int = 0) -> Tensor:
        """A share of the loss at a step: of this process, and of the parts that it takes one
        after the other; they all add up to the loss."""
        ...

    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """The loss on held-out rows, and what else is measured there."""
        ...

    def __str__(self) -> str: ...
