"""Paired comparisons of two measurements of the same sequences.

Plans share all their noise, so the same sequence under two plans is a pair: what both plans find
easy or hard cancels in the difference, and its interval is narrower than two separate ones.
Measurements of different sequences are independent instead.
"""

from __future__ import annotations

import math

import numpy as np

from schedlab.errors import InputError
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic
from schedlab.results.estimate import Estimate
from schedlab.results.measurement import Measurement


def agreement(measurement: Measurement, reference: Measurement) -> Estimate:
    """Share of generated positions that hold the same token as in `reference`.

    1 means that the two plans wrote the same texts from the same noise.
    """
    check_paired(measurement, reference)
    same_SL = measurement.tokens_SL == reference.tokens_SL
    return bootstrap_mean(same_SL[:, measurement.prefix_length :].mean(axis=1)).estimate()


def paired_log_ppl_difference(a: Measurement, b: Measurement) -> Estimate:
    """log Gen-PPL of `a` minus that of `b`; below 0 means that `a` is better.

    Sequences are resampled for both together, so their common noise cancels.
    """
    check_paired(a, b)
    return bootstrap_statistic(
        lambda nll_a, tokens_a, nll_b, tokens_b: nll_a / tokens_a - nll_b / tokens_b,
        a.nll_S,
        a.scored_tokens_S,
        b.nll_S,
        b.scored_tokens_S,
    ).estimate()


def paired_difference(a: Measurement, b: Measurement, metric: str) -> Estimate:
    """Mean of a per-sequence metric in `a` minus that in `b`.

    Args:
        a, b: measurements of the same seed blocks.
        metric: a name in `Measurement.scores` whose mean is wanted, such as `entropy`.
    """
    check_paired(a, b)
    if metric not in a.scores:
        raise InputError(f"metric {metric!r} was not measured; measured: {sorted(a.scores)}")
    difference_S = a.scores[metric] - b.scores[metric]
    return bootstrap_mean(difference_S[np.isfinite(difference_S)]).estimate()


def independent_difference(a: Estimate, b: Estimate) -> Estimate:
    """`a` minus `b` for estimates from different sequences, such as fresh and search seeds.

    The interval is Zou and Donner's (MOVER, Statistics in Medicine 2008): the distances of the two
    intervals' ends from their values, added in squares. `n` is the smaller one.
    """
    value = a.value - b.value
    return Estimate(
        value=value,
        low=value - math.hypot(a.value - a.low, b.high - b.value),
        high=value + math.hypot(a.high - a.value, b.value - b.low),
        n=min(a.n, b.n),
    )


def check_paired(a: Measurement, b: Measurement) -> None:
    """Refuse measurements of different sequences."""
    if a.blocks != b.blocks or a.prefix_length != b.prefix_length:
        raise InputError(
            "a paired comparison needs measurements of the same seed blocks in the same order"
            f" and of one prefix length, got {len(a.blocks)} and {len(b.blocks)} blocks"
        )
    given = slice(0, a.prefix_length)
    if not np.array_equal(a.tokens_SL[:, given], b.tokens_SL[:, given]):
        raise InputError("a paired comparison needs measurements with the same given prefixes")
