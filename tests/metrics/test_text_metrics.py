"""Entropy, distinct-n, self-BLEU by hand and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from schedlab.metrics import SAMPLE_METRICS, Samples, SplitText, compute_all, metric_versions
from schedlab.metrics.distinct import distinct
from schedlab.metrics.entropy import unigram_entropy
from schedlab.metrics.self_bleu import self_bleu


class LetterCodec:
    eot_id = 9

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(ord("a") + i) for i in ids)


class ConstantScorer:
    name, fingerprint = "constant", "constant"

    def score(self, texts: tuple[SplitText, ...]) -> tuple[np.ndarray, np.ndarray]:
        return np.full(len(texts), 2.5), np.full(len(texts), 2, dtype=np.int64)


def test_entropy_is_zero_for_one_token_and_log_n_for_n_different_ones() -> None:
    tokens = np.array([[3, 3, 3, 3], [0, 1, 2, 3], [1, 1, 2, 2]])
    expected = [0.0, math.log(4), math.log(2)]
    np.testing.assert_allclose(unigram_entropy(tokens), expected, atol=1e-15)
    assert math.copysign(1, unigram_entropy(tokens)[0]) == 1.0


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    tokens = np.array([[1, 2, 1, 2, 1], [1, 2, 3, 4, 5], [7, 7, 7, 7, 7]])
    np.testing.assert_allclose(distinct(tokens, 1), [2 / 5, 1, 1 / 5])
    np.testing.assert_allclose(distinct(tokens, 2), [2 / 4, 1, 1 / 4])
    np.testing.assert_allclose(distinct(tokens, 3), [2 / 3, 1, 1 / 3])
    assert np.isnan(distinct(tokens[:, :2], 3)).all()


def test_self_bleu_is_100_for_copies_and_0_without_a_common_word() -> None:
    words = "the model samples text from noise"
    for texts, value in (([words] * 3, 100.0), (["a b c d e", "f g h i j", "k l m n o"], 0.0)):
        np.testing.assert_allclose(self_bleu(texts), [value, np.nan, np.nan])
    assert np.isnan(self_bleu([words])).all()


def test_self_bleu_has_one_independent_value_per_group() -> None:
    texts = [
        "the cat sat on the mat today",
        "a cat sat on a mat today",
        "dogs run in the big park",
        "the dog sat on the mat",
        "a dog sat in the big park",
    ]
    bleu = BLEU(effective_order=True)
    pairs = [
        np.mean(
            [
                bleu.sentence_score(texts[j], [texts[j + 1]]).score,
                bleu.sentence_score(texts[j + 1], [texts[j]]).score,
            ]
        )
        for j in (0, 2)
    ]
    expected = [pairs[0], np.nan, pairs[1], np.nan, np.nan]
    np.testing.assert_allclose(self_bleu(texts, group_size=2), expected)
    assert self_bleu(texts, group_size=2)[0] > 0
    # Another text changes the value of its own group only.
    changed = [*texts[:3], "something else", texts[4]]
    assert self_bleu(changed, group_size=2)[0] == pairs[0]
    assert self_bleu(changed, group_size=2)[2] != pairs[1]


def test_samples_are_split_at_separators_and_measured_behind_the_prefix() -> None:
    tokens = [[0, 9, 1, 2, 9, 3], [9, 0, 0, 9, 9, 1]]
    samples = Samples.of(tokens, prefix_length=3, codec=LetterCodec(), scorer=ConstantScorer())
    np.testing.assert_array_equal(samples.tokens_SG, [[2, 9, 3], [9, 9, 1]])
    assert samples.texts[0] == SplitText(("a", "b"), ("c", "d"))
    assert samples.texts[1] == SplitText(("", "aa"), ("", "", "b"))
    whole = Samples.of(tokens, prefix_length=0, codec=LetterCodec(), scorer=ConstantScorer())
    assert whole.texts[0] == SplitText((), ("a", "bc", "d"))


def test_all_registered_metrics_give_one_value_per_sample() -> None:
    samples = Samples.of(
        np.arange(12).reshape(3, 4) % 9, prefix_length=0, codec=LetterCodec(),
        scorer=ConstantScorer(),
    )  # fmt: skip
    (columns,) = compute_all(samples, np.arange(3)[None])
    assert set(columns) == {
        "nll", "scored_tokens", "entropy", "distinct_1", "distinct_2", "distinct_3", "self_bleu",
    }  # fmt: skip
    for column in columns.values():
        assert column.shape == (3,) and column.dtype == np.float64
    assert columns["nll"].tolist() == [2.5, 2.5, 2.5]
    assert metric_versions().keys() == SAMPLE_METRICS.keys()


def test_undefined_values_are_nan_not_zero() -> None:
    samples = Samples.of([[1]], prefix_length=0, codec=LetterCodec(), scorer=ConstantScorer())
    (columns,) = compute_all(samples, np.zeros((1, 1), dtype=np.int64))
    for name in ("distinct_2", "distinct_3", "self_bleu"):
        assert np.isnan(columns[name]).all()
    assert columns["distinct_1"] == pytest.approx([1.0])


def test_plans_get_the_values_of_their_own_texts_and_a_text_is_scored_once() -> None:
    scored: list[int] = []

    class Counting(ConstantScorer):
        def score(self, texts):
            scored.append(len(texts))
            return super().score(texts)

    tokens = np.arange(12).reshape(3, 4) % 9
    samples = Samples.of(tokens, prefix_length=0, codec=LetterCodec(), scorer=Counting())
    text_NS = np.array([[0, 2, 2, 1], [1, 1, 0, 0]])
    found = list(compute_all(samples, text_NS))
    assert scored == [3]
    for text_S, columns in zip(text_NS, found, strict=True):
        own = Samples.of(
            tokens[text_S], prefix_length=0, codec=LetterCodec(), scorer=ConstantScorer()
        )
        (expected,) = compute_all(own, np.arange(4)[None])
        for name, column in expected.items():
            np.testing.assert_array_equal(columns[name], column)
