"""The simplex process of SSD-LM (2210.17432), TESS (2305.08379) and TTA (2510.26200).

A token w stands for the point K (2 e_w - 1) of R^V, and X_t = sqrt(alpha_t) K (2 e_x - 1) +
sqrt(1 - alpha_t) K eps. A step draws w from the prediction and noises it to the next level by the
same formula: nothing else of X_t survives, so the level is the only memory of a position, and it
may differ from position to position.

Legend: B sequences, L positions, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.errors import InputError


@dataclass(frozen=True)
class SimplexProcess:
    """Simplex process over `vocab_size` tokens with simplex value K (5 in all three papers)."""

    vocab_size: int
    value: float = 5.0

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise InputError(f"a vocabulary must hold at least 2 tokens, got {self.vocab_size}")
        if not self.value > 0:
            raise InputError(f"the simplex value must be positive, got {self.value}")

    def noised(self, w_BL: Tensor, alpha: Tensor | float, noise_BLV: Tensor) -> Tensor:
        """X at level alpha of tokens w, (..., V): forward process and every step of a sampler.

        Args:
            w_BL: tokens, int64.
            alpha: share alpha of the signal, of every position or common to all.
            noise_BLV: standard normal; **overwritten** by the result, which has its dtype: at
                large vocabularies a second array of this size would be most of the memory.
        """
        alpha_BL = torch.as_tensor(alpha, dtype=torch.float64, device=w_BL.device)
        alpha_BL = alpha_BL.expand(w_BL.shape)[..., None]
        signal_BL = (self.value * alpha_BL.sqrt()).to(noise_BLV.dtype)
        noise_BLV *= (self.value * (1.0 - alpha_BL).sqrt()).to(noise_BLV.dtype)
        noise_BLV -= signal_BL
        return noise_BLV.scatter_add_(-1, w_BL[..., None], 2.0 * signal_BL)
