"""Tokens at picked positions: head, softmax and a float64 Gumbel-max draw, nowhere else.

Legend: R rows, L positions, F values of a trunk, N picked positions, V vocabulary, H and C chunks
of the N.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import SchedlabError
from schedlab.plan import Decoding
from schedlab.processes import MaskedProcess
from schedlab.sampling.forwards import HEAD_ROWS, logits_of
from schedlab.sampling.noise import Purpose, SequenceIds, gumbels

MAX_HEAD_ENTRIES = 1 << 23
"""Bound on N * V of logits at a time: 32 MiB in float32."""
CPU_DRAW_ENTRIES, GPU_DRAW_ENTRIES = 1 << 16, 1 << 23
"""N * V of a draw at a time: on CPUs float64 arrays that stay in the cache."""


def draw_tokens(
    trunk_RLF: Tensor,
    row_N: Tensor,
    position_N: Tensor,
    ids_R: SequenceIds,
    decoding: Decoding,
    process: MaskedProcess,
    denoiser: Denoiser,
    role: str,
) -> Tensor:
    """Tokens at (row, position), int64 (N,).

    Args:
        trunk_RLF: of whole sequences, as from `trunk_of`.
        row_N, position_N: where a token is wanted.
        ids_R: addresses of the sequences.
        decoding: temperature and top-p.
        process, denoiser: what gives the distribution.
        role: for the message.

    Raises:
        SchedlabError: logits that are not finite.
    """
    head_rows = max(1, MAX_HEAD_ENTRIES // process.vocab_size // HEAD_ROWS) * HEAD_ROWS
    entries = CPU_DRAW_ENTRIES if trunk_RLF.device.type == "cpu" else GPU_DRAW_ENTRIES
    draw_rows = max(1, entries // process.vocab_size)
    tokens = []
    for row_H, position_H in zip(row_N.split(head_rows), position_N.split(head_rows), strict=True):
        logits_HV = logits_of(denoiser, trunk_RLF, row_H, position_H)
        for logits_CV, row_C, position_C in zip(
            logits_HV.split(draw_rows), row_H.split(draw_rows), position_H.split(draw_rows),
            strict=True,
        ):  # fmt: skip
            ids_C = ids_R.pick(row_C)
            tokens.append(draw(logits_CV, ids_C, position_C, decoding, process, role))
    return torch.cat(tokens)


def head_chunks(
    row_N: Tensor, position_N: Tensor, process: MaskedProcess, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """(row, position) in parts that a head and a draw take at once."""
    entries = CPU_DRAW_ENTRIES if device.type == "cpu" else GPU_DRAW_ENTRIES
    size = max(1, entries // process.vocab_size // HEAD_ROWS) * HEAD_ROWS
    return zip(row_N.split(size), position_N.split(size), strict=True)


def draw(
    logits_CV: Tensor,
    ids_C: SequenceIds,
    position_C: Tensor,
    decoding: Decoding,
    process: MaskedProcess,
    role: str,
    visit: Tensor | int = 0,
) -> Tensor:
    """Gumbel-max in float64, int64 (C,); at temperature 0 the likeliest token.

    Args:
        logits_CV: at picked positions.
        ids_C, position_C: their addresses.
        decoding, process, role: as for `draw_tokens`.
        visit: of the positions, (C,) or common to all, part of the addresses.

    Raises:
        SchedlabError: logits that are not finite.
    """
    if decoding.temperature == 0:
        scores_CV = process.scores(logits_CV)
    else:
        if decoding.top_p >= 1:
            scores_CV = process.scores(logits_CV, decoding.temperature)
        else:
            scores_CV = process.log_p_x(logits_CV, decoding.temperature, decoding.top_p)
        scores_CV += gumbels(ids_C, Purpose.TOKEN, position_C, visit, process.vocab_size)
    best_C, token_C = scores_CV.max(-1)
    if not torch.isfinite(best_C).all():  # max propagates NaN; all -inf cannot be drawn from
        raise SchedlabError(
            f"denoiser {role!r} gave logits that are not finite; check its weights and precision"
        )
    return token_C
