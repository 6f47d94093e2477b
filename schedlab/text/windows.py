"""Token windows of a corpus: held-out windows for measuring, a packed stream for training.

Letters: S windows, L positions.
"""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import numpy as np

from schedlab.errors import InputError
from schedlab.files import sha256_text, write_atomic
from schedlab.text.corpora import Corpus, cache_folder
from schedlab.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Windows:
    """Equally long pieces of documents.

    Attributes:
        tokens_SL: (S, L) int64 token ids.
        labels: S labels of the documents that the windows come from.
    """

    tokens_SL: np.ndarray
    labels: tuple[str, ...]


def held_out_windows(
    corpus: Corpus,
    tokenizer: Tokenizer,
    *,
    split: str = "valid",
    length: int,
    num: int,
    seed: int = 0,
) -> Windows:
    """Cut `num` windows at random places of random documents, the same for the same seed.

    Every document that is long enough gives one window before any gives a second one; windows of
    one document never overlap. A larger `num` keeps the windows of a smaller one.

    Args:
        length: tokens per window.
        num: number of windows.

    Raises:
        InputError: the split does not hold `num` windows of this length.
    """
    if length < 1 or num < 1:
        raise InputError(f"length and num must be positive, got length={length}, num={num}")
    documents = corpus.split(split)
    tokens = [np.array(ids) for ids in tokenizer.encode_batch([d.text for d in documents])]
    rng = np.random.default_rng(seed)
    order = [int(d) for d in rng.permutation(len(documents)) if len(tokens[d]) >= length]
    shifts = {d: int(rng.integers(len(tokens[d]) % length + 1)) for d in order}
    # (visit, document): all first windows come before all second ones.
    places = [
        (visit, rank, d)
        for rank, d in enumerate(order)
        for visit in range(len(tokens[d]) // length)
    ]
    if len(places) < num:
        raise InputError(
            f"corpus {corpus.source!r}: split {split!r} holds {len(places)} windows of {length} "
            f"tokens, {num} were asked for"
        )
    chosen = sorted(places)[:num]
    starts = [(d, shifts[d] + visit * length) for visit, _, d in chosen]
    rows = [tokens[d][start : start + length] for d, start in starts]
    return Windows(np.stack(rows).astype(np.int64), tuple(documents[d].label for d, _ in starts))


def token_stream(corpus: Corpus, tokenizer: Tokenizer, *, split: str = "train") -> np.ndarray:
    """All documents of a split in one line, each followed by the separator.

    Returns:
        (number of tokens,) uint16 or uint32 token ids; cached in `cache_folder()`.
    """
    recipe = f"{corpus.fingerprint}/{tokenizer.fingerprint}/{split}"
    cache = cache_folder() / f"tokens-{sha256_text(recipe)[:16]}.npy"
    try:
        return np.asarray(np.load(cache, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        pass
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    encoded = tokenizer.encode_batch([document.text for document in corpus.split(split)])
    pieces = [np.array([*ids, tokenizer.eot_id], dtype=dtype) for ids in encoded]
    stream = np.concatenate(pieces) if pieces else np.zeros(0, dtype=dtype)
    buffer = io.BytesIO()
    np.save(buffer, stream, allow_pickle=False)
    with contextlib.suppress(OSError):  # a read-only home folder costs time, not function
        write_atomic(cache, buffer.getvalue())
    return stream
