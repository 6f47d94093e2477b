"""Texts that lie inside others: which belong together, so that no split tears them apart.

Near-duplicate removal keeps a phrase beside its sentence, and a hash of the text puts the two
anywhere. A group (`Document.group`) keeps them together.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_WORD = re.compile(r"[^\W_]+")


def groups_by_containment(texts: Sequence[str], *, short: int = 4) -> list[str | None]:
    """Groups of texts that contain one another, each named by its longest text.

    A text lies inside another if its words (letters and digits, in lower case) stand there one
    after the other. A text inside several ties these together, unless it is short: else stock
    phrases would tie everything together.

    Args:
        texts: any texts.
        short: a text of fewer words that several others contain belongs to no group.

    Returns:
        Of each text the longest text of its group, often itself; None for those short ones.
    """
    keys = [" ".join(_WORD.findall(text.lower())) for text in texts]
    text_of = {key: text for key, text in zip(keys[::-1], texts[::-1], strict=True) if key}
    holders = {
        key: found
        for key, found in _holders(text_of).items()
        if len(found) == 1 or key.count(" ") + 1 >= short
    }
    longest = _longest_of_component(holders)
    return [
        text if not key else text_of[longest[holders[key][0]]] if key in holders else None
        for key, text in zip(keys, texts, strict=True)
    ]


def _holders(keys: Iterable[str]) -> dict[str, list[str]]:
    """Of each key those that contain it and lie in no other, longest first; else itself."""
    words_of = {key: key.split(" ") for key in keys}
    lengths: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for words in words_of.values():
        lengths[tuple(words[:2])].add(len(words))
    holders: dict[str, list[str]] = {}
    for key, words in sorted(words_of.items(), key=lambda item: (-len(item[1]), item[0])):
        if key in holders:
            continue  # what lies inside it lies inside its holder
        for inside in _pieces(words, lengths) & words_of.keys():
            holders.setdefault(inside, []).append(key)
    return holders


def _pieces(words: list[str], lengths: dict[tuple[str, ...], set[int]]) -> set[str]:
    """Runs of words that begin with one of the heads and have one of its lengths."""
    return {
        " ".join(words[start : start + length])
        for start in range(len(words))
        for head in (1, 2)
        for length in lengths.get(tuple(words[start : start + head]), ())
        if start + length <= len(words)
    }


def _longest_of_component(holders: dict[str, list[str]]) -> dict[str, str]:
    """Of each holder the longest one that it is tied to."""
    every = {key for found in holders.values() for key in found}
    names = sorted(every, key=lambda key: (-key.count(" "), key))
    number = {name: n for n, name in enumerate(names)}
    pairs = [(number[found[0]], number[key]) for found in holders.values() for key in found]
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(names),) * 2)
    component = connected_components(graph, directed=False)[1]
    first = np.unique(component, return_index=True)[1]
    return {name: names[first[component[n]]] for n, name in enumerate(names)}
