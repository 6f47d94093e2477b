"""Near-duplicate removal: MinHash signatures over word shingles, banded LSH, clusters.

Two documents that share most of their five-word shingles end in one cluster, of which one document
is kept, so that no held-out text is almost a training text. Everything is vectorised over the
shingles of all documents.

Letters: D documents, S shingles of all documents together, P hash functions.

References: Broder, "On the resemblance and containment of documents" (1997); Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", chapter 3 (banding).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

SHINGLE_WORDS = 5
NUM_BANDS = 32
ROWS_PER_BAND = 4
# Clusters join documents whose estimated Jaccard similarity is at least this.
SIMILARITY = 0.6

# Of a bucket, each document is compared with so many that follow it: all, but for huge buckets.
_NEIGHBOURS = 200

_WORD = re.compile(r"[a-z0-9]+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplication mod 2**64 is a bijection


def near_duplicate_clusters(texts: Sequence[str]) -> np.ndarray:
    """Cluster texts that are nearly the same.

    Args:
        texts: D texts.

    Returns:
        (D,) int64 cluster numbers; equal numbers mean near-duplicates (transitively).
    """
    if not texts:
        return np.zeros(0, dtype=np.int64)
    signatures_DP = minhash(texts)
    left, right = _candidate_pairs(signatures_DP)
    agreement = np.mean(signatures_DP[left] == signatures_DP[right], axis=1)
    left, right = left[agreement >= SIMILARITY], right[agreement >= SIMILARITY]
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(len(texts),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def minhash(texts: Sequence[str]) -> np.ndarray:
    """(D, P) uint32 signatures; the share of equal columns estimates the Jaccard similarity."""
    shingles_S, starts_D = _shingles(texts)
    num_hashes = NUM_BANDS * ROWS_PER_BAND
    rng = np.random.default_rng(20260401)  # fixed: clusters must not change from run to run
    random_2P = rng.integers(0, 2**63, size=(2, num_hashes), dtype=np.uint64)
    factors_P, offsets_P = random_2P[0] * np.uint64(2) + np.uint64(1), random_2P[1]
    signatures_DP = np.empty((len(texts), num_hashes), dtype=np.uint32)
    for p in range(num_hashes):
        hashes_S = (shingles_S * factors_P[p] + offsets_P[p]) >> np.uint64(32)  # multiply-shift
        signatures_DP[:, p] = np.minimum.reduceat(hashes_S, starts_D)
    return signatures_DP


def _shingles(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(S,) uint64 shingle hashes of all texts in turn and (D,) where each text starts."""
    vocabulary: dict[str, int] = {}
    words: list[int] = []
    starts_D = np.empty(len(texts), dtype=np.int64)
    for d, text in enumerate(texts):
        starts_D[d] = len(words)
        found = _WORD.findall(text.lower())
        # At least one shingle each; short texts are told apart by their padding-free words.
        found += ["\0"] * max(1, SHINGLE_WORDS - len(found))
        words.extend(vocabulary.setdefault(word, len(vocabulary)) for word in found)
    words_S = np.array(words, dtype=np.uint64) + np.uint64(1)
    # A shingle that runs into the next text is cut at the text's end.
    text_of_S = np.repeat(np.arange(len(texts)), np.diff(np.append(starts_D, len(words))))
    shingles_S = np.zeros_like(words_S)
    for offset in range(SHINGLE_WORDS):
        end = len(words_S) - offset
        inside = text_of_S[offset:] == text_of_S[:end]
        following = np.where(inside, words_S[offset:], 0).astype(np.uint64)
        shingles_S[:end] = (shingles_S[:end] + following) * _MULTIPLIER
        shingles_S[:end] ^= shingles_S[:end] >> np.uint64(29)
    return shingles_S, starts_D


def _candidate_pairs(signatures_DP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of documents that agree in a whole band, each pair once."""
    pairs = []
    for band in range(NUM_BANDS):
        rows_DR = signatures_DP[:, band * ROWS_PER_BAND : (band + 1) * ROWS_PER_BAND]
        _, bucket_D = np.unique(rows_DR, axis=0, return_inverse=True)
        order = np.argsort(bucket_D, kind="stable")
        sorted_buckets = bucket_D[order]
        for distance in range(1, min(len(order), _NEIGHBOURS + 1)):
            together = np.flatnonzero(sorted_buckets[distance:] == sorted_buckets[:-distance])
            if len(together) == 0:
                break
            pairs.append(np.stack([order[together], order[together + distance]]))
    if not pairs:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    left, right = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return left, right
