"""Levels that follow from the place or from chance, not from the text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.allocation.base import Allocation, AllocationView


@dataclass(frozen=True)
class _Unsignalled(Allocation):
    signal: str = "none"


@dataclass(frozen=True)
class Constant(_Unsignalled):
    """t_i = t: the plain sampler."""

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(1, 1)."""
        return torch.full((1, 1), view.t, dtype=torch.float64, device=view.free_BL.device)


def _place(view: AllocationView) -> tuple[Tensor, Tensor]:
    """Number i of every free position and N - 1 of every sequence, float64."""
    place_BL = (view.free_BL.cumsum(-1) - 1).double()
    last_B1 = (view.free_BL.sum(-1, keepdim=True) - 1).clamp(min=1).double()
    return place_BL, last_B1


@dataclass(frozen=True)
class Linear(_Unsignalled):
    """t_i = i / (N - 1) t over the N generated positions: the beginning is stable first [P]."""

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(B, L)."""
        place_BL, last_B1 = _place(view)
        return place_BL / last_B1 * view.t


@dataclass(frozen=True)
class BackwardLinear(_Unsignalled):
    """t_i = (N - 1 - i) / (N - 1) t: the end is stable first [P]."""

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(B, L)."""
        place_BL, last_B1 = _place(view)
        return (last_B1 - place_BL) / last_B1 * view.t


@dataclass(frozen=True)
class Random(_Unsignalled):
    """t_i uniform in [0, 1], at every step anew, whatever t is [P]."""

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(B, L)."""
        return view.uniforms()


@dataclass(frozen=True)
class Fixed(_Unsignalled):
    """t_i = `at` at every step, 0 or 1 in the paper [P]."""

    at: float = 0.0

    def __post_init__(self) -> None:
        """Check the level."""
        super().__post_init__()
        if not 0 <= self.at <= 1:
            raise InputError(f"at must be in [0, 1], got {self.at}")

    def raw_levels(self, view: AllocationView) -> Tensor:
        """(1, 1)."""
        return torch.full((1, 1), self.at, dtype=torch.float64, device=view.free_BL.device)
