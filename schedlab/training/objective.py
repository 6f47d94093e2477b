"""What a run minimises and is measured by; one implementation per kind of model."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from schedlab.denoisers.network import Network
from schedlab.results import Estimate


class Objective(Protocol):
    """A loss as a pure function of the weights and the step, and its estimate on held-out rows."""

    @property
    def unit(self) -> str:
        """Of the loss, for people."""
        ...

    def loss(self, model: Network, step: int) -> Tensor:
        """This process's share of the loss at a step; shares of all processes add up to it."""
        ...

    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """The loss on held-out rows, and what else is measured there."""
        ...

    def __str__(self) -> str: ...
