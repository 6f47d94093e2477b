"""Seed blocks: which sequences a stored evaluation holds.

Randomness is addressed by (seed, sequence index, ...), so a block of indices names its sequences
completely, and adding blocks to a measurement never repeats one.
"""

from __future__ import annotations

from dataclasses import dataclass

from schedlab.errors import InputError

BLOCK_SIZE = 16


@dataclass(frozen=True, order=True)
class SeedBlock:
    """Sequences (seed, first), ..., (seed, first + size - 1)."""

    seed: int
    first: int
    size: int

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise InputError(f"a seed must lie in [0, 2^63), got {self.seed}")
        if self.first < 0 or self.size < 1:
            raise InputError(
                f"a seed block needs first >= 0 and size >= 1, got {self.first} and {self.size}"
            )


def seed_blocks(
    seed: int, num_sequences: int, block_size: int = BLOCK_SIZE
) -> tuple[SeedBlock, ...]:
    """Cover `num_sequences` sequences of `seed` with blocks of one fixed size.

    The number must be a multiple of the block size, so that stored blocks always fit.
    """
    if num_sequences < 1 or num_sequences % block_size:
        raise InputError(
            f"number of sequences must be a positive multiple of {block_size},"
            f" got {num_sequences}; use {max(1, round(num_sequences / block_size)) * block_size}"
        )
    return tuple(
        SeedBlock(seed, first, block_size) for first in range(0, num_sequences, block_size)
    )
