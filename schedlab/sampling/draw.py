"""Tokens at picked positions: head, softmax and a float64 Gumbel-max draw, nowhere else.

Legend: R rows, L positions, D features, N picked positions, V vocabulary, C a chunk of the N.
"""

from __future__ import annotations

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import SchedlabError
from schedlab.plan import Decoding
from schedlab.processes import MaskedProcess
from schedlab.sampling.forwards import HEAD_ROWS, logits_of
from schedlab.sampling.noise import Purpose, SequenceIds, gumbels

MAX_DRAW_ENTRIES = 1 << 23
"""Bound on N * V in one draw: 64 MiB for each of a handful of float64 arrays."""


def draw_tokens(
    features_RLD: Tensor,
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
        features_RLD: of whole sequences.
        row_N, position_N: where a token is wanted.
        ids_R: addresses of the sequences.
        decoding: temperature and top-p.
        process, denoiser: what gives the distribution.
        role: for the message.

    Raises:
        SchedlabError: logits that are not finite.
    """
    rows = max(1, MAX_DRAW_ENTRIES // process.vocab_size)
    head_rows = min(rows, HEAD_ROWS)
    rows -= rows % head_rows
    tokens = []
    for row_C, position_C in zip(row_N.split(rows), position_N.split(rows), strict=True):
        logits_CV = logits_of(denoiser, features_RLD[row_C, position_C], size=head_rows)
        log_probs_CV = process.log_p_x(logits_CV, decoding.temperature, decoding.top_p)
        noise_CV = gumbels(ids_R.pick(row_C), Purpose.TOKEN, position_C, 0, process.vocab_size)
        score_CV = noise_CV.add_(log_probs_CV)
        best_C, token_C = score_CV.max(-1)
        if not torch.isfinite(best_C).all():  # max propagates NaN; all -inf cannot be drawn from
            raise SchedlabError(
                f"denoiser {role!r} gave logits that are not finite; check its weights and"
                " precision"
            )
        tokens.append(token_C)
    return torch.cat(tokens)
