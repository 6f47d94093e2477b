"""ReMDM's remasking samplers (Wang et al., 2503.00307) [C]: revealed tokens go back to the mask.

In a step from t to s a revealed token goes back with probability sigma, a masked one is revealed
with probability (alpha_s - (1 - sigma) alpha_t) / (1 - alpha_t): whatever sigma in [0, sigma_max]
is, each position is still masked with probability 1 - alpha_s afterwards. Clocks stay common.

Legend: B sequences, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from schedlab.errors import InputError


@dataclass(frozen=True)
class RemaskView:
    """A step as a remasking policy sees it.

    Args:
        t, s: noise levels before and after the step.
        masked_BL: masked positions.
        confidence_BL: probability that every revealed token had when it was drawn, float64; 1
            for given ones.
        free_BL: positions that are not given.
    """

    t: float
    s: float
    masked_BL: Tensor
    confidence_BL: Tensor
    free_BL: Tensor


@dataclass(frozen=True)
class Chances:
    """Probabilities of a step, float64 scalars or (B, L).

    Args:
        reveal: of a masked position to be revealed.
        remask: of a revealed one that is not given to be masked.
    """

    reveal: Tensor
    remask: Tensor


@dataclass(frozen=True)
class RemaskPolicy:
    """A frozen dataclass whose fields are the policy's parameters."""

    reads_confidence: ClassVar[bool] = False

    def chances(self, view: RemaskView) -> Chances:
        """What happens in a step, in probability, at alpha_t = 1 - t."""
        return _chances(1 - view.t, 1 - view.s, self.sigma(view))

    def sigma(self, view: RemaskView) -> Tensor:
        """Probability of going back, at most `sigma_max`."""
        raise NotImplementedError


def sigma_max(view: RemaskView) -> float:
    """The largest sigma for which the other probability is none below 0."""
    alpha_t, alpha_s = 1 - view.t, 1 - view.s
    return min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0


@dataclass(frozen=True)
class RemdmCap(RemaskPolicy):
    """sigma = min(eta, sigma_max)."""

    eta: float = 0.008

    def __post_init__(self) -> None:
        _check_shares(self, "eta")

    def sigma(self, view: RemaskView) -> Tensor:
        """A constant, capped."""
        return torch.tensor(min(self.eta, sigma_max(view)), dtype=torch.float64)


@dataclass(frozen=True)
class RemdmRescale(RemaskPolicy):
    """sigma = eta sigma_max."""

    eta: float = 0.015

    def __post_init__(self) -> None:
        _check_shares(self, "eta")

    def sigma(self, view: RemaskView) -> Tensor:
        """A share of the largest."""
        return torch.tensor(self.eta * sigma_max(view), dtype=torch.float64)


@dataclass(frozen=True)
class RemdmConf(RemaskPolicy):
    """sigma_i = sigma_max softmax(-p_i), over the revealed tokens of a sequence: those that were
    least likely when they were drawn go back most easily."""

    reads_confidence: ClassVar[bool] = True

    def sigma(self, view: RemaskView) -> Tensor:
        """By confidence."""
        revealed_BL = ~view.masked_BL & view.free_BL
        score_BL = (-view.confidence_BL).masked_fill(~revealed_BL, -torch.inf)
        share_BL = torch.softmax(score_BL, dim=-1).nan_to_num(0.0)  # a row may have none
        return sigma_max(view) * share_BL


@dataclass(frozen=True)
class RemdmLoop(RemaskPolicy):
    """Reveals as usual to alpha_on at `t_on`, then keeps that share and takes tokens back with
    probability `eta` until `t_off`, then reveals the rest."""

    eta: float = 0.02
    t_on: float = 0.55
    t_off: float = 0.05
    alpha_on: float = 0.9

    def __post_init__(self) -> None:
        _check_shares(self, "eta", "t_on", "t_off", "alpha_on")
        if not 0 < self.t_off < self.t_on < 1:
            raise InputError(
                f"t_off and t_on must be 0 < t_off < t_on < 1, got {self.t_off} and {self.t_on}"
            )

    def chances(self, view: RemaskView) -> Chances:
        """By the part of the run that the step begins in."""
        if view.t > self.t_on:
            alpha_t, alpha_s = (
                (1 - level) * self.alpha_on / (1 - self.t_on) for level in (view.t, view.s)
            )
            # [O] A step across t_on stops at alpha_on; the published code goes on for its length.
            alpha_s = min(alpha_s, self.alpha_on) if view.s > 0 else 1.0
            return _chances(alpha_t, alpha_s, torch.zeros((), dtype=torch.float64))
        if view.t <= self.t_off:
            alpha_t, alpha_s = (
                1 - level * (1 - self.alpha_on) / self.t_off for level in (view.t, view.s)
            )
            return _chances(alpha_t, alpha_s, torch.zeros((), dtype=torch.float64))
        # A step that ends at text must reveal all: grids need not touch t_off.
        alpha_s = self.alpha_on if view.s > 0 else 1.0
        same = replace(view, t=1 - self.alpha_on, s=1 - alpha_s)
        return _chances(self.alpha_on, alpha_s, self.sigma(same))

    def sigma(self, view: RemaskView) -> Tensor:
        """eta, capped."""
        return torch.tensor(min(self.eta, sigma_max(view)), dtype=torch.float64)


def _chances(alpha_t: float, alpha_s: float, sigma: Tensor) -> Chances:
    reveal = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    return Chances(reveal=reveal.clamp(0.0, 1.0), remask=sigma)


def _check_shares(policy: object, *names: str) -> None:
    for name in names:
        value = getattr(policy, name)
        if not 0 <= value <= 1:
            raise InputError(f"{name} must be in [0, 1], got {value}")
