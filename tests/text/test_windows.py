"""Held-out windows come from as many documents as possible and never overlap."""

import itertools

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.text import Corpus, Document, Tokenizer, held_out_windows, token_stream

TOKENIZER = Tokenizer.load("bundled")


def _corpus(num: int = 30) -> Corpus:
    rng = np.random.default_rng(0)
    documents = tuple(
        Document(" ".join(str(n) for n in rng.integers(10**6, size=5 + 3 * i)), f"label{i}", "")
        for i in range(num)
    )
    return Corpus("made", documents, documents, documents, f"fingerprint{num}")


def _place(window: np.ndarray, document: Document) -> int:
    """Where a window stands in a document, -1 if nowhere."""
    ids = np.array(TOKENIZER.encode(document.text))
    for start in range(len(ids) - len(window) + 1):
        if np.array_equal(ids[start : start + len(window)], window):
            return start
    return -1


def test_windows_are_pieces_of_their_documents_without_overlap() -> None:
    corpus = _corpus()
    windows = held_out_windows(corpus, TOKENIZER, split="test", length=16, num=80, seed=3)
    assert windows.tokens_SL.shape == (80, 16)
    assert windows.tokens_SL.dtype == np.int64
    by_label = {d.label: d for d in corpus.test}
    places = [
        (label, _place(window, by_label[label]))
        for window, label in zip(windows.tokens_SL, windows.labels, strict=True)
    ]
    assert all(start >= 0 for _, start in places)
    for label in by_label:
        starts = sorted(start for name, start in places if name == label)
        assert all(b - a >= 16 for a, b in itertools.pairwise(starts))


def test_one_window_per_document_while_possible() -> None:
    corpus = _corpus()
    long_enough = sum(len(TOKENIZER.encode(d.text)) >= 16 for d in corpus.valid)
    labels = held_out_windows(corpus, TOKENIZER, length=16, num=long_enough, seed=0).labels
    assert len(set(labels)) == long_enough


def test_more_windows_keep_the_first_ones_and_seeds_differ() -> None:
    corpus = _corpus()
    few = held_out_windows(corpus, TOKENIZER, length=8, num=20, seed=1).tokens_SL
    many = held_out_windows(corpus, TOKENIZER, length=8, num=90, seed=1).tokens_SL
    other = held_out_windows(corpus, TOKENIZER, length=8, num=20, seed=2).tokens_SL
    assert np.array_equal(few, many[:20])
    assert not np.array_equal(few, other)


def test_too_much_is_refused() -> None:
    corpus = _corpus(3)
    with pytest.raises(InputError, match="holds 0 windows of 5000"):
        held_out_windows(corpus, TOKENIZER, length=5000, num=1)
    with pytest.raises(InputError, match="must be positive"):
        held_out_windows(corpus, TOKENIZER, length=0, num=1)
    with pytest.raises(InputError, match="split must be one of"):
        held_out_windows(corpus, TOKENIZER, split="training", length=4, num=1)


def test_stream_holds_all_documents_and_separators(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SCHEDLAB_CACHE", str(tmp_path))
    corpus = _corpus()
    stream = token_stream(corpus, TOKENIZER)
    assert stream.dtype == np.uint16
    pieces = TOKENIZER.decode(stream.tolist()).split("\n\n")
    assert pieces == [*(d.text for d in corpus.train), ""]
    (cache,) = tmp_path.glob("tokens-*.npy")
    assert np.array_equal(token_stream(corpus, TOKENIZER), stream)
    cache.write_bytes(cache.read_bytes()[:50])  # damaged: made anew
    assert np.array_equal(token_stream(corpus, TOKENIZER), stream)
