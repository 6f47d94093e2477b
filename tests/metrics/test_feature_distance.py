"""The kernel distance: slow loops, no bias where there is no difference, and that it sees one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.feature_distance import kernel_distance, text_features


def by_loops(x: np.ndarray, y: np.ndarray) -> float:
    scale, middle = y.std(0), y.mean(0)
    x, y = (x - middle) / scale, (y - middle) / scale

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    def within(rows: np.ndarray) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return float(np.mean(pairs))

    return within(x) + within(y) - 2 * float(np.mean([kernel(a, b) for a in x for b in y]))


def test_it_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(1.0, 2.0, size=(7, 3))
    assert kernel_distance(x, y).value == pytest.approx(by_loops(x, y))


def test_equal_laws_are_at_zero_on_average_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    same = [
        kernel_distance(rng.normal(size=(60, 4)), rng.normal(size=(60, 4)), resamples=2).value
        for _ in range(200)
    ]
    assert abs(np.mean(same)) < 4 * np.std(same) / np.sqrt(200)  # false alarms: 6e-5
    assert min(same) < 0
    moved = kernel_distance(rng.normal(0.7, 1.0, size=(200, 4)), rng.normal(size=(200, 4)))
    assert moved.low > 0 and moved.n == 200


def test_texts_that_all_say_one_thing_are_far_from_texts() -> None:
    """Gen-PPL and entropy see single texts only."""
    rng = np.random.default_rng(2)
    real = rng.normal(size=(150, 6))
    likely = np.repeat(real[:1], 150, axis=0) + 1e-3 * rng.normal(size=(150, 6))
    assert (
        kernel_distance(likely, real).low > kernel_distance(rng.normal(size=(150, 6)), real).high
    )


def test_features_are_means_over_positions_whatever_the_batch() -> None:
    config = TransformerConfig(
        vocab_size=11, mask_id=10, num_blocks=1, hidden_size=8, num_heads=2, max_length=5,
        causal=True,
    )  # fmt: skip
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(0))
    tokens = np.random.default_rng(0).integers(0, 10, size=(70, 5))
    found = text_features(network, tokens)
    assert found.shape == (70, 8) and found.dtype == np.float64
    with torch.no_grad():
        one = network.features(torch.from_numpy(tokens[69:]))[0].mean(0)
    np.testing.assert_allclose(found[69], one.numpy(), atol=1e-5)


def test_too_few_are_refused() -> None:
    with pytest.raises(InputError, match="needs two samples"):
        kernel_distance(np.zeros((1, 3)), np.zeros((4, 3)))
