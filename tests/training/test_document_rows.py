"""Windows of single documents: where they come from, how often, in which order."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from control_world import LABELS, LETTERS, SIGNS, text_of

from schedlab.errors import InputError
from schedlab.text import Tokenizer, load_corpus
from schedlab.text.corpora import Corpus
from schedlab.text.documents import Document
from schedlab.training.document_rows import PARTS, DocumentRows, filled

TOKENIZER = Tokenizer.of_signs(SIGNS)
EOT = TOKENIZER.eot_id
L = 7


def documents(num: int, seed: int, low: int = 3, high: int = 40) -> tuple[Document, ...]:
    rng = np.random.default_rng(seed)
    return tuple(
        Document(text_of(LABELS[n % 3], rng, low, high), LABELS[n % 3], f"{seed}:{n}")
        for n in range(num)
    )


CORPUS = Corpus("planted", documents(40, 1), documents(12, 2), documents(5, 3), "f" * 64)


def rows_of(
    corpus: Corpus = CORPUS,
    *,
    labels: list[str] | None = None,
    held_out: int = 8,
    **changes: object,
) -> DocumentRows:
    settings = {"length": L} | changes
    return DocumentRows.of(corpus, TOKENIZER, labels=labels, held_out=held_out, **settings)


def stream(rows: DocumentRows, num: int, *, batch: int = 5, seed: int = 0) -> list[tuple]:
    """The first rows of training as text, with their labels' numbers."""
    found: list[tuple[str, int]] = []
    for step in range(-(-num // batch)):
        tokens_BL, label_B = rows.labelled(step, batch_size=batch, seed=seed)
        assert tokens_BL.shape == (batch, L) and tokens_BL.dtype == label_B.dtype == np.int64
        found += [(text(row), int(label)) for row, label in zip(tokens_BL, label_B, strict=True)]
    return found[:num]


def text(row: np.ndarray) -> str:
    """Signs of a row; what fills it up is at its end alone."""
    size = len(row) - int((row == EOT).sum())
    assert (row[:size] != EOT).all() and (row[size:] == EOT).all()
    return TOKENIZER.decode(row[:size].tolist())


def num_windows(corpus: Corpus = CORPUS, label: str | None = None) -> int:
    return sum(
        max(1, len(document.text) // L)
        for document in corpus.train
        if label in (None, document.label)
    )


def test_windows_stay_within_a_document_and_short_ones_are_filled_up() -> None:
    rows = rows_of()
    short = 0
    for window, label in stream(rows, 3 * num_windows()):
        own = [document for document in CORPUS.train if window in document.text]
        assert own and label == 0  # without labels one name for all
        if len(window) < L:
            assert any(document.text == window for document in own)
            short += 1
    assert short >= 3 * sum(len(document.text) < L for document in CORPUS.train) > 0


def test_every_window_of_an_epoch_comes_once() -> None:
    rows, size = rows_of(), num_windows()
    for batch in (1, 5, 8):
        found = stream(rows, 2 * size, batch=batch)
        for epoch in (found[:size], found[size:]):
            windows = Counter(window for window, _ in epoch)
            for document in CORPUS.train:
                starts = sorted(
                    start
                    for start in range(len(document.text))
                    for window in windows
                    if document.text.startswith(window, start) and len(window) == min(
                        L, len(document.text)
                    )
                )  # fmt: skip
                # As many as fit, one behind the other.
                assert len(starts) == max(1, len(document.text) // L)
                assert all(b - a == L for a, b in itertools.pairwise(starts))
            assert sum(windows.values()) == size


def test_other_epochs_cut_elsewhere_and_come_in_another_order() -> None:
    rows, size = rows_of(), num_windows()
    found = stream(rows, 4 * size)
    epochs = [found[k * size : (k + 1) * size] for k in range(4)]
    long = [{window for window, _ in epoch if len(window) == L} for epoch in epochs]
    for k in range(3):
        assert len(long[k] - long[k + 1]) > len(long[k]) / 2
        assert [w for w, _ in epochs[k]] != [w for w, _ in epochs[k + 1]]
    whole = [sorted(w for w, _ in epoch if len(w) < L) for epoch in epochs]
    assert whole[0] == whole[1] == whole[2] == whole[3]


def test_equal_seeds_and_steps_give_equal_rows_in_whatever_order_they_are_asked_for() -> None:
    labels = list(LABELS)
    for changes in ({}, {"labels": labels}, {"labels": labels, "balanced": True}):
        asked, again = rows_of(**changes), rows_of(**changes)
        steps = [(7, 1), (0, 1), (40, 1), (3, 2), (7, 1), (0, 2), (90, 1), (3, 1), (40, 1)]
        found = {
            key: asked.labelled(key[0], batch_size=6, seed=key[1]) for key in steps
        }  # fmt: skip
        for (step, seed), (tokens_BL, label_B) in sorted(found.items()):
            same = again.labelled(step, batch_size=6, seed=seed)
            assert (same[0] == tokens_BL).all() and (same[1] == label_B).all()
            assert (again.of_step(step, batch_size=6, seed=seed) == tokens_BL).all()
        assert (found[3, 1][0] != found[3, 2][0]).any()  # another seed
        assert (found[0, 1][0] != found[7, 1][0]).any()


def test_rows_do_not_depend_on_how_they_are_batched() -> None:
    for balanced in (False, True):
        rows = rows_of(labels=list(LABELS), balanced=balanced)
        one, other = (stream(rows, 60, batch=batch) for batch in (4, 15))
        assert one == other


def test_labels_are_those_of_the_documents() -> None:
    for labels in (list(LABELS), ["gamma", "alpha"], ["beta"]):
        rows = rows_of(labels=labels)
        own = [d for d in CORPUS.train if d.label in labels]
        assert len(rows.tokens) == len(own)
        assert rows.num_tokens == sum(len(d.text) for d in own)
        for window, label in stream(rows, 80):
            known = {d.label for d in own if window in d.text}
            assert labels[label] in known


def test_balanced_labels_come_equally_often_and_each_has_epochs_of_its_own() -> None:
    unequal = [d for d in CORPUS.train if d.label != "beta"][:20]
    unequal += [d for d in CORPUS.train if d.label == "beta"][:2]
    corpus = Corpus("planted", tuple(unequal), CORPUS.valid, CORPUS.test, "e" * 64)
    rows = rows_of(corpus, labels=list(LABELS), balanced=True)
    for step in range(12):
        label_B = rows.labelled(step, batch_size=6, seed=0)[1]
        assert Counter(label_B.tolist()) == {0: 2, 1: 2, 2: 2}
    found = stream(rows, 300, batch=4)
    seen = np.cumsum(np.eye(3)[[label for _, label in found]], axis=0)
    assert (seen.max(1) - seen.min(1) <= 1).all()
    for place, label in enumerate(LABELS):
        size = num_windows(corpus, label)
        own = [window for window, number in found if number == place][:size]
        texts = [d.text for d in corpus.train if d.label == label]
        assert len(own) == size
        for one in texts:
            assert sum(window in one for window in own) >= max(1, len(one) // L)
    # Else every window is as likely.
    plain = Counter(label for _, label in stream(rows_of(corpus, labels=list(LABELS)), 200))
    assert plain[1] < min(plain[0], plain[2]) / 3


def test_two_halves_have_no_document_in_common_and_are_all_of_them() -> None:
    many = Corpus("planted", documents(200, 4), CORPUS.valid, CORPUS.test, "d" * 64)
    halves = []
    for part in PARTS:
        rows = rows_of(many, labels=list(LABELS), part=part)
        halves.append({TOKENIZER.decode(ids.tolist()) for ids in rows.tokens})
        assert (rows.held_out_SL == rows_of(many, labels=list(LABELS)).held_out_SL).all()
    everything, first, second = halves
    assert not first & second and first | second == everything
    assert everything == {d.text for d in many.train}
    assert 70 < len(first) < 130
    # A document's part follows from its text: others may come and go.
    fewer = Corpus("planted", many.train[::-2], CORPUS.valid, CORPUS.test, "c" * 64)
    kept = {TOKENIZER.decode(ids.tolist()) for ids in rows_of(fewer, part="first").tokens}
    assert kept == first & {d.text for d in fewer.train}


def test_a_group_is_within_one_half() -> None:
    alone = documents(200, 4)
    grouped = tuple(replace(d, group=f"group {n // 4}") for n, d in enumerate(alone))
    many = Corpus("planted", grouped, CORPUS.valid, CORPUS.test, "d" * 64)
    group_of = {d.text: d.group for d in grouped}
    first, second = (
        [group_of[TOKENIZER.decode(ids.tolist())] for ids in rows_of(many, part=part).tokens]
        for part in ("first", "second")
    )
    assert first and second and not set(first) & set(second)
    assert len(first) + len(second) == 200
    # A group that is named by a text is where the text alone is.
    named = tuple(replace(d, group=alone[0].text) for d in alone[1:])
    one = Corpus("planted", (alone[0], *named), CORPUS.valid, CORPUS.test, "c" * 64)
    (part,) = (
        part
        for part in ("first", "second")
        if part_has(part, Corpus("p", alone[:1], CORPUS.valid, (), "b" * 64))
    )
    assert len(rows_of(one, part=part).tokens) == 200


def part_has(part: str, corpus: Corpus) -> bool:
    try:
        return len(rows_of(corpus, part=part).tokens) > 0
    except InputError:
        return False


def test_held_out_rows_are_the_beginnings_of_held_out_documents() -> None:
    rows = rows_of(labels=["beta", "alpha"], held_out=100)
    own = [d for d in CORPUS.valid if d.label in ("alpha", "beta")]
    assert rows.held_out_SL.shape == (len(own), L)
    found = {
        (text(row), ("beta", "alpha")[label])
        for row, label in zip(rows.held_out_SL, rows.held_out_labels_S, strict=True)
    }
    assert found == {(d.text[:L], d.label) for d in own}
    few = rows_of(labels=["beta", "alpha"], held_out=3)
    assert len(few.held_out_SL) == len(few.held_out_labels_S) == 3
    rows = rows_of(held_out=4)
    assert (rows.held_out_labels_S == 0).all() and rows.labels == ("",)


def test_few_held_out_rows_of_a_corpus_that_is_sorted_by_label_are_of_every_label() -> None:
    """Else accuracy would be that of the first label alone."""
    valid = tuple(sorted(documents(60, 5), key=lambda d: d.label))
    corpus = Corpus("planted", CORPUS.train, valid, CORPUS.test, "b" * 64)
    rows = rows_of(corpus, labels=list(LABELS), held_out=20)
    assert set(rows.held_out_labels_S.tolist()) == {0, 1, 2}


def test_a_row_that_is_exactly_as_long_is_neither_cut_nor_filled() -> None:
    exact = (Document("abcdefg", "alpha", "1"), Document("gfedcbagfedcbb", "alpha", "2"))
    corpus = Corpus("planted", exact, exact[:1], (), "a" * 64)
    rows = rows_of(corpus)
    assert sorted(w for w, _ in stream(rows, 3)) == ["abcdefg", "gfedcba", "gfedcbb"]
    assert sorted(w for w, _ in stream(rows, 6)[3:]) == ["abcdefg", "gfedcba", "gfedcbb"]
    assert text(rows.held_out_SL[0]) == "abcdefg"
    assert filled(np.array([3, 4]), 4, 9).tolist() == [3, 4, 9, 9]


def test_the_fingerprint_is_of_all_that_the_rows_follow_from() -> None:
    labels = list(LABELS)
    other = Corpus("planted", CORPUS.train, CORPUS.valid, CORPUS.test, "9" * 64)
    found = [
        rows_of().fingerprint,
        rows_of(length=8).fingerprint,
        rows_of(labels=labels).fingerprint,
        rows_of(labels=labels[::-1]).fingerprint,
        rows_of(labels=labels, balanced=True).fingerprint,
        rows_of(labels=labels, part="first").fingerprint,
        rows_of(labels=labels, part="second").fingerprint,
        rows_of(other).fingerprint,
    ]
    assert len(set(found)) == len(found)
    assert rows_of(held_out=3).fingerprint == found[0]  # measured more or less: the same rows
    assert "40 documents" in str(rows_of()) and "alpha" in str(rows_of(labels=labels))


@pytest.mark.parametrize(
    ("corpus", "labels", "part", "message"),
    [
        (CORPUS, ["alpha", "delta"], "all", "train split is labelled 'delta'; .*alpha, beta"),
        (
            Corpus("p", CORPUS.train, CORPUS.valid[:1], (), "0" * 64), ["alpha", "beta"], "all",
            "no document of the valid split is labelled 'beta'",
        ),
        (Corpus("p", CORPUS.train, (), (), "0" * 64), None, "all", "no documents to train on"),
        (Corpus("p", (), CORPUS.valid, (), "0" * 64), None, "all", "no documents to train on"),
    ],
)  # fmt: skip
def test_labels_that_nothing_has_are_one_line(
    corpus: Corpus, labels: list[str] | None, part: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        rows_of(corpus, labels=labels, part=part)
    assert "\n" not in str(caught.value)


def test_a_half_without_a_label_is_one_line() -> None:
    alone = tuple(d for d in CORPUS.train if d.label == "alpha")[:1]
    corpus = Corpus("p", alone, CORPUS.valid, (), "0" * 64)
    refused = 0
    for part in ("first", "second"):
        try:
            rows_of(corpus, labels=["alpha"], part=part)
        except InputError as error:
            assert "labelled 'alpha'" in str(error) and "\n" not in str(error)
            refused += 1
    assert refused == 1


def test_a_file_of_labelled_texts_becomes_rows(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    rng = np.random.default_rng(0)
    lines = [{"text": text_of(label, rng), "label": label} for label in LABELS * 150]
    file.write_text("\n".join(map(json.dumps, lines)))
    rows = rows_of(load_corpus(str(file)), labels=["gamma"])
    assert rows.source == str(file)
    letters = "".join(window for window, _ in stream(rows, 100)).replace(".", "")
    assert sum(sign in LETTERS["gamma"] for sign in letters) / len(letters) > 0.8
