"""Some positions of a sequence computed anew, with what is kept of the others.

Of every position and block that is kept which others read (keys and values, say), and at the end
the features. Positions that are not computed are read as they were when they last were. Position L
is a filler: what is computed there is read by nobody, so rows may have one shape.

Legend: B sequences, L positions, A of them computed, D hidden size, E kept of a block, F kept in
all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn


class KeepingBlock(Protocol):
    """A block that can be computed at some positions."""

    @property
    def kept_width(self) -> int:
        """E, numbers kept of a position."""
        ...

    def refresh(
        self, x_BAD: Tensor, rotary: Tensor, kept_BLE: Tensor, position_BA: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output (B, A, D) of inputs at some positions, and what is kept of them, (B, A, E)."""
        ...


def put(kept_BLE: Tensor, fresh_BAE: Tensor, position_BA: Tensor) -> Tensor:
    """What is kept, with something fresh at some positions, (B, L, E)."""
    with_filler = torch.cat((kept_BLE, kept_BLE[:, :1]), dim=1)
    with_filler.scatter_(1, position_BA[..., None].expand_as(fresh_BAE), fresh_BAE)
    return with_filler[:, :-1]


def pick(x_BLE: Tensor, position_BA: Tensor) -> Tensor:
    """Of every sequence its own positions, (B, A, E); anything for fillers."""
    position_BA = position_BA.clamp(max=x_BLE.shape[1] - 1)
    return x_BLE.gather(1, position_BA[..., None].expand(-1, -1, x_BLE.shape[-1]))


def refreshed(
    blocks: Iterable[KeepingBlock],
    norm: nn.Module,
    x_BAD: Tensor,
    rotary: Tensor,
    kept_BLF: Tensor | None,
    position_BA: Tensor,
) -> Tensor:
    """What is kept of positions that are computed, (B, A, F).

    Args:
        blocks, norm: of the network.
        x_BAD: embedded tokens at these positions.
        rotary: table of the whole sequence.
        kept_BLF: what is kept of all positions; None where nothing is yet and all are computed.
        position_BA: which, int64, none of them twice but fillers.
    """
    last = rotary.shape[1] - 1
    rotary = rotary[:, position_BA.clamp(max=last)]  # (2, B, A, 1, 1, head_size)
    fresh, begin = [], 0
    for block in blocks:
        width = block.kept_width
        if kept_BLF is None:
            kept_BLE = x_BAD.new_zeros((*x_BAD.shape[:2], width))
        else:
            kept_BLE = kept_BLF[..., begin : begin + width]
        x_BAD, fresh_BAE = block.refresh(x_BAD, rotary, kept_BLE, position_BA)
        fresh.append(fresh_BAE)
        begin += width
    return torch.cat((*fresh, norm(x_BAD)), dim=-1)
