"""How far the tokens of one step are from those of another, and which of them matter: what
`stability` measures between consecutive steps.

Legend: B sequences, G generated positions, K key tokens, A attributes.

Reference: TTA (2510.26200); the formulas are second-hand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sacrebleu.metrics.bleu import BLEU

from schedlab.errors import InputError
from schedlab.metrics.samples import FloatArray, IntArray

KEY_TOKENS = 5


def hamming_distance(a_BG: ArrayLike, b_BG: ArrayLike) -> FloatArray:
    """Share of positions that hold different tokens, in [0, 1], float64 (B,)."""
    a_BG, b_BG = _paired(a_BG, b_BG)
    return np.asarray((a_BG != b_BG).mean(axis=1))


def bleu_distance(new_BG: ArrayLike, old_BG: ArrayLike) -> FloatArray:
    """1 - BLEU-4 / 100 of each row against a reference, in [0, 1], float64 (B,).

    Sentence BLEU by sacrebleu: token ids are words, exponential smoothing, effective order.

    Args:
        new_BG: tokens that are judged.
        old_BG: the reference.
    """
    new_BG, old_BG = _paired(new_BG, old_BG)
    bleu = BLEU(effective_order=True, tokenize="none")

    def distance(new_G: IntArray, old_G: IntArray) -> float:
        if np.array_equal(new_G, old_G):
            return 0.0  # quick, and BLEU of equal texts is 100 up to rounding
        score = bleu.sentence_score(_words(new_G), [_words(old_G)]).score
        return min(1.0, max(0.0, 1.0 - score / 100.0))

    return np.array([distance(new_G, old_G) for new_G, old_G in zip(new_BG, old_BG, strict=True)])


def key_positions(norm_BG: ArrayLike, count: int = KEY_TOKENS) -> IntArray:
    """Positions of the largest gradient norms, int64 (B, K), largest first, equal ones from left.

    K is `count`, or G where there are fewer positions.
    """
    return np.argsort(-np.asarray(norm_BG), axis=1, kind="stable")[:, :count]


def changed_keys(key_BK: ArrayLike, guided_BG: ArrayLike, next_BG: ArrayLike) -> IntArray:
    """How many key tokens differ from those of the next step, int64 (B,), 0 to K.

    Args:
        key_BK: positions of the key tokens of a step.
        guided_BG: likeliest tokens after its guidance.
        next_BG: those of the next step before guidance.
    """
    guided_BG, next_BG = _paired(guided_BG, next_BG)
    changed_BK = np.take_along_axis(guided_BG != next_BG, np.asarray(key_BK), axis=1)
    return np.asarray(changed_BK.sum(axis=1))


def confidence_drop(log_p_AB: ArrayLike, next_before_AB: ArrayLike) -> FloatArray:
    """p(label) at a step minus p(label) at the next one, averaged over attributes, float64 (B,).

    Args:
        log_p_AB: log p of the labels before the last iteration of a step, see `Pull.log_p_AB`.
        next_before_AB: before the first iteration of the next step, see `Pull.before_AB`.
    """
    drop_AB = np.exp(np.asarray(log_p_AB)) - np.exp(np.asarray(next_before_AB))
    return np.asarray(drop_AB.mean(axis=0))


def _paired(a_BG: ArrayLike, b_BG: ArrayLike) -> tuple[NDArray, NDArray]:
    a, b = np.asarray(a_BG), np.asarray(b_BG)
    if a.ndim != 2 or a.shape != b.shape or a.shape[1] == 0:
        raise InputError(
            f"tokens to compare must be (B, G) alike with G > 0, got {a.shape} and {b.shape}"
        )
    return a, b


def _words(tokens_G: IntArray) -> str:
    return " ".join(map(str, tokens_G.tolist()))
