"""Texts that have come to their end: which masks are left behind it.

Legend: R sequences, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.commit import CommitPolicy


def checked_end(policy: CommitPolicy, end_id: int | None) -> int | None:
    """The token that a policy stops at; None where it does not stop.

    Raises:
        InputError: it stops, and nobody said at which token.
    """
    if policy.stop_at_end and end_id is None:
        raise InputError(
            "a policy with stop_at_end needs the end-of-text token; give end_id, a tokenizer's"
            " eot_id"
        )
    return end_id if policy.stop_at_end else None


def masks_behind_end(
    z_RL: Tensor, mask_id: int, end_id: int, first: int, last_R: Tensor
) -> Tensor:
    """Masks of texts that hold the end token with no mask before it, bool (R, L).

    Args:
        z_RL: tokens.
        mask_id, end_id: of the mask and of the end.
        first: where generated text begins: an end in the prompt is none.
        last_R: and up to where it is final.
    """
    position_L = torch.arange(z_RL.shape[1], device=z_RL.device)
    is_mask_RL = z_RL == mask_id
    whole_RL = is_mask_RL.long().cumsum(dim=-1) == 0
    is_end_RL = (z_RL == end_id) & whole_RL
    is_end_RL &= (position_L >= first) & (position_L < last_R[:, None])
    return is_mask_RL & is_end_RL.any(dim=-1, keepdim=True)
