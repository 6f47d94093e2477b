"""Batches are functions of (seed, step), and their weights make the loss the NELBO."""

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.training.batches import (
    mask_at_levels,
    masked_batch,
    next_token_batch,
    share_of,
    windows_of_step,
)
from schedlab.training.job import Optimization
from schedlab.training.optimizers import largest_noise_level

MASK = 99
STREAM = np.arange(1000, dtype=np.uint16)


def _windows(step: int, seed: int = 0, batch_size: int = 6, length: int = 10) -> np.ndarray:
    return windows_of_step(STREAM, length=length, batch_size=batch_size, seed=seed, step=step)


def test_an_epoch_shows_every_window_once() -> None:
    num_windows = (1000 - 10) // 10
    rows = np.concatenate([_windows(step, batch_size=9) for step in range(num_windows // 9)])
    assert len(rows) == num_windows
    assert len({tuple(row) for row in rows}) == num_windows
    assert len(np.unique(rows)) == rows.size  # windows of an epoch never overlap
    assert np.array_equal(np.diff(rows, axis=1), np.ones((num_windows, 9)))


def test_epochs_are_cut_and_ordered_differently() -> None:
    first, second = _windows(0, batch_size=99), _windows(1, batch_size=99)
    assert not np.array_equal(first, second)
    assert set(first[:, 0] % 10) != set(second[:, 0] % 10)


def test_windows_depend_on_seed_and_step_alone() -> None:
    expected = _windows(7)
    _windows(3, seed=5)
    assert np.array_equal(_windows(7), expected)
    assert not np.array_equal(_windows(7, seed=1), expected)
    assert not np.array_equal(_windows(8), expected)


def test_too_short_a_stream_is_refused() -> None:
    with pytest.raises(InputError, match="more than 20 tokens, got 15"):
        windows_of_step(STREAM[:15], length=10, batch_size=1, seed=0, step=0)


def test_masked_batch_reads_exactly_the_masked_positions() -> None:
    tokens = np.random.default_rng(0).integers(90, size=(16, 32))
    batch = masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=0, step=4)
    real = batch.weight_N > 0
    masked = np.flatnonzero(batch.input_BL == MASK)
    assert np.array_equal(batch.read_N[real], masked)
    assert np.array_equal(batch.target_N[real], tokens.reshape(-1)[masked])
    assert np.array_equal(batch.input_BL[batch.input_BL != MASK], tokens[batch.input_BL != MASK])
    again = masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=0, step=4)
    other = masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=0, step=5)
    assert np.array_equal(batch.input_BL, again.input_BL)
    assert not np.array_equal(batch.input_BL, other.input_BL)


def test_shapes_stay_the_same_from_step_to_step() -> None:
    tokens = np.zeros((32, 128), dtype=np.int64)
    sizes = {
        len(masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=1, step=s).read_N)
        for s in range(300)
    }
    assert len(sizes) == 1
    assert sizes.pop() < 0.6 * tokens.size


def test_shapes_stay_the_same_on_a_grid_too() -> None:
    tokens = np.zeros((64, 128), dtype=np.int64)
    for grid_steps in (5, 16):
        batches = [
            masked_batch(
                tokens, mask_id=MASK, smallest_t=1e-3, seed=1, step=s, grid_steps=grid_steps
            )
            for s in range(200)
        ]
        assert len({len(batch.read_N) for batch in batches}) == 1
        assert len(batches[0].read_N) < tokens.size
        shares = [
            share_of(batch, rank=rank, world_size=4, grid_steps=grid_steps)
            for batch in batches[:50]
            for rank in range(4)
        ]
        assert len({len(share.read_N) for share in shares}) == 1


def test_all_masked_positions_are_read_even_when_far_more_than_usual() -> None:
    tokens = np.zeros((4, 64), dtype=np.int64)
    batch = mask_at_levels(tokens, np.full(4, 1.0), np.full((4, 64), 0.5), mask_id=MASK)
    assert (batch.weight_N > 0).sum() == 4 * 64


def test_levels_are_stratified_and_weights_average_to_the_nelbo() -> None:
    """With a loss of 1 nat at every masked position, the NELBO is 1 nat per token."""
    tokens = np.zeros((8, 16), dtype=np.int64)
    sums, shares = [], []
    for step in range(4000):
        batch = masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=2, step=step)
        sums.append(batch.weight_N.sum())
        shares.append((batch.input_BL == MASK).mean(axis=1))
    standard_error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - 1.0) < 4 * standard_error
    assert standard_error < 0.02
    # Row b is masked with a probability in [b, b + 1] / B.
    assert np.allclose(np.mean(shares, axis=0), (np.arange(8) + 0.5) / 8, atol=0.02)


def test_levels_stay_below_the_largest() -> None:
    tokens = np.zeros((8, 4000), dtype=np.int64)
    batch = masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=2, step=0, largest_t=0.4)
    shares = (batch.input_BL == MASK).mean(axis=1)
    assert np.allclose(shares, 0.4 * (np.arange(8) + 0.5) / 8, atol=0.05)
    assert batch.weight_N.sum() == pytest.approx(1.0, abs=0.1)  # a mean of 1/t * t


def test_the_largest_level_rises_to_one() -> None:
    settings = Optimization(num_steps=100, noise_warmup_steps=10, first_largest_t=0.4)
    levels = [largest_noise_level(step, settings) for step in range(12)]
    assert levels[0] == 0.4
    assert levels == sorted(levels)
    assert levels[10:] == [1.0, 1.0]
    assert largest_noise_level(0, Optimization(num_steps=100)) == 1.0


def test_next_token_batch() -> None:
    batch = next_token_batch(np.array([[1, 2, 3], [4, 5, 6]]))
    assert batch.read_N.tolist() == [0, 1, 3, 4]
    assert batch.target_N.tolist() == [2, 3, 5, 6]
    assert batch.weight_N.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("kind", ["masked", "next token"])
def test_shares_add_up_to_the_batch(world_size: int, kind: str) -> None:
    tokens = np.random.default_rng(1).integers(90, size=(12, 20))
    if kind == "masked":
        batch = masked_batch(tokens, mask_id=MASK, smallest_t=1e-3, seed=0, step=0)
    else:
        batch = next_token_batch(tokens)

    def read(part, rank: int, size: int) -> set[tuple]:
        row, place = part.read_N // 20, part.read_N % 20
        return {
            (int(r) * size + rank, int(p), int(t), float(w))
            for r, p, t, w in zip(row, place, part.target_N, part.weight_N, strict=True)
            if w > 0
        }

    parts = [share_of(batch, rank=r, world_size=world_size) for r in range(world_size)]
    together = set().union(*(read(part, r, world_size) for r, part in enumerate(parts)))
    assert together == read(batch, 0, 1)
    assert sum(len(read(part, 0, 1)) for part in parts) == len(together)
    for rank, part in enumerate(parts):
        assert np.array_equal(part.input_BL, batch.input_BL[rank::world_size])
        assert np.array_equal(part.t_B, batch.t_B[rank::world_size])
