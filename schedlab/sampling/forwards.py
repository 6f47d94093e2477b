"""Forwards of constant shape, so that a token never depends on what else is in the batch.

Matrix products choose their kernel, hence the order of their sums, by shape: in bfloat16 a
sequence run by itself got features that differ by 0.1 from the same sequence among 16. So
networks are only ever called with one number of rows, the last call filled up with copies of its
first row. Rows of one call do not see each other, so their place and company change no bit (a test
holds the transformer to it; other kernels are free to break it).

Where a call runs out of memory its rows are halved, for this network from then on, until it fits;
a warning says so, since tokens may then differ by rounding from those of full calls.

Legend: R sequences (B: among which they are), L positions, A of them computed, N picked positions,
F values of a trunk or kept of a position, V vocabulary, C rows of a call.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from schedlab.denoisers.base import (
    Denoiser,
    KeepingDenoiser,
    Whole,
    padded,
    partwise,
    shadowing,
)
from schedlab.errors import SchedlabError, SchedlabWarning

# Enough to fill the machine: in one thread, as workers run, calls of 1,024 positions are within a
# tenth of the fastest per position; two threads would gain up to a fifth from 4,096 in bfloat16.
# GPUs need more in flight.
CPU_POSITIONS = 1 << 10
GPU_POSITIONS = 1 << 14
_SHORTEST = 16  # positions; shorter sequences do not make the call any larger
HEAD_ROWS = 64

_FITS: dict[tuple[int, int], tuple[weakref.ref[object], int]] = {}
"""By network (its id) and rows of a full call: the network, and rows that fitted."""


def call_rows(length: int, device: torch.device) -> int:
    """Sequences of one call."""
    positions = CPU_POSITIONS if device.type == "cpu" else GPU_POSITIONS
    return max(1, positions // max(_SHORTEST, length))


def trunk_of(
    denoiser: Denoiser, z_RL: Tensor, t_R: Tensor | None, padding_RL: Tensor | None = None
) -> Tensor:
    """What `logits_of` reads, of every sequence, (R, L, F): features, or less than the whole
    network where a denoiser can finish positions one by one (`PartwiseDenoiser`).

    Raises:
        InputError: rows that are filled up, for a denoiser that does not take them.
    """
    if padding_RL is None:
        return _of_sequences(denoiser, partwise(denoiser).trunk, t_R, z_RL)
    trunk = padded(denoiser).trunk

    def call(z_CL: Tensor, padding_CL: Tensor, *t_C: Tensor) -> Tensor:
        return trunk(z_CL, *t_C, padding_BL=padding_CL)

    return _of_sequences(denoiser, call, t_R, z_RL, padding_RL)


def features_of(denoiser: Denoiser, z_RL: Tensor, t_R: Tensor | None) -> Tensor:
    """Features of every sequence, (R, L, D)."""
    return _of_sequences(denoiser, denoiser.features, t_R, z_RL)


def shadowed_of(denoiser: Denoiser, z_RL: Tensor, place_RK: Tensor, t_R: Tensor | None) -> Tensor:
    """Features of every sequence and of shadows behind it, (R, L + K, D), see `ShadowDenoiser`.

    Raises:
        InputError: the denoiser takes none.
    """
    call = shadowing(denoiser).features_with_shadows
    return _of_sequences(denoiser, call, t_R, z_RL, place_RK, more=place_RK.shape[1])


def logits_of_features(
    denoiser: Denoiser, trunk_RLF: Tensor, row_N: Tensor, position_N: Tensor
) -> Tensor:
    """Logits at (row, position), (N, V), of the features that `shadowed_of` gave."""
    call = partial(Whole(denoiser).logits_at, trunk_RLF)
    return _in_calls(denoiser, call, HEAD_ROWS, row_N, position_N)


def logits_of(denoiser: Denoiser, trunk_RLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
    """Logits at (row, position), (N, V)."""
    call = partial(partwise(denoiser).logits_at, trunk_RLF)
    return _in_calls(denoiser, call, HEAD_ROWS, row_N, position_N)


def refreshed_of(
    denoiser: Denoiser,
    network: KeepingDenoiser,
    kept_BLF: Tensor | None,
    rows_R: Tensor,
    z_RA: Tensor,
    position_RA: Tensor,
    length: int,
) -> Tensor:
    """What is kept of positions computed anew, (R, A, F), with what is kept of the sequences
    `rows_R`; None where all `length` positions are computed."""

    def call(rows_C: Tensor, z_CA: Tensor, position_CA: Tensor) -> Tensor:
        if kept_BLF is None:
            return network.refresh(None, z_CA, position_CA)
        # What is kept of a long sequence is a tenth of a gigabyte: a single one is not copied.
        alone = len(rows_C) == 1
        kept_CLF = kept_BLF.narrow(0, int(rows_C[0]), 1) if alone else kept_BLF[rows_C]
        return network.refresh(kept_CLF, z_CA, position_CA)

    # What is kept of a row is as large as that of a whole sequence, however few are computed.
    size = call_rows(length, z_RA.device)
    return _in_calls(denoiser, call, size, rows_R, z_RA, position_RA)


def kept_logits_of(
    denoiser: Denoiser,
    network: KeepingDenoiser,
    kept_BLF: Tensor,
    row_N: Tensor,
    position_N: Tensor,
) -> Tensor:
    """Logits at (row, position) of what is kept, (N, V)."""
    call = partial(network.kept_logits, kept_BLF)
    return _in_calls(denoiser, call, HEAD_ROWS, row_N, position_N)


def _of_sequences(
    denoiser: Denoiser,
    call: Callable[..., Tensor],
    t_R: Tensor | None,
    z_RL: Tensor,
    *others: Tensor,
    more: int = 0,
) -> Tensor:
    """Of sequences with `more` tokens than L; the noise level last, where it is read."""
    size = call_rows(z_RL.shape[1] + more, z_RL.device)
    if t_R is None or denoiser.spec.time_input == "none":
        return _in_calls(denoiser, call, size, z_RL, *others)
    return _in_calls(denoiser, call, size, z_RL, *others, t_R)


def _in_calls(network: object, call: Callable[..., Tensor], size: int, *inputs: Tensor) -> Tensor:
    """`call` of `network` on `size` rows at a time, one result per row of the inputs."""
    key = (id(network), size)
    if key in _FITS and _FITS[key][0]() is network:
        size = _FITS[key][1]
    results = []
    for parts in zip(*(rows.split(size) for rows in inputs), strict=True):
        num_rows = len(parts[0])
        try:
            results.append(call(*(_filled_up(part, size) for part in parts))[:num_rows])
            continue
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if size == 1:
                raise SchedlabError(
                    f"out of memory with one row of shape {tuple(parts[0].shape[1:])} in a call;"
                    " shorten the length or use a machine with more memory"
                ) from None
        # Here the error and what its frames held are gone.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _FITS[key] = (weakref.ref(network), size // 2)
        warnings.warn(
            f"out of memory with {size} rows in a call; going on with {size // 2}",
            SchedlabWarning,
            stacklevel=2,
        )
        done = sum(len(part) for part in results)
        rest = _in_calls(network, call, key[1], *(rows[done:] for rows in inputs))
        return torch.cat([*results, rest])
    return results[0] if len(results) == 1 else torch.cat(results)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """CUDA has an error of its own; the CPU's allocator has a message only."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _filled_up(rows_C: Tensor, size: int) -> Tensor:
    if len(rows_C) in (0, size):
        return rows_C
    filler_C = rows_C[:1].expand(size - len(rows_C), *rows_C.shape[1:])
    return torch.cat((rows_C, filler_C))
