"""Groups of texts that contain one another, against brute force."""

from __future__ import annotations

import numpy as np

from schedlab.text.containment import groups_by_containment


def test_a_phrase_goes_with_the_longest_text_that_contains_it() -> None:
    sentence = "A moving film, with wit -- and a heart of its own."
    texts = ["with wit and a heart", "a heart", sentence, "wit and a heart", "nothing of this"]
    assert groups_by_containment(texts) == [sentence] * 4 + ["nothing of this"]


def test_words_are_whole_and_in_turn() -> None:
    texts = ["the start of something new", "art of something", "something of the new", "tart"]
    assert groups_by_containment(texts) == texts


def test_case_and_punctuation_tell_no_texts_apart() -> None:
    texts = ["Well - done , film!", "well done film", "WELL", "?!", "..."]
    assert groups_by_containment(texts) == [texts[0]] * 3 + ["?!", "..."]


def test_a_long_text_in_several_ties_them_and_a_short_one_is_left_out() -> None:
    texts = ["one of the best films ever made by anyone", "this is one of the best", "best"]
    one, other, _ = texts
    assert groups_by_containment([*texts, "of the best"]) == [one, other, None, None]
    assert groups_by_containment([*texts, "one of the best"]) == [one, one, None, one]
    assert groups_by_containment([*texts, "of the best"], short=1) == [one] * 4
    # In one text alone a short one stays, in one that lies in another too.
    assert groups_by_containment([one, "best films ever", "best"]) == [one] * 3


def test_groups_are_the_components_of_containment() -> None:
    rng = np.random.default_rng(0)
    words = [[str(w) for w in rng.integers(4, size=rng.integers(1, 9))] for _ in range(150)]
    texts = [" ".join(found) for found in words]
    padded = [f" {text} " for text in texts]
    inside = np.array([[a in b for b in padded] for a in padded])
    maximal = [
        n for n in range(150) if all(texts[n] == texts[m] for m in np.flatnonzero(inside[n]))
    ]
    found = groups_by_containment(texts)
    assert None in found and len(set(found)) > 10
    for n, group in enumerate(found):
        holders = {texts[m] for m in maximal if inside[n, m]}
        assert (group is None) == (len(holders) > 1 and len(words[n]) < 4)
    tied = [n for n in range(150) if found[n] is not None]
    reach = inside[np.ix_(tied, tied)]
    reach = reach | reach.T
    for _ in range(8):  # 2**8 links
        reach = (reach.astype(int) @ reach.astype(int)) > 0
    names = np.array([found[n] for n in tied])
    assert (reach == (names[:, None] == names[None, :])).all()
    lengths = {texts[n]: len(words[n]) for n in tied}
    assert all(lengths[found[n]] >= lengths[texts[n]] for n in tied)


def test_no_texts_have_no_groups() -> None:
    assert groups_by_containment([]) == []
    assert groups_by_containment(["", "..."]) == ["", "..."]
