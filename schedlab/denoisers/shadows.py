"""Shadows: mask tokens behind a sequence that predict tokens which already stand, without them.

A shadow stands at the position of the token it is of and sees all of the sequence but that token,
and the other shadows; the sequence sees no shadow, so its own features are those of a forward
without any (WINO, 2507.18578 [P]; whole blocks of shadows as in its released code [C]). What the
rest of the sequence has read of the token in earlier blocks of the network still reaches its
shadow; only a network of one block leaves it out altogether.

Legend: B sequences, L positions, K shadows of a sequence, S = L + K tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def shadow_positions(length: int, place_BK: Tensor) -> Tensor:
    """The position that every token stands at, (B, S)."""
    position_L = torch.arange(length, device=place_BK.device)
    return torch.cat((position_L.expand(len(place_BK), -1), place_BK.clamp(min=0)), dim=1)


def shadow_attention(length: int, place_BK: Tensor) -> Tensor:
    """Which token (row) reads which (column), bool (B, 1, S, S).

    Args:
        length: L.
        place_BK: what the shadows are of; -1 where a sequence has fewer than K: nobody reads
            these, and what they predict means nothing.
    """
    B, K = place_BK.shape
    read_BSS = torch.zeros((B, length + K, length + K), dtype=torch.bool, device=place_BK.device)
    read_BSS[:, :, :length] = True
    position_L = torch.arange(length, device=place_BK.device)
    read_BSS[:, length:, :length] = place_BK[..., None] != position_L
    read_BSS[:, length:, length:] = (place_BK >= 0)[:, None]
    return read_BSS[:, None]
