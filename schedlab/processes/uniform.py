"""The uniform-state process of UDLM (2412.10193) and DUO (2506.10892).

Forward: a token is kept with probability alpha_t, else it is any of the V tokens. Reverse: the
exact posterior, with the prediction in place of the token; every position may change at every
step.

Legend: N positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError


@dataclass(frozen=True)
class UniformProcess:
    """Uniform-state process over `vocab_size` tokens."""

    vocab_size: int

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise InputError(f"a vocabulary must hold at least 2 tokens, got {self.vocab_size}")

    def forward(self, x: Tensor, alpha: Tensor | float, u: Tensor, token_u: Tensor) -> Tensor:
        """z_t ~ q(. | x): kept where u < alpha, else the token that `token_u` in (0, 1) picks."""
        return torch.where(u < alpha, x, (token_u * self.vocab_size).long())

    def posterior(self, z_N: Tensor, p_NV: Tensor, alpha_t_N: Tensor, alpha_s_N: Tensor) -> Tensor:
        """q(z_s | z_t, p), float64 (N, V), for s <= t.

        Proportional to (a z_t + (1 - a) / V) (alpha_s p + (1 - alpha_s) / V), a = alpha_t /
        alpha_s. `p_NV` must be the leave-one-out prediction (what networks trained by the plug-in
        bound learn); see `leave_one_out` for others.
        """
        V = self.vocab_size
        ratio_N1 = torch.where(alpha_s_N > 0, alpha_t_N / alpha_s_N, 1.0).double()[:, None]
        alpha_s_N1 = alpha_s_N.double()[:, None]
        weight_NV = alpha_s_N1 * p_NV.double() + (1.0 - alpha_s_N1) / V
        stays_N1 = weight_NV.gather(1, z_N[:, None]) * (ratio_N1 + (1.0 - ratio_N1) / V)
        weight_NV *= (1.0 - ratio_N1) / V
        # Where nothing moves the token stays, however unlikely the prediction finds it.
        weight_NV.scatter_(1, z_N[:, None], torch.where(ratio_N1 == 1.0, 1.0, stays_N1))
        return weight_NV / weight_NV.sum(-1, keepdim=True)

    def noised(self, p_NV: Tensor, alpha_N: Tensor) -> Tensor:
        """The law of tokens with probabilities `p_NV` after noising, float64 (N, V)."""
        alpha_N1 = alpha_N.double()[:, None]
        return alpha_N1 * p_NV.double() + (1.0 - alpha_N1) / self.vocab_size

    def leave_one_out(self, logits_NV: Tensor, z_N: Tensor, alpha_t_N: Tensor) -> Tensor:
        """Logits of p(x_i | z_t without position i) from those of an ordinary posterior, (N, V):
        log(1 + V alpha / (1 - alpha)) less for the token that stands there."""
        return logits_NV.scatter_add(1, z_N[:, None], -self._evidence(alpha_t_N, logits_NV))

    def all_in(self, logits_NV: Tensor, z_N: Tensor, alpha_t_N: Tensor) -> Tensor:
        """The inverse of `leave_one_out`: logits of p(x_i | z_t), (N, V)."""
        return logits_NV.scatter_add(1, z_N[:, None], self._evidence(alpha_t_N, logits_NV))

    def _evidence(self, alpha_t_N: Tensor, like: Tensor) -> Tensor:
        """log(1 + V alpha / (1 - alpha)), (N, 1): how much the token that stands there speaks for
        itself."""
        odds_N = self.vocab_size * alpha_t_N / (1.0 - alpha_t_N).clamp(min=1e-12)
        return torch.log1p(odds_N).to(like.dtype)[:, None]
