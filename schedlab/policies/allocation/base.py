"""What an allocation policy sees of a step, and the rules that all of them share.

At a step with common level t a policy gives every token its own level t_i; the state is noised
to the level one step below it. The denoiser is told the common t unless it was trained with one of
every token.

Legend: B sequences, L positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from schedlab.errors import InputError

_EPSILON = 1e-8
Signal = Literal["gradient", "entropy", "margin", "change", "ablation", "none"]
Pooled = Literal["none", "t", "alpha"]
SIGNALS = ("gradient", "entropy", "margin", "change", "ablation", "none")


@dataclass(frozen=True)
class AllocationView:
    """A step as an allocation policy sees it.

    Args:
        step: k, 0 at the noisy end.
        num_steps: T.
        t, s: the common noise level, and the one after this step.
        highest: level of the first step.
        clock_BL: the t_i that the rule gave at the step before, not pooled, float64; `highest` at
            the first.
        free_BL: positions that are not given, bool.
        open_BL: those among them that have a prediction: all but revealed ones of the masked
            process, bool.
        signal_BL: raw signal, float64; larger means: keep this token. Zeros without one.
        uniforms: one uniform of every position, float64 (B, L), for policies that draw.
        alpha, level: the noise schedule and its inverse.
    """

    step: int
    num_steps: int
    t: float
    s: float
    highest: float
    clock_BL: Tensor
    free_BL: Tensor
    open_BL: Tensor
    signal_BL: Tensor
    uniforms: Callable[[], Tensor]
    alpha: Callable[[Tensor], Tensor]
    level: Callable[[Tensor], Tensor]

    @property
    def score_BL(self) -> Tensor:
        """The signal between 0 and 1 over the open positions of every sequence (min-max); 0 where
        all are equal."""
        low_B1 = self.signal_BL.masked_fill(~self.open_BL, math.inf).amin(-1, keepdim=True)
        high_B1 = self.signal_BL.masked_fill(~self.open_BL, -math.inf).amax(-1, keepdim=True)
        scaled_BL = (self.signal_BL - low_B1) / (high_B1 - low_B1 + _EPSILON)
        return scaled_BL.masked_fill(~self.open_BL, 0.0)


@dataclass(frozen=True)
class Allocation:
    """Base of allocation policies; the fields are modifiers of any rule.

    Args:
        signal: `gradient` is the norm of the derivative of the guides' loss with respect to the
            classifier's input, of the last iteration; [O]: `entropy` (certain tokens are kept),
            `margin` (p1 - p2), `change` (tokens whose prediction moved least are kept, by total
            variation), `ablation` (drop of log p(label) without the token), `none`.
        invert: [O] read the signal the other way round.
        integer: levels are truncated to k / T and clamped to [1 / T, the first step's]; else they
            are clamped to [0, 1].
        monotonic: no level rises above that of the step before.
        warm_up: share of the steps that are constant first.
        pooled: [O] the noise-matched constant of the rule: every token of a sequence is noised to
            the mean level (`t`), or to the level of the mean alpha (`alpha`), of those that the
            rule would noise the tokens to.
        token_time: the denoiser reads t_i instead of t; for models trained with it.
    """

    signal: str = "gradient"
    invert: bool = False
    integer: bool = True
    monotonic: bool = False
    warm_up: float = 0.0
    pooled: str = "none"
    token_time: bool = False

    def __post_init__(self) -> None:
        """Check words and shares."""
        if self.signal not in SIGNALS:
            raise InputError(f"signal must be one of {', '.join(SIGNALS)}, got {self.signal!r}")
        if self.pooled not in ("none", "t", "alpha"):
            raise InputError(f"pooled must be 'none', 't' or 'alpha', got {self.pooled!r}")
        if not 0 <= self.warm_up <= 1:
            raise InputError(f"warm_up must be in [0, 1], got {self.warm_up}")

    def raw_levels(self, view: AllocationView) -> Tensor:
        """t_i by the rule alone, float64, broadcastable to (B, L)."""
        raise NotImplementedError

    @property
    def reads(self) -> str:
        """The signal that has to be computed."""
        return self.signal

    def is_warming_up(self, step: int, num_steps: int) -> bool:
        """Whether levels of a step are constant whatever the rule."""
        return step < self.warm_up * num_steps - 1e-9

    def levels(self, view: AllocationView) -> Tensor:
        """t_i of every token at this step by the rule and its modifiers, before they are pooled,
        float64 (B, L)."""
        t_BL = self.raw_levels(view).expand(view.free_BL.shape)
        if self.is_warming_up(view.step, view.num_steps):
            t_BL = torch.full_like(t_BL, view.t)
        if self.monotonic:
            t_BL = torch.minimum(t_BL, view.clock_BL)
        if self.integer:
            T = view.num_steps
            # A level such as 59 / 100 times 100 may lie just below 59.
            t_BL = (t_BL * T + 1e-9).floor() / T
            t_BL = t_BL.clamp(min(1 / T, view.highest), view.highest)
        return t_BL.clamp(0.0, 1.0)

    def kappas(self, alpha_T1: Sequence[float]) -> list[float]:
        """Share of the reverse step at every step, see `Psi`; 1 for all other policies."""
        return [1.0] * (len(alpha_T1) - 1)

    def pool(self, s_BL: Tensor, view: AllocationView) -> Tensor:
        """The levels that tokens are noised to, of those by the rule: a common one of every
        sequence, or the same where nothing is pooled; float64 (B, L).

        Sequences without open positions have no mean, and nobody reads their levels.
        """
        if self.pooled == "none":
            return s_BL
        count_B1 = view.open_BL.sum(-1, keepdim=True).clamp(min=1)

        def mean(values_BL: Tensor) -> Tensor:
            return (values_BL * view.open_BL).sum(-1, keepdim=True) / count_B1

        pooled_B1 = mean(s_BL) if self.pooled == "t" else view.level(mean(view.alpha(s_BL)))
        return pooled_B1.expand(s_BL.shape)
