"""Segment influence and rank correlation of a search's exhaustive set.

Shapes: N plans, B sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from schedlab.job import Job
from schedlab.plan import ModelSchedule
from schedlab.results import Measurement, SeedBlock
from schedlab.results.search_file import RankCorrelation, SegmentInfluence
from schedlab.search.additive import StepCosts, additive_score
from schedlab.search.influence import segment_influence
from schedlab.search.proposals import Proposals
from schedlab.search.ranking import (
    kendall_of_spearman,
    rank_correlation,
    split_half_ceiling,
)
from schedlab.search.space import assignment_of

Measured = Mapping[ModelSchedule, Measurement]

MIN_PLANS = 3


def influence_of(job: Job, proposals: Proposals, measured: Measured) -> list[SegmentInfluence]:
    """Segment influence over the exhaustive set; nothing where it is not defined."""
    schedules = proposals.of("exhaustive")
    rows = [assignment_of(schedule, job.search.num_segments) or () for schedule in schedules]
    light_NS = np.array([[role == job.plan.light for role in row] for row in rows])
    if len(schedules) < MIN_PLANS or not light_NS.any(axis=0).all():
        return []
    return segment_influence(light_NS, *_columns(schedules, measured))


def ranking_of(
    job: Job, proposals: Proposals, measured: Measured, costs: Sequence[StepCosts]
) -> list[RankCorrelation]:
    """How well each additive score ranks the exhaustive set, beside the ceiling of noise.

    Plans are ranked among those with as many light steps.
    """
    schedules = proposals.of("exhaustive")
    if len(schedules) < MIN_PLANS:
        return []
    nll_BN, tokens_BN = _columns(schedules, measured)
    blocks = _common_blocks(schedules, measured)
    if np.ptp(nll_BN.sum(axis=0) / tokens_BN.sum(axis=0)) == 0:
        return []  # all plans gave the same texts: there is nothing to rank
    block_B = np.repeat(np.arange(len(blocks)), [block.size for block in blocks])
    budget_N = np.array([schedule.count(job.plan.light) for schedule in schedules])
    ceiling = split_half_ceiling(nll_BN, tokens_BN, block_B, budget_N=budget_N)
    found = []
    for table in costs:
        score_N = np.array([additive_score(table, schedule) for schedule in schedules])
        if all(np.ptp(score_N[budget_N == budget]) == 0 for budget in np.unique(budget_N)):
            continue
        ranking = rank_correlation(score_N, nll_BN, tokens_BN, budget_N=budget_N)
        found.append(
            RankCorrelation(
                score=table.score,
                states=table.states,
                spearman=ranking.spearman,
                kendall=ranking.kendall,
                ceiling_spearman=ceiling,
                ceiling_kendall=None if ceiling is None else kendall_of_spearman(ceiling),
                n_plans=ranking.n_plans,
            )
        )
    return found


def _columns(
    schedules: Sequence[ModelSchedule], measured: Measured
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    num = sum(block.size for block in _common_blocks(schedules, measured))
    nll_BN = np.stack([measured[s].nll_S[:num] for s in schedules], axis=1)
    tokens_BN = np.stack([measured[s].scored_tokens_S[:num] for s in schedules], axis=1)
    return nll_BN, tokens_BN


def _common_blocks(
    schedules: Sequence[ModelSchedule], measured: Measured
) -> tuple[SeedBlock, ...]:
    """What all were measured on: racing stops some early, and all statistics here are paired."""
    return min((measured[schedule].blocks for schedule in schedules), key=len)
