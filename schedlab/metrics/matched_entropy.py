"""Gen-PPL compared at equal entropy: log Gen-PPL and entropy are two halves of one divergence
(2604.02718), and a sampler that repeats itself has less of both.

The baseline is a curve: the same model at several temperatures (or values of top-p), on the same
sequences. Its log Gen-PPL is interpolated linearly in entropy (mean over sequences, nats) between
neighbouring points, at the entropy of the sampler in question [O].

Legend: S sequences, K points of the curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from schedlab.errors import InputError
from schedlab.metrics.samples import FloatArray
from schedlab.results.bootstrap import bootstrap_statistic
from schedlab.results.estimate import Estimate


@dataclass(frozen=True)
class Fluency:
    """Columns of one sampler, float64 (S,) each.

    Args:
        nll_S, tokens_S: nats and tokens of the scorer.
        entropy_S: of the tokens of every sequence.
    """

    nll_S: FloatArray
    tokens_S: FloatArray
    entropy_S: FloatArray


def log_ppl_gap(one: Fluency, curve: Sequence[Fluency]) -> Estimate | None:
    """Log Gen-PPL of a sampler minus that of a curve at the same entropy, with its interval.

    Sequences are resampled together in the sampler and in all points of the curve; a resample that
    leaves the curve is compared with its nearest end.

    Args:
        one: the sampler.
        curve: at least two points, on the same sequences.

    Returns:
        The difference; None where the sampler's entropy lies outside of the curve.

    Raises:
        InputError: fewer than two points, or other numbers of sequences.
    """
    if len(curve) < 2:
        raise InputError(f"a curve needs at least 2 points, got {len(curve)}")
    if len({len(point.nll_S) for point in (one, *curve)}) > 1:
        raise InputError("samplers must be measured on the same sequences")
    entropy_K = [float(np.mean(point.entropy_S)) for point in curve]
    if not min(entropy_K) <= float(np.mean(one.entropy_S)) <= max(entropy_K):
        return None
    own = (one.nll_S, one.tokens_S, one.entropy_S)
    of_curve = (
        np.stack([getattr(point, name) for point in curve], axis=1)
        for name in ("nll_S", "tokens_S", "entropy_S")
    )
    return bootstrap_statistic(_gap, *own, *of_curve).estimate()


def _gap(
    nll: FloatArray,
    tokens: FloatArray,
    entropy: FloatArray,
    nll_K: FloatArray,
    tokens_K: FloatArray,
    entropy_K: FloatArray,
) -> FloatArray:
    """Of means, with leading axes kept."""
    log_ppl, log_ppl_K = np.asarray(nll / tokens), nll_K / tokens_K
    size = entropy_K.shape[-1]
    rows = zip(
        np.ravel(entropy), entropy_K.reshape(-1, size), log_ppl_K.reshape(-1, size), strict=True
    )
    found = [np.interp(at, *_ordered(x_K, y_K)) for at, x_K, y_K in rows]
    return np.asarray(log_ppl - np.array(found).reshape(log_ppl.shape))


def _ordered(x_K: FloatArray, y_K: FloatArray) -> tuple[FloatArray, FloatArray]:
    order_K = np.argsort(x_K)
    return x_K[order_K], y_K[order_K]
