"""Addressed random numbers: the value depends on where it is used, never on when it was asked for.

Address = (seed, purpose, sequence, position, visit). Results therefore do not depend on batch
size, device count or which other plans run, and two plans share all their noise (common random
numbers).

Every address seeds a SplitMix64 stream (Steele, Lea, Flood 2014: counter-based, passes BigCrush):
element j of the stream at address key a is mix(a + (j + 1) * golden). Integer arithmetic on int64
wraps, so the bits are equal on every device. Uniforms have 52 bits and lie in (0, 1), so Gumbel
noise is float64-correct: it reaches 36.7, where float32 noise is cut at 16.6 and lowers the
entropy of what is drawn.

Legend: B sequences, L positions, N picked positions, V vocabulary.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schedlab.results.seed_block import SeedBlock

_MASK64 = (1 << 64) - 1


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit integer."""
    value &= _MASK64
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


class Purpose(IntEnum):
    """What a random number decides; part of its address. Values are part of stored results."""

    REVEAL = 1
    TOKEN = 2
    FORWARD = 3
    LEVEL = 4
    REMASK = 5
    SIMPLEX = 6
    CLOCK = 7
    NOISE_TOKEN = 8


@dataclass(frozen=True)
class SequenceIds:
    """Names of the sequences of a batch: `seed_B` and `index_B`, int64 (B,)."""

    seed_B: Tensor
    index_B: Tensor

    def __len__(self) -> int:
        return self.seed_B.shape[0]

    def pick(self, rows: Tensor) -> SequenceIds:
        """The sequences at these rows (indices, boolean mask or slice)."""
        return SequenceIds(self.seed_B[rows], self.index_B[rows])

    @classmethod
    def of(cls, blocks: Sequence[SeedBlock], *, device: torch.device | str = "cpu") -> SequenceIds:
        """The sequences of these seed blocks, one after the other."""
        seeds = [block.seed for block in blocks for _ in range(block.size)]
        index = [block.first + j for block in blocks for j in range(block.size)]
        return cls(torch.tensor(seeds, device=device), torch.tensor(index, device=device))


def uniforms(
    ids: SequenceIds, purpose: Purpose, position_L: Tensor, visit: Tensor | int = 0
) -> Tensor:
    """One uniform in (0, 1) per sequence and position, float64 (B, L); `visit` broadcasts."""
    key_B1 = _fold(_fold(ids.seed_B, int(purpose)), ids.index_B)[:, None]
    return _to_unit(_mix(_fold(_fold(key_B1, position_L), visit) + _GOLDEN))


def uniforms_at(
    ids_N: SequenceIds, purpose: Purpose, position_N: Tensor, visit: Tensor | int = 0
) -> Tensor:
    """One uniform in (0, 1) per address, float64 (N,): `uniforms` at picked positions."""
    key_N = _fold(_fold(ids_N.seed_B, int(purpose)), ids_N.index_B)
    return _to_unit(_mix(_fold(_fold(key_N, position_N), visit) + _GOLDEN))


def gumbels(
    ids_N: SequenceIds, purpose: Purpose, position_N: Tensor, visit_N: Tensor | int, num: int
) -> Tensor:
    """`num` standard Gumbel variates per address, float64 (N, num)."""
    key_N = _fold(_fold(ids_N.seed_B, int(purpose)), ids_N.index_B)
    key_N = _fold(_fold(key_N, position_N), visit_N)
    if key_N.device.type == "cpu":
        uniform_NV = torch.from_numpy(_stream(key_N.numpy(), num))
    else:
        counter_V = torch.arange(1, num + 1, device=key_N.device)
        uniform_NV = _to_unit(_mix(key_N[:, None] + counter_V * _GOLDEN))
    return uniform_NV.log_().neg_().log_().neg_()


def normals(
    ids_N: SequenceIds, purpose: Purpose, position_N: Tensor, visit_N: Tensor | int, num: int
) -> Tensor:
    """`num` standard normal variates per address, float32 (N, num).

    Box and Muller's transform of the two halves of every 64 bits: magnitudes reach 6.8, and a
    larger one is due once in 10^11 variates.
    """
    key_N = _fold(_fold(ids_N.seed_B, int(purpose)), ids_N.index_B)
    key_N = _fold(_fold(key_N, position_N), visit_N)
    pairs = (num + 1) // 2
    found_NV = torch.empty((len(key_N), 2 * pairs), device=key_N.device)
    rows = max(1, (_CPU_NORMALS if key_N.device.type == "cpu" else _GPU_NORMALS) // pairs)
    for key_C, part_CV in zip(key_N.split(rows), found_NV.split(rows), strict=True):
        upper_CP, lower_CP = _halves(key_C, pairs)
        radius_CP = upper_CP.log_().mul_(-2.0).sqrt_()
        angle_CP = lower_CP.mul_(2.0 * math.pi)
        torch.mul(radius_CP, angle_CP.cos(), out=part_CV[:, :pairs])
        torch.mul(radius_CP, angle_CP.sin_(), out=part_CV[:, pairs:])
    return found_NV[:, :num]


_CPU_NORMALS, _GPU_NORMALS = 1 << 15, 1 << 24
"""Pairs at a time: on CPUs arrays that stay in the cache."""


def _halves(key_N: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Two uniforms in (0, 1] from each of `num` elements of every stream, float32 (N, num)."""
    if key_N.device.type == "cpu":
        halves_N2P = _mixed(key_N.numpy(), num).view(np.uint32).reshape(len(key_N), num, 2)
        unit = halves_N2P.astype(np.float32)
        unit += np.float32(0.5)
        unit *= np.float32(2.0**-32)
        found = torch.from_numpy(unit)
        return found[..., 0].contiguous(), found[..., 1].contiguous()
    counter_P = torch.arange(1, num + 1, device=key_N.device)
    x_NP = _mix(key_N[:, None] + counter_P * _GOLDEN)
    lower_NP, upper_NP = x_NP & 0xFFFFFFFF, _shift_right(x_NP, 32)
    return tuple((x.float() + 0.5) * 2.0**-32 for x in (lower_NP, upper_NP))  # type: ignore[return-value]


def _fold(key: Tensor, part: Tensor | int) -> Tensor:
    """Extend an address by one part; distinct parts give unrelated keys."""
    return _mix(_mix(key + _GOLDEN) ^ (torch.as_tensor(part, device=key.device) * _GOLDEN))


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser (Stafford's variant 13) on int64, a bijection."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


@functools.lru_cache(maxsize=4)
def _counters(num: int) -> NDArray[np.uint64]:
    """What the first `num` elements of every stream add to its key."""
    return np.arange(1, num + 1, dtype=np.uint64) * np.uint64(_GOLDEN & _MASK64)


def _stream(key_N: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    """`_to_unit(_mix(...))` of the first `num` counters of every key, (N, num), the same bits.

    numpy has unsigned shifts and works in place: twice as fast as torch on CPUs, where
    this is most of a draw at large vocabularies.
    """
    x = _mixed(key_N, num)
    # The upper 52 bits as the fraction of a double in [1, 2); what is left is exact.
    np.right_shift(x, np.uint64(12), out=x)
    np.bitwise_or(x, np.uint64(0x3FF << 52), out=x)
    unit = x.view(np.float64)
    unit -= 1.0 - 2.0**-53
    return unit


def _mixed(key_N: NDArray[np.int64], num: int) -> NDArray[np.uint64]:
    """`_mix` of the first `num` counters of every key, (N, num)."""
    x = key_N.view(np.uint64)[:, None] + _counters(num)
    shifted = np.empty_like(x)
    for bits, factor in ((30, _MIX_1), (27, _MIX_2)):
        np.right_shift(x, np.uint64(bits), out=shifted)
        np.bitwise_xor(x, shifted, out=x)
        np.multiply(x, np.uint64(factor & _MASK64), out=x)
    np.right_shift(x, np.uint64(31), out=shifted)
    np.bitwise_xor(x, shifted, out=x)
    return x


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift; torch's `>>` on int64 copies the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _to_unit(x: Tensor) -> Tensor:
    """The upper 52 bits as a float64 in (0, 1): (bits + 1/2) / 2^52.

    With 53 bits the half would not fit: the largest would be rounded to 1.
    """
    return _shift_right(x, 12).to(torch.float64).add_(0.5).mul_(2.0**-52)
