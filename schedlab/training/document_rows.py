"""Windows of single documents with their labels, for models of texts that are about something.

Packed windows (`TextRows`) run over the ends of documents; a classifier, or a denoiser that is
steered by one, needs texts of one label.

Letters: B rows of a step, S held-out rows, L positions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from schedlab.errors import InputError
from schedlab.files import canonical_json, sha256_text
from schedlab.text import Tokenizer
from schedlab.text.corpora import Corpus
from schedlab.text.documents import Document

_ORDER = 4  # a purpose of its own: see `batches`
PARTS = {"all": (0, 1), "first": (0, 2), "second": (1, 2)}
"""Parts of the training documents: (which, of how many) by a hash of the text, or of the group."""


@dataclass(frozen=True)
class DocumentRows:
    """Windows of L tokens of one document each; short documents are filled up with the separator.

    Args:
        corpus: the documents.
        tokens: of every training document that is used.
        label_of: number of its label.
        labels: names; without labels one name for all.
        held_out_SL, held_out_labels_S: windows of the valid split, the beginnings of documents.
        length: L.
        eot_id: the separator.
        balanced: every label as often as any other, else every window as often.
    """

    corpus: Corpus
    tokens: tuple[np.ndarray, ...]
    label_of: np.ndarray
    labels: tuple[str, ...]
    held_out_SL: np.ndarray
    held_out_labels_S: np.ndarray
    length: int
    eot_id: int
    balanced: bool
    part: str = "all"
    given: int = 0
    _epochs: dict[tuple[int, int, int], tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @classmethod
    def of(
        cls,
        corpus: Corpus,
        tokenizer: Tokenizer,
        *,
        length: int,
        labels: list[str] | None,
        held_out: int,
        part: str = "all",
        balanced: bool = False,
    ) -> DocumentRows:
        """Rows of a corpus.

        Args:
            length: tokens per window.
            labels: documents of these labels only; None takes all.
            held_out: at most so many held-out windows.
            part: of the training documents, see `PARTS`.
            balanced: see above.

        Raises:
            InputError: a label without documents.
        """
        which, of_how_many = PARTS[part]
        names = ("",) if labels is None else tuple(labels)
        train = [d for d in corpus.train if labels is None or d.label in names]
        train = [d for d in train if _part_of(d.unit, of_how_many) == which]
        valid = [d for d in corpus.valid if labels is None or d.label in names]
        for name in names if labels is not None else ():
            for split, documents in (("train", train), ("valid", valid)):
                if not any(document.label == name for document in documents):
                    known = sorted({d.label for d in corpus.train})
                    raise InputError(
                        f"labels: no document of the {split} split is labelled {name!r}; labels"
                        f" of {corpus.source!r}: {', '.join(known[:20])}"
                    )
        if not train or not valid:
            raise InputError(f"corpus {corpus.source!r}: no documents to train on or to measure")
        # Not the first of the source, which may be sorted by label.
        order = np.random.default_rng(_ORDER).permutation(len(valid))[:held_out]
        valid = [valid[place] for place in order]
        held_out_SL = np.stack(
            [filled(ids[:length], length, tokenizer.eot_id) for ids in _encoded(valid, tokenizer)]
        )
        return cls(
            corpus=corpus,
            tokens=tuple(_encoded(train, tokenizer)),
            label_of=_numbers(train, names),
            labels=names,
            held_out_SL=held_out_SL,
            held_out_labels_S=_numbers(valid, names),
            length=length,
            eot_id=tokenizer.eot_id,
            balanced=balanced,
            part=part,
        )

    @property
    def source(self) -> str:
        """The corpus."""
        return self.corpus.source

    @property
    def fingerprint(self) -> str:
        """Of all that the rows follow from."""
        facts = [self.corpus.fingerprint, self.labels, self.length, self.part, self.balanced]
        return sha256_text(canonical_json(facts))

    @property
    def num_tokens(self) -> int:
        """Training tokens."""
        return sum(map(len, self.tokens))

    def of_step(self, step: int, *, batch_size: int, seed: int) -> np.ndarray:
        """(B, L) int64 rows of a step."""
        return self.labelled(step, batch_size=batch_size, seed=seed)[0]

    def labelled(self, step: int, *, batch_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a step and numbers of their labels, (B, L) and (B,)."""
        rows, labels = [], []
        groups = len(self.labels) if self.balanced else 1
        for index in range(step * batch_size, (step + 1) * batch_size):
            group, place = index % groups, index // groups
            size = len(self._windows(group, 0, seed)[0])
            windows_WL, label_W = self._windows(group, place // size, seed)
            # Every epoch has as many windows: places of documents are shifted, not their number.
            rows.append(windows_WL[place % size])
            labels.append(label_W[place % size])
        return np.stack(rows).astype(np.int64), np.array(labels, dtype=np.int64)

    def _windows(self, group: int, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """All windows of an epoch, shuffled, with their labels; each epoch cuts documents at other
        places."""
        key = (group, epoch, seed)
        if key not in self._epochs:
            for old in [k for k in self._epochs if k[0] == group and k[1] not in (0, epoch)]:
                del self._epochs[old]
            self._epochs[key] = self._cut(group, epoch, seed)
        return self._epochs[key]

    def _cut(self, group: int, epoch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([seed, _ORDER, group, epoch])
        windows, labels = [], []
        for ids, label in zip(self.tokens, self.label_of, strict=True):
            if self.balanced and label != group:
                continue
            count = max(1, len(ids) // self.length)
            shift = int(rng.integers(max(0, len(ids) - count * self.length) + 1))
            for j in range(count):
                start = shift + j * self.length
                windows.append(filled(ids[start : start + self.length], self.length, self.eot_id))
                labels.append(label)
        order = rng.permutation(len(windows))
        return np.stack(windows)[order], np.array(labels)[order]

    def __str__(self) -> str:
        named = f", labels {', '.join(self.labels)}" if self.labels != ("",) else ""
        return (
            f"corpus {self.corpus.fingerprint[:16]}, {len(self.tokens)} documents with"
            f" {self.num_tokens} training tokens{named}"
        )


def filled(ids: np.ndarray, length: int, eot_id: int) -> np.ndarray:
    """Tokens filled up to a length with the separator."""
    return np.concatenate([ids, np.full(length - len(ids), eot_id, dtype=ids.dtype)])


def _encoded(documents: list[Document], tokenizer: Tokenizer) -> list[np.ndarray]:
    found = tokenizer.encode_batch([document.text for document in documents])
    return [np.array(ids, dtype=np.int32) for ids in found]


def _numbers(documents: list[Document], names: tuple[str, ...]) -> np.ndarray:
    return np.array([names.index(d.label) if names != ("",) else 0 for d in documents])


@lru_cache(maxsize=1 << 16)
def _part_of(text: str, of_how_many: int) -> int:
    return int(sha256_text(text)[-8:], 16) % of_how_many
