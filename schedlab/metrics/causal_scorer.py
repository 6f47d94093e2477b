"""A causal language model as scorer of texts, with batching and windows.

Knows neither where the model comes from nor its tokeniser: both come as functions
(`schedlab.metrics.scorers` loads them).

Texts longer than the model's window are scored in overlapping windows: every token is scored once,
with at least half a window of context where the text has it.

Legend: B windows of a batch, W window positions, V the scorer's vocabulary, S texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from schedlab.metrics.samples import FloatArray, IntArray, SplitText

MAX_CALL_LOGITS = 1 << 27
"""Bound on B * W * V: 0.5 GB of float32 logits."""
CPU_POSITIONS, GPU_POSITIONS = 1 << 10, 1 << 14
"""B * W of a call: enough to fill the machine."""
WIDTH_STEP = 16


@dataclass(frozen=True)
class CausalScorer:
    """Scores texts by next-token prediction; satisfies `Scorer`.

    Args:
        name: what reports call it.
        fingerprint: digest of weights and tokeniser.
        next_logits: from tokens int64 (B, W) to logits (B, W, V) of each next token; causal, so
            padding behind a text changes nothing.
        encode: from texts to token ids without special tokens.
        separator_id: token that starts a text and separates documents.
        window: most positions that one call may hold.
        vocab_size: V.
        device: where tokens go.
    """

    name: str
    fingerprint: str
    next_logits: Callable[[Tensor], Tensor]
    encode: Callable[[list[str]], list[list[int]]]
    separator_id: int
    window: int
    vocab_size: int
    device: str = "cpu"

    @torch.inference_mode()
    def score(self, texts: Sequence[SplitText]) -> tuple[FloatArray, IntArray]:
        """NLL of the generated part in nats, float64 (S,), and its tokens, int64 (S,)."""
        nll_S = np.zeros(len(texts))
        tokens_S = np.zeros(len(texts), dtype=np.int64)
        of_width: dict[int, list[_Window]] = {}
        for window in self._windows(texts):
            of_width.setdefault(self._width(window), []).append(window)
        for width, windows in sorted(of_width.items()):
            rows = self._rows(width)
            for first in range(0, len(windows), rows):
                batch = windows[first : first + rows]
                for window, nll in zip(batch, self._nll(batch, rows, width), strict=True):
                    nll_S[window.text] += nll
                    tokens_S[window.text] += window.num_scored
        return nll_S, tokens_S

    def _windows(self, texts: Sequence[SplitText]) -> Iterator[_Window]:
        given = self._encode_documents([text.given for text in texts])
        generated = self._encode_documents([text.generated for text in texts])
        for number, (context, target) in enumerate(zip(given, generated, strict=True)):
            ids = [self.separator_id, *context, *target]
            yield from split_into_windows(number, ids, len(target), self.window)

    def _encode_documents(self, texts: Sequence[tuple[str, ...]]) -> list[list[int]]:
        """One id list per text: its documents' ids with separators between them."""
        documents = [document for text in texts for document in text]
        encoded = iter(self.encode(documents) if documents else [])  # some encoders refuse []
        ids_of_texts = []
        for text in texts:
            ids: list[int] = []
            for number in range(len(text)):
                ids += ([self.separator_id] if number else []) + next(encoded)
            ids_of_texts.append(ids)
        return ids_of_texts

    def _width(self, window: _Window) -> int:
        """Inputs of a call that holds the window: by its own length alone, so that what a text
        scores does not depend on which others are scored beside it."""
        inputs = len(window.ids) - 1
        return min(self.window, -(-inputs // WIDTH_STEP) * WIDTH_STEP)

    def _rows(self, width: int) -> int:
        """Rows of every call of this width; the last one is filled up."""
        positions = CPU_POSITIONS if torch.device(self.device).type == "cpu" else GPU_POSITIONS
        return max(1, min(positions // width, MAX_CALL_LOGITS // (width * self.vocab_size)))

    def _nll(self, batch: list[_Window], rows: int, width: int) -> list[float]:
        ids_BW1 = torch.full((rows, width + 1), self.separator_id)
        scored_BW = torch.zeros((rows, width), dtype=torch.bool)
        for row, window in enumerate(batch):
            last = len(window.ids)
            ids_BW1[row, :last] = torch.tensor(window.ids)
            scored_BW[row, last - 1 - window.num_scored : last - 1] = True
        ids_BW1 = ids_BW1.to(self.device)
        logits_BWV = self.next_logits(ids_BW1[:, :-1])
        if logits_BWV.dtype != torch.float64:
            logits_BWV = logits_BWV.float()
        nll_BW = torch.nn.functional.cross_entropy(
            logits_BWV.flatten(0, 1), ids_BW1[:, 1:].flatten(), reduction="none"
        ).view(rows, width)
        # where, not a product: an unscored position may hold an infinity.
        scored_nll_BW = torch.where(scored_BW.to(self.device), nll_BW.double(), 0.0)
        return scored_nll_BW.sum(-1).tolist()[: len(batch)]


@dataclass(frozen=True)
class _Window:
    """Token ids of which the last `num_scored` are scored given those before them."""

    text: int
    ids: list[int]
    num_scored: int


def split_into_windows(
    text: int, ids: list[int], num_scored: int, window: int
) -> Iterator[_Window]:
    """Cover the last `num_scored` of `ids` by windows of at most `window` + 1 ids.

    A window of n ids takes n - 1 inputs. The first window is as long as it may be; each later one
    adds half a window of tokens.
    """
    stride = max(1, window // 2)
    end = len(ids)
    done = end - num_scored  # ids before this index need no score
    while done < end:
        upto = min(end, max(window + 1, done + stride) if done <= window else done + stride)
        first = max(0, upto - 1 - window)
        yield _Window(text, ids[first:upto], upto - done)
        done = upto
