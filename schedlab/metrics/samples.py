"""What per-sequence metrics see of a batch of samples.

Only what was generated is measured; a given prefix is context for the scorer and nothing else.

Shapes: S sequences, L positions, P prefix positions, G generated positions (L - P).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SplitText:
    """A sample as text, split into documents at the separator token.

    The first generated document continues the last given one. Passing documents instead of one
    string keeps the separator a token of its own under every scorer, however it is spelt there.
    """

    given: tuple[str, ...]
    generated: tuple[str, ...]


class TextCodec(Protocol):
    """The part of a tokeniser that metrics need."""

    @property
    def eot_id(self) -> int:
        """Id of the document separator."""
        ...

    def decode(self, ids: Iterable[int], /) -> str:
        """Text of token ids."""
        ...


class Scorer(Protocol):
    """A language model that says how surprising a text is."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that determines its scores."""
        ...

    def score(self, texts: Sequence[SplitText], /) -> tuple[FloatArray, IntArray]:
        """NLL of the generated part, nats, float64 (S,), and its number of tokens, int64 (S,)."""
        ...


@dataclass(frozen=True)
class Samples:
    """A batch of samples.

    Args:
        tokens_SG: generated tokens, int64.
        texts: the samples as text.
        scorer: scores texts for Gen-PPL; None where that is not measured.
    """

    tokens_SG: IntArray
    texts: tuple[SplitText, ...]
    scorer: Scorer | None

    @classmethod
    def of(
        cls, tokens_SL: ArrayLike, *, prefix_length: int, codec: TextCodec, scorer: Scorer | None
    ) -> Samples:
        """From final tokens (S, L), of which the first `prefix_length` were given."""
        rows_SL = np.asarray(tokens_SL, dtype=np.int64)
        texts = tuple(
            SplitText(
                documents(row_L[:prefix_length], codec) if prefix_length else (),
                documents(row_L[prefix_length:], codec),
            )
            for row_L in rows_SL
        )
        return cls(rows_SL[:, prefix_length:], texts, scorer)

    def pick(self, index_S: IntArray) -> Samples:
        """The samples at these places, which may repeat."""
        texts = tuple(self.texts[index] for index in index_S)
        return Samples(self.tokens_SG[index_S], texts, self.scorer)


@dataclass(frozen=True)
class SampleMetric:
    """A per-sequence metric.

    Args:
        version: part of the store's key; raise it when the numbers change.
        compute: from samples to named columns, float64 (S,) each, NaN where undefined.
        alone: whether a sample's value depends on no other sample; then texts that several plans
            wrote are measured once.
    """

    version: int
    compute: Callable[[Samples], Mapping[str, FloatArray]]
    alone: bool = True


def documents(tokens_L: IntArray, codec: TextCodec) -> tuple[str, ...]:
    """Texts between separator tokens; n separators make n + 1 documents, some may be empty."""
    cuts = np.flatnonzero(tokens_L == codec.eot_id)
    parts = np.split(tokens_L, cuts)
    # Every part but the first starts with the separator itself.
    return tuple(
        codec.decode(part[(1 if number else 0) :].tolist()) for number, part in enumerate(parts)
    )
