"""Racing: all plans on few sequences first, more only for those that may still be on the front.

After every look (the sequences so far, doubled from look to look) a plan is dropped when some
plan that costs no more is better with confidence: the lower limit of the paired difference of log
Gen-PPL lies above 0. Confidence is family-wise over all looks, all plans and all pairs together:
with probability at least 1 - `error` no plan of the true front is dropped. (The true front: at
every cost the best expected log Gen-PPL, among plans within the entropy band.)

How: the true front holds one plan of every cost, and it is lost only if one of the plans that cost
no more appears better. So there are `m = sum over costs c of (plans that cost at most c, less
one)` chances for error a look; costs of plans that are never dropped do not count as c. Each gets
`error / (looks * m)` (union bound) and is a one-sided Student t limit with n - 1 degrees of
freedom over sequences, ratios of sums linearised. Limits are asymptotic: a test draws from heavy
tailed sequences and counts wrong drops. Fixed looks with a union bound are a confidence sequence
at those looks, and narrower there than sequences that hold at any time. [O]

A plan may only be dropped by plans whose entropy is within the band. If a later look finds all of
them outside, the plan is in the race again, and what it missed is sampled.

Sequences do not depend on who is in the race, since noise is addressed by sequence: what a plan
is measured on is always a first part of the same sequences, and measurements stay paired.

References: Maron and Moore, Hoeffding races, 1993 (racing); Pocock, Biometrika 1977 (repeated
looks); here with Student limits and the union bound in place of their constants.

Shapes: N plans, S sequences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from schedlab.plan import ModelSchedule
from schedlab.results.search_file import Dropped, Look, Race
from schedlab.search.bench import Bench

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_SAME_COST = 1e-12


@dataclass(frozen=True)
class Beaten:
    """One reason why a plan is out.

    Args:
        sequences: what both were compared on.
        by: the plan that beat it.
        difference: log Gen-PPL minus that plan's.
        at_least: lower limit of that.
    """

    sequences: int
    by: ModelSchedule
    difference: float
    at_least: float


@dataclass
class Racing:
    """A race over the plans of a search.

    Args:
        bench: measures.
        plans: all that are in the race.
        kept: those that are never dropped.
        error: probability of dropping any plan of the true front.
        looks: numbers of seed blocks, rising; nothing is dropped after the last.
    """

    bench: Bench
    plans: Sequence[ModelSchedule]
    kept: frozenset[ModelSchedule]
    error: float
    looks: Sequence[int]
    beaten: dict[ModelSchedule, list[Beaten]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cost_N = np.array([1.0 - self.bench.saved(schedule) for schedule in self.plans])
        raced_N = np.array([schedule not in self.kept for schedule in self.plans])
        self.comparisons = comparisons(self.cost_N, raced_N)
        self.level = self.error / max(1, self.comparisons * (len(self.looks) - 1))

    def run(self, stage: Callable[[str], None]) -> Race:
        """Measure, look, drop, until the last look; all that are left have all sequences then."""
        looks = []
        for blocks in self.looks:
            left = self._measure(blocks, stage)
            sequences = self.bench.measured[left[0]].num_sequences
            looks.append(Look(sequences=sequences, plans=len(left)))
            if blocks != self.looks[-1]:
                self._drop(left, blocks)
        measured = [self.bench.measured[schedule].num_sequences for schedule in self.plans]
        return Race(
            error=self.error,
            comparisons=self.comparisons,
            looks=tuple(looks),
            sequences=sum(measured),
            sequences_without=len(self.plans) * looks[-1].sequences,
        )

    def dropped(self, schedule: ModelSchedule) -> Dropped | None:
        """Why a plan is out; None where it is not."""
        found = self._reason(schedule)
        if found is None:
            return None
        return Dropped(
            sequences=found.sequences,
            by=self.bench.plan(found.by).digest,
            difference=found.difference,
            at_least=found.at_least,
        )

    def _measure(self, blocks: int, stage: Callable[[str], None]) -> list[ModelSchedule]:
        """Measure all that are in the race on so many blocks; until none comes back into it."""
        while True:
            left = [schedule for schedule in self.plans if self._reason(schedule) is None]
            measured = self.bench.measured
            short = [s for s in left if s not in measured or len(measured[s].blocks) < blocks]
            if not short:
                return left
            stage(f"sampling {len(short)} schedules, look {list(self.looks).index(blocks) + 1}")
            self.bench.measure(left, blocks)

    def _reason(self, schedule: ModelSchedule) -> Beaten | None:
        """The clearest reason that holds: who beat it is within the band, and it was not measured
        in full since."""
        if schedule not in self.beaten or self.bench.is_complete(schedule):
            return None
        within, measured = self.bench.within_band, self.bench.measured
        return next((one for one in self.beaten[schedule] if within(measured[one.by])), None)

    def _drop(self, left: Sequence[ModelSchedule], blocks: int) -> None:
        """Compare all that are left; note who is beaten by whom."""
        is_left = set(left)
        index = [i for i, schedule in enumerate(self.plans) if schedule in is_left]
        measured = [self.bench.measured[schedule].first_blocks(blocks) for schedule in left]
        nll_SN = np.stack([found.nll_S for found in measured], axis=1)
        tokens_SN = np.stack([found.scored_tokens_S for found in measured], axis=1)
        within_N = np.array([self.bench.within_band(found) for found in measured])
        difference_NN, low_NN = paired_limits(nll_SN, tokens_SN, self.level)
        beats_NN = beats(low_NN, self.cost_N[index], within_N)
        for i, schedule in enumerate(left):
            winners = sorted(np.flatnonzero(beats_NN[i]).tolist(), key=lambda j: -low_NN[i, j])
            if winners and schedule not in self.kept:
                self.beaten[schedule] = [
                    Beaten(len(nll_SN), left[j], float(difference_NN[i, j]), float(low_NN[i, j]))
                    for j in winners
                ]


def look_blocks(first: int, last: int) -> list[int]:
    """Blocks of every look: doubled from `first` until `last`."""
    looks = []
    while first < last:
        looks.append(first)
        first *= 2
    return [*looks, last]


def comparisons(cost_N: ArrayLike, raced_N: ArrayLike) -> int:
    """Chances per look to drop a plan of the true front: see the module's docstring."""
    cost_N = np.asarray(cost_N, dtype=np.float64)
    total, known = 0, -np.inf
    for cost in np.sort(cost_N[np.asarray(raced_N, dtype=bool)]):
        if cost > known + _SAME_COST:  # plans of one cost share its place on the front
            total += int((cost_N <= cost + _SAME_COST).sum()) - 1
            known = cost
    return total


def paired_limits(
    nll_SN: FloatArray, tokens_SN: FloatArray, level: float
) -> tuple[FloatArray, FloatArray]:
    """Differences of log Gen-PPL, plan i (row) minus plan j, and their one-sided lower limits.

    Args:
        nll_SN, tokens_SN: of the same sequences under every plan.
        level: probability that one limit lies above the true difference.

    Returns:
        Two arrays (N, N). Where two plans differ by the same amount on all sequences nothing is
        known about the spread, and the limit is minus infinity.
    """
    num, _ = nll_SN.shape
    ratio_N = nll_SN.sum(axis=0) / tokens_SN.sum(axis=0)
    # Means of these are the ratios, and their spread is that of the ratios to first order.
    influence_SN = (nll_SN - ratio_N * tokens_SN) / tokens_SN.mean(axis=0)
    covariance_NN = influence_SN.T @ influence_SN / (num - 1)
    variance_N = np.diagonal(covariance_NN)
    variance_NN = variance_N[:, None] + variance_N[None, :] - 2 * covariance_NN
    # Equal plans leave rounding errors of either sign.
    known_NN = variance_NN > 1e-12 * (variance_N[:, None] + variance_N[None, :])
    half_NN = student_t.isf(level, num - 1) * np.sqrt(np.maximum(variance_NN, 0.0) / num)
    difference_NN = ratio_N[:, None] - ratio_N[None, :]
    return difference_NN, np.where(known_NN, difference_NN - half_NN, -np.inf)


def beats(low_NN: FloatArray, cost_N: FloatArray, within_N: BoolArray) -> BoolArray:
    """Whether plan j (column) keeps plan i (row) off the front: no dearer, in the band, better."""
    no_dearer_NN = cost_N[None, :] <= cost_N[:, None] + _SAME_COST
    return np.asarray((low_NN > 0) & no_dearer_NN & within_N[None, :])
