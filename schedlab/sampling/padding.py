"""Prompts of unequal length, filled up in front.

Legend: B sequences, L positions, P given positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.commit import CommitPolicy


def padding_of(
    policy: CommitPolicy, padding_B: Tensor | None, z_BL: Tensor, first: int
) -> Tensor | None:
    """Positions that are filled up, bool (B, L); None where nothing is.

    Args:
        policy: what reads the sequences.
        padding_B: how many positions of every row are, int64.
        z_BL: the sequences.
        first: P; a token of every prompt must be given.

    Raises:
        InputError: other numbers, or a policy with shadows, locks or a cache.
    """
    if padding_B is None:
        return None
    if padding_B.shape != z_BL.shape[:1] or ((padding_B < 0) | (padding_B >= first)).any():
        raise InputError(
            f"padding must be ({len(z_BL)},) numbers in [0, {first}), as many as the sequences and"
            f" fewer than the prompt has positions, got {padding_B.tolist()[:8]}"
        )
    if policy.shadowed or policy.keeps:
        raise InputError(
            "shadows, locks and caches take no padding; choose another policy or prompts of one"
            " length"
        )
    return torch.arange(z_BL.shape[1], device=z_BL.device) < padding_B[:, None]
