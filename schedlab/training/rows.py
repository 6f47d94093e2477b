"""What a run is trained on and measured with: rows of a text, or of a task.

Letters: B rows of a step, S held-out rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from schedlab.files import canonical_json, sha256_text
from schedlab.tasks import TrainingItems
from schedlab.tasks.rows import encode_prompts, encode_rows
from schedlab.text import Tokenizer
from schedlab.text.corpora import Corpus
from schedlab.training.batches import windows_of_step

_SPOKEN_FOR = 16


class Rows(Protocol):
    """Rows of one length, the same for the same step."""

    @property
    def source(self) -> str:
        """Where they are from, for people."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of all that the rows follow from."""
        ...

    @property
    def held_out_SL(self) -> np.ndarray:
        """(S, L) rows that are not trained on."""
        ...

    @property
    def given(self) -> int:
        """Positions at the start of every row that are never masked."""
        ...

    def of_step(self, step: int, *, batch_size: int, seed: int) -> np.ndarray:
        """(B, L) int64 rows of a step."""
        ...

    def __str__(self) -> str: ...


@dataclass(frozen=True)
class TextRows:
    """Windows of a corpus, packed in one line of documents."""

    corpus: Corpus
    stream: np.ndarray
    held_out_SL: np.ndarray
    given: int = 0

    @property
    def source(self) -> str:
        """The corpus."""
        return self.corpus.source

    @property
    def fingerprint(self) -> str:
        """Of the corpus."""
        return self.corpus.fingerprint

    def of_step(self, step: int, *, batch_size: int, seed: int) -> np.ndarray:
        """See `windows_of_step`."""
        length = int(self.held_out_SL.shape[1])
        return windows_of_step(
            self.stream, length=length, batch_size=batch_size, seed=seed, step=step
        )

    def __str__(self) -> str:
        return f"corpus {self.fingerprint[:16]}, {len(self.stream)} training tokens"


@dataclass(frozen=True)
class TaskRows:
    """Prompts with their answers: the prompt is given, the answer and what fills up the row up to
    its length are masked."""

    items: TrainingItems
    tokenizer: Tokenizer
    held_out_SL: np.ndarray
    given: int
    fingerprint: str

    @classmethod
    def of(
        cls, items: TrainingItems, tokenizer: Tokenizer, *, length: int, held_out: int
    ) -> TaskRows:
        """Rows of a task; the longest prompt says how many positions are given.

        Raises:
            InputError: prompts and answers that do not fit, or that the tokenizer cannot write.
        """
        where = f"task {items.config.source}"
        valid = items.valid(held_out)
        known = [*(items.file or valid)]
        given = encode_prompts(known, tokenizer, where=where).tokens_NP.shape[1]
        held_out_SL = encode_rows(valid, tokenizer, prompt=given, length=length, where=where)
        # Of an embedded task a few speak for all: how many are measured is no part of a run.
        spoken_for = items.file or items.valid(_SPOKEN_FOR)
        content = [[item.prompt, item.answer] for item in spoken_for]
        fingerprint = sha256_text(canonical_json([items.config.model_dump(), content]))
        return cls(items, tokenizer, held_out_SL, given, fingerprint)

    @property
    def source(self) -> str:
        """Where the items are from."""
        return f"task {self.items.config.source}"

    def of_step(self, step: int, *, batch_size: int, seed: int) -> np.ndarray:
        """The step's items, each once per epoch of a file and never again of an embedded task."""
        return encode_rows(
            self.items.train(step * batch_size, batch_size, seed),
            self.tokenizer,
            prompt=self.given,
            length=int(self.held_out_SL.shape[1]),
            where=self.source,
        )

    def __str__(self) -> str:
        return (
            f"{self.source}, {self.given} given and {self.held_out_SL.shape[1]} positions in all"
        )
