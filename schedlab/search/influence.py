"""What one light segment does to quality on average (segment influence of arXiv 2604.02340).

`I_j = mean of log Gen-PPL over schedules with segment j light - the mean of that over segments`,
and the same in Gen-PPL. With one number of light segments the second mean is that over all
schedules, as published; with all numbers it is not, since a schedule with j light has more light
segments than others. Positive: making segment j light hurts more than the average choice does. The
intervals are ours: sequences are resampled, the same ones for every plan, as plans share their
noise.

Shapes: N plans, B sequences, S segments.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from schedlab.errors import InputError
from schedlab.results.bootstrap import bootstrap_statistic
from schedlab.results.search_file import SegmentInfluence

RANKED = 20


def segment_influence(
    light_NS: ArrayLike, nll_BN: ArrayLike, tokens_BN: ArrayLike
) -> list[SegmentInfluence]:
    """Influence of every segment, with 95 % intervals over sequences.

    Args:
        light_NS: which segments are light in which plan, shape (N, S).
        nll_BN: negative log-likelihood of every sequence under the scorer, nats, shape (B, N).
        tokens_BN: scored tokens of every sequence, shape (B, N).

    Returns:
        One record per segment; also how often it is light among the best and worst plans (20 of
        each, fewer in small sets).

    Raises:
        InputError: a segment that no plan makes light.
    """
    light_NS = np.asarray(light_NS, dtype=bool)
    num_plans = len(light_NS)
    if not light_NS.any(axis=0).all():
        never = int(np.flatnonzero(~light_NS.any(axis=0))[0])
        raise InputError(f"segment {never} is light in no plan, so its influence is not defined")
    mean_NS = light_NS / light_NS.sum(axis=0)
    contrast_NS = mean_NS - mean_NS.mean(axis=1, keepdims=True)

    def log_influence(nll_N: NDArray[Any], tokens_N: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(nll_N / tokens_N @ contrast_NS)

    def ppl_influence(nll_N: NDArray[Any], tokens_N: NDArray[Any]) -> NDArray[np.float64]:
        return np.asarray(np.exp(nll_N / tokens_N) @ contrast_NS)

    log_S = bootstrap_statistic(log_influence, nll_BN, tokens_BN)
    ppl_S = bootstrap_statistic(ppl_influence, nll_BN, tokens_BN)
    ranked = min(RANKED, num_plans // 2)
    order_N = np.argsort(np.sum(nll_BN, axis=0) / np.sum(tokens_BN, axis=0), kind="stable")
    top_S = light_NS[order_N[:ranked]].sum(axis=0)
    bottom_S = light_NS[order_N[num_plans - ranked :]].sum(axis=0)
    return [
        SegmentInfluence(
            segment=j,
            **log_S.estimate(j).model_dump(),
            ppl=ppl_S.estimate(j),
            in_top=int(top_S[j]),
            in_bottom=int(bottom_S[j]),
            ranked=ranked,
        )
        for j in range(light_NS.shape[1])
    ]
