"""Given prefixes for conditional samples.

Legend: N prompts, B sequences, P prefix positions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedlab.errors import InputError
from schedlab.results.seed_block import SeedBlock


@dataclass(frozen=True, eq=False)
class Prompts:
    """N prefixes of P tokens; sequence number j of any seed starts with prefix j mod N.

    Args:
        tokens_NP: token ids, int64, P >= 1.
    """

    tokens_NP: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.tokens_NP.ndim != 2 or 0 in self.tokens_NP.shape:
            raise InputError(f"prompts must have shape (N, P), got {self.tokens_NP.shape}")

    @classmethod
    def of(cls, tokens_NP: ArrayLike) -> Prompts:
        """From any integer array or list of equally long lists."""
        return cls(np.array(tokens_NP, dtype=np.int64, ndmin=2))

    @property
    def prefix_length(self) -> int:
        """Given positions P."""
        return self.tokens_NP.shape[1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of shape and tokens."""
        return _digest(self.tokens_NP)

    def digest_of(self, block: SeedBlock) -> str:
        """SHA-256 of a block's own prefixes: more prompts leave stored blocks as they are."""
        return _digest(self.of_block(block))

    def of_block(self, block: SeedBlock) -> NDArray[np.int64]:
        """Prefixes of a block's sequences, (B, P)."""
        rows_B = np.arange(block.first, block.first + block.size) % len(self.tokens_NP)
        return self.tokens_NP[rows_B]


def _digest(tokens_NP: NDArray[np.int64]) -> str:
    payload = tokens_NP.astype("<i8").tobytes()
    return hashlib.sha256(f"{tokens_NP.shape}".encode() + payload).hexdigest()
