"""MinHash estimates Jaccard similarity; near-duplicates are joined and only they."""

import numpy as np

from schedlab.text.near_duplicates import minhash, near_duplicate_clusters


def _words(rng: np.random.Generator, num: int) -> list[str]:
    return [f"w{i}" for i in rng.integers(5_000, size=num)]


def _shingles(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_signatures_estimate_jaccard_similarity() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for share in np.linspace(0.0, 1.0, 21):
        left, tail = _words(rng, 200), _words(rng, 200)
        cut = int(200 * share)
        right = left[:cut] + tail[cut:]
        a, b = _shingles(left), _shingles(right)
        signatures = minhash([" ".join(left), " ".join(right)])
        errors.append(np.mean(signatures[0] == signatures[1]) - len(a & b) / len(a | b))
    # 128 hash functions: standard error of one estimate at most 0.044. The shingles that a text's
    # end cuts short make the two sets a little larger.
    assert np.abs(np.mean(errors)) < 0.03
    assert np.max(np.abs(errors)) < 0.16


def test_near_duplicates_are_joined_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    bases = [_words(rng, 150) for _ in range(40)]
    texts, groups = [], []
    for group, base in enumerate(bases):
        for _ in range(3):
            edited = list(base)
            for place in rng.integers(150, size=3):
                edited[place] = "changed"
            texts.append(" ".join(edited).upper() if rng.random() < 0.5 else " ".join(edited))
            groups.append(group)
    order = rng.permutation(len(texts))
    clusters = near_duplicate_clusters([texts[i] for i in order])
    found = {(groups[i], int(c)) for i, c in zip(order, clusters, strict=True)}
    assert len(found) == len(bases) == len(set(clusters.tolist()))


def test_texts_with_common_phrases_stay_apart() -> None:
    rng = np.random.default_rng(2)
    phrase = ["parameters"] + _words(rng, 40)
    texts = [" ".join(phrase + _words(rng, 120)) for _ in range(30)]
    assert len(set(near_duplicate_clusters(texts).tolist())) == 30


def test_short_and_empty_texts() -> None:
    texts = ["", "one", "one", "two words", "...", "one two three four five six"]
    clusters = near_duplicate_clusters(texts).tolist()
    assert clusters[1] == clusters[2]
    assert len({clusters[1], clusters[3], clusters[5]}) == 3
    assert near_duplicate_clusters([]).shape == (0,)
