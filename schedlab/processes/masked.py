"""The masked (absorbing) process of MDLM, arXiv 2406.07524.

Forward: a position is kept with probability alpha_t, else it is the mask token. Reverse: a masked
position is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t) and then drawn from the
prediction. Which positions are revealed does not depend on the prediction.

Both directions are driven by one uniform u per position and visit: kept, or revealed, where
u < alpha. Going down a grid with a fixed u therefore reveals with exactly the conditional
probability above, and a position's timetable is known before the first forward.

Legend: B sequences, L positions, N picked positions, V vocabulary with the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError


@dataclass(frozen=True)
class MaskedProcess:
    """Masked process over `vocab_size` tokens, of which `mask_id` is the mask."""

    vocab_size: int
    mask_id: int

    def __post_init__(self) -> None:
        if not 0 <= self.mask_id < self.vocab_size or self.vocab_size < 2:
            raise InputError(
                f"mask_id must lie in a vocabulary of at least 2, got {self.mask_id} of"
                f" {self.vocab_size}"
            )

    def prior(self, num_sequences: int, length: int, *, device: torch.device | str) -> Tensor:
        """The state at t = 1: all masks, int64 (B, L)."""
        return torch.full((num_sequences, length), self.mask_id, device=device)

    def forward(self, x_BL: Tensor, alpha_t: Tensor | float, u_BL: Tensor) -> Tensor:
        """z_t ~ q(. | x): position kept where u < alpha_t, else masked. alpha_t broadcasts."""
        return torch.where(u_BL < alpha_t, x_BL, self.mask_id)

    def revealed(self, z_BL: Tensor, alpha_s_BL: Tensor | float, u_BL: Tensor) -> Tensor:
        """Positions that a step to alpha_s reveals, bool (B, L): masked and u < alpha_s."""
        return (z_BL == self.mask_id) & (u_BL < alpha_s_BL)

    def log_p_x(
        self,
        logits_NV: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Log-probabilities of the token at masked positions, (N, V) of `dtype`.

        Draws need float64; float32 does for averages over many positions.

        The mask has probability 0 (SUBS, section 3.2.3 of MDLM). `top_p` < 1 keeps the smallest
        set of most likely tokens whose probability reaches it, after the temperature.
        """
        log_probs_NV = self.scores(logits_NV, temperature, dtype=dtype).log_softmax(-1)
        return log_probs_NV if top_p >= 1.0 else _truncate(log_probs_NV, top_p)

    def scores(
        self,
        logits_NV: Tensor,
        temperature: float = 1.0,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """`log_p_x` at top-p 1 up to a constant per row, which no draw depends on, (N, V)."""
        scores_NV = logits_NV.to(dtype, copy=True).div_(temperature)
        scores_NV[:, self.mask_id] = -torch.inf
        return scores_NV


def _truncate(log_probs_NV: Tensor, top_p: float) -> Tensor:
    """Renormalised log-probabilities of the smallest set of tokens that reaches `top_p`."""
    sorted_NV, order_NV = log_probs_NV.sort(dim=-1, descending=True, stable=True)
    probs_NV = sorted_NV.exp()
    before_NV = probs_NV.cumsum(-1) - probs_NV
    kept_NV = torch.empty_like(before_NV, dtype=torch.bool).scatter_(
        -1, order_NV, before_NV < top_p
    )
    return log_probs_NV.masked_fill(~kept_NV, -torch.inf).log_softmax(-1)
