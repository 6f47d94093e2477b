"""What sequences are given: prefixes to go on from, tasks to answer, whole texts to be scored.

Legend: N prompts or texts, B sequences, P prefix positions, L positions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedlab.errors import InputError
from schedlab.files import canonical_json, sha256_text
from schedlab.results.seed_block import SeedBlock
from schedlab.tasks import Item, Task


@dataclass(frozen=True, eq=False)
class Prompts:
    """N prefixes of P tokens; sequence number j of any seed starts with prefix j mod N.

    Args:
        tokens_NP: token ids, int64, P >= 1.
        task: whose prompts they are, item by item; what is written behind them is judged by it.
        padding_N: positions in front of every prompt that only fill it up, where some are
            shorter. Denoisers that can do not look at them; others were trained to.
    """

    tokens_NP: NDArray[np.int64]
    task: Task | None = None
    padding_N: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        if self.tokens_NP.ndim != 2 or 0 in self.tokens_NP.shape:
            raise InputError(f"prompts must have shape (N, P), got {self.tokens_NP.shape}")
        if self.task is not None and len(self.task) != len(self.tokens_NP):
            raise InputError(
                f"a task needs one prompt per item, got {len(self.tokens_NP)} prompts for"
                f" {len(self.task)} items"
            )

    @classmethod
    def of(
        cls,
        tokens_NP: ArrayLike,
        task: Task | None = None,
        padding_N: ArrayLike | None = None,
    ) -> Prompts:
        """From any integer array or list of equally long lists."""
        padding = None if padding_N is None else np.array(padding_N, dtype=np.int64)
        if padding is not None and not padding.any():
            padding = None
        return cls(np.array(tokens_NP, dtype=np.int64, ndmin=2), task, padding)

    @property
    def prefix_length(self) -> int:
        """Given positions P."""
        return self.tokens_NP.shape[1]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that is given and how answers are judged."""
        return self._digest(range(len(self.tokens_NP)))

    def digest_of(self, block: SeedBlock) -> str:
        """The same of a block's own prefixes: more prompts leave stored blocks as they are."""
        return self._digest(range(block.first, block.first + block.size))

    def of_block(self, block: SeedBlock) -> NDArray[np.int64]:
        """Prefixes of a block's sequences, (B, P)."""
        rows_B = np.arange(block.first, block.first + block.size) % len(self.tokens_NP)
        return self.tokens_NP[rows_B]

    def padding_of_block(self, block: SeedBlock) -> NDArray[np.int64] | None:
        """Positions that fill up a block's prefixes, (B,); None where none do."""
        if self.padding_N is None:
            return None
        rows_B = np.arange(block.first, block.first + block.size) % len(self.padding_N)
        return self.padding_N[rows_B]

    def _digest(self, numbers: range) -> str:
        rows_B = np.array(numbers) % len(self.tokens_NP)
        digest = _digest(self.tokens_NP[rows_B])
        if self.padding_N is not None:
            digest = sha256_text(digest + _digest(self.padding_N[rows_B]))
        if self.task is not None:
            digest = sha256_text(digest + self.task.fingerprint(numbers))
        return digest

    def to_json(self) -> dict[str, Any]:
        """As JSON data, for another process."""
        task = self.task
        return {
            "tokens": self.tokens_NP.tolist(),
            "padding": None if self.padding_N is None else self.padding_N.tolist(),
            "task": None
            if task is None
            else {
                "name": task.name,
                "items": [[item.prompt, item.answer] for item in task.items],
                "scorer": task.scorer,
                "pattern": task.pattern,
            },
        }


@dataclass(frozen=True, eq=False)
class HeldOut:
    """N texts of L tokens, whose likelihood under a plan is measured instead of sampling; sequence
    number j is text j mod N.

    Args:
        tokens_NL: token ids, int64.
        prefix_length: tokens that are given, which are not scored.
    """

    tokens_NL: NDArray[np.int64]
    prefix_length: int = 0

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all texts and how much of them is given."""
        return self._digest(self.tokens_NL)

    def digest_of(self, block: SeedBlock) -> str:
        """The same of a block's own texts."""
        return self._digest(self.of_block(block))

    def of_block(self, block: SeedBlock) -> NDArray[np.int64]:
        """Texts of a block's sequences, (B, L)."""
        rows_B = np.arange(block.first, block.first + block.size) % len(self.tokens_NL)
        return self.tokens_NL[rows_B]

    def _digest(self, tokens_BL: NDArray[np.int64]) -> str:
        return sha256_text(canonical_json(["held out", self.prefix_length, _digest(tokens_BL)]))

    def to_json(self) -> dict[str, Any]:
        """As JSON data, for another process."""
        return {"texts": self.tokens_NL.tolist(), "prefix_length": self.prefix_length}


Given = Prompts | HeldOut
"""What the sequences of an evaluation are given; None is nothing: unconditional samples."""


def given_from_json(data: dict[str, Any] | None) -> Given | None:
    """The other end of `to_json`."""
    if data is None:
        return None
    if "texts" in data:
        return HeldOut(np.array(data["texts"], dtype=np.int64, ndmin=2), data["prefix_length"])
    task = data["task"]
    if task is not None:
        items = tuple(Item(*item) for item in task["items"])
        task = Task(task["name"], items, task["scorer"], task["pattern"])
    return Prompts.of(data["tokens"], task, data["padding"])


def _digest(tokens_NP: NDArray[np.int64]) -> str:
    payload = tokens_NP.astype("<i8").tobytes()
    return hashlib.sha256(f"{tokens_NP.shape}".encode() + payload).hexdigest()
