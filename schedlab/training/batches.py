"""Training batches as pure functions of (seed, step): a resumed run sees what it would have seen.

Nothing is drawn in call order and nothing depends on the number of processes.

Letters: B windows, L positions, N read positions.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from schedlab.errors import InputError

_ORDER, _NOISE = 1, 2  # purposes: streams that must not share random numbers


@dataclass(frozen=True)
class Batch:
    """Inputs, and where the network is read.

    Attributes:
        input_BL: (B, L) int64 tokens, masked ones replaced.
        t_B: (B,) float32 noise levels; 0 where nothing is masked.
        read_N: (N,) int64 positions in the flattened (B * L) batch at which logits are needed.
        target_N: (N,) int64 true tokens there.
        weight_N: (N,) float32; the loss is the sum of weight * cross-entropy. 0 on padding.
    """

    input_BL: np.ndarray
    t_B: np.ndarray
    read_N: np.ndarray
    target_N: np.ndarray
    weight_N: np.ndarray


def windows_of_step(
    stream: np.ndarray, *, length: int, batch_size: int, seed: int, step: int
) -> np.ndarray:
    """(B, L) int64 windows of one step: each epoch cuts the stream at another offset, shuffled."""
    num_windows = (len(stream) - length) // length
    if num_windows < 1:
        raise InputError(f"training needs more than {2 * length} tokens, got {len(stream)}")
    rows = []
    for index in range(step * batch_size, (step + 1) * batch_size):
        offset, order = _epoch(seed, index // num_windows, num_windows, length)
        start = offset + int(order[index % num_windows]) * length
        rows.append(stream[start : start + length])
    return np.stack(rows).astype(np.int64)


@functools.lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, num_windows: int, length: int) -> tuple[int, np.ndarray]:
    rng = np.random.default_rng([seed, _ORDER, epoch])
    return int(rng.integers(length)), rng.permutation(num_windows)


def masked_batch(
    tokens_BL: np.ndarray,
    *,
    mask_id: int,
    smallest_t: float,
    seed: int,
    step: int,
    largest_t: float = 1.0,
    given: int = 0,
    grid_steps: int | None = None,
) -> Batch:
    """Mask a batch by the forward process at alpha_t = 1 - t, weights of the continuous NELBO.

    The loss, sum of 1/t * cross-entropy over masked positions / (B L), is an unbiased estimate of
    the NELBO's mean density over [smallest_t, largest_t], in nats per token. Levels are stratified
    over the batch (MDLM's low-discrepancy sampler): one in each of B equal parts. The first
    `given` positions are never masked and count for nothing.

    With `grid_steps` N levels from 0 on are rounded up to k / N, and the loss estimates the NELBO
    of N steps: a masked token is revealed in step k with probability 1 / k.
    """
    B, L = tokens_BL.shape
    rng = np.random.default_rng([seed, _NOISE, step])
    smallest_t = smallest_t if grid_steps is None else 0.0
    t_B = smallest_t + (largest_t - smallest_t) * (np.arange(B) + rng.random()) / B
    t_B = rounded_up(t_B, grid_steps)
    return mask_at_levels(
        tokens_BL, t_B, rng.random((B, L)), mask_id=mask_id, given=given, grid_steps=grid_steps
    )


def rounded_up(t: np.ndarray, grid_steps: int | None) -> np.ndarray:
    """Levels of any shape in [0, 1] to k / N, k = 1 ... N, where there is such a grid."""
    return t if grid_steps is None else np.maximum(np.ceil(t * grid_steps), 1.0) / grid_steps


def mask_at_levels(
    tokens_BL: np.ndarray,
    t_B: np.ndarray,
    u_BL: np.ndarray,
    *,
    mask_id: int,
    given: int = 0,
    grid_steps: int | None = None,
) -> Batch:
    """Mask position i of row b where u < t_b and i >= given; `grid_steps` says how many positions
    that are on average."""
    B, L = tokens_BL.shape
    masked_BL = u_BL < t_B[:, None]
    masked_BL[:, :given] = False
    read = np.flatnonzero(masked_BL)
    free = L - given
    usual = _padded_size(B, free, grid_steps)
    size = usual if len(read) <= usual else B * free
    read_N = np.zeros(size, dtype=np.int64)
    read_N[: len(read)] = read
    weight_N = np.zeros(size, dtype=np.float32)
    weight_N[: len(read)] = (1.0 / t_B)[read // L] / (B * free)
    return Batch(
        input_BL=np.where(masked_BL, mask_id, tokens_BL),
        t_B=t_B.astype(np.float32),
        read_N=read_N,
        target_N=tokens_BL.reshape(-1)[read_N],
        weight_N=weight_N,
    )


def _padded_size(B: int, L: int, grid_steps: int | None = None) -> int:
    """A number of read positions that stratified levels exceed once in 10^8 batches.

    Constant shapes keep a compiled network compiled; a batch above it reads all positions. Masked
    positions number B L / 2 on average with a variance of at most B L / 6, plus up to L / 2 from
    the common shift of the levels. Rounding levels up to a grid of N adds B L / (2 N), and up to
    a row's share at every of its N levels.
    """
    likely = B * L / 2 + 6 * math.sqrt(B * L / 6) + L / 2
    if grid_steps is not None:
        likely += B * L / (2 * grid_steps) + L / 2
    return min(B * L, 64 * math.ceil(likely / 64))


def next_token_batch(tokens_BL: np.ndarray) -> Batch:
    """Predict every token but the first from those before it; the loss is nats per token."""
    B, L = tokens_BL.shape
    read_N = (np.arange(B)[:, None] * L + np.arange(L - 1)).reshape(-1)
    weight_N = np.full(len(read_N), 1.0 / len(read_N), dtype=np.float32)
    t_B = np.zeros(B, dtype=np.float32)
    return Batch(tokens_BL, t_B, read_N, tokens_BL[:, 1:].reshape(-1), weight_N)


def share_of(batch: Batch, *, rank: int, world_size: int, grid_steps: int | None = None) -> Batch:
    """The rows of one process: every `world_size`-th, weights unchanged, so that shares add up."""
    if world_size == 1:
        return batch
    L = batch.input_BL.shape[1]
    row_N, place_N = batch.read_N // L, batch.read_N % L
    mine = (row_N % world_size == rank) & (batch.weight_N > 0)
    input_BL = batch.input_BL[rank::world_size]
    usual = _padded_size(len(input_BL), L, grid_steps)
    size = max(usual, int(mine.sum()))  # of all, where some are given
    padding = size - int(mine.sum())
    read_N = (row_N // world_size * L + place_N)[mine]
    return Batch(
        input_BL,
        batch.t_B[rank::world_size],
        np.pad(read_N, (0, padding)),
        np.pad(batch.target_N[mine], (0, padding)),
        np.pad(batch.weight_N[mine], (0, padding)),
    )
