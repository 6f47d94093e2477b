"""Figures of a run's stability, with intervals over sequences; `stability` says what they are.

Legend: S sequences, P pairs of consecutive steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedlab.files import Record
from schedlab.metrics.samples import FloatArray
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_ratio, bootstrap_statistic
from schedlab.results.estimate import Estimate

MANY_CHANGED = 3
"""Key tokens that must change for a drop of confidence to count among `changed`."""


class Drop(Record):
    """Drop of confidence over some pairs of steps.

    Args:
        pairs: how many pairs of steps, over all sequences.
        sequences: how many sequences have any.
        drop: mean over pairs, -1 to 1, with sequences resampled whole; None where fewer than two
            sequences have any.
    """

    pairs: int
    sequences: int
    drop: Estimate | None


class StabilitySummary(Record):
    """Figures of a run: means over pairs of steps and sequences, with intervals over sequences.

    Args:
        num_sequences, num_steps: S and T.
        outputs, input: fluctuation in both readings, 0 to 1.
        forgetting: update-forgetting, over guided steps; None without.
        key_change: share of key tokens that changed; None without guided steps.
        changed, others: drop of confidence where at least `MANY_CHANGED` key tokens changed, and
            elsewhere.
        difference: drop of `changed` minus that of `others`, on the same sequences.
        outputs_bleu, input_bleu, forgetting_bleu: the distances by BLEU, if asked for.
    """

    num_sequences: int
    num_steps: int
    outputs: Estimate
    input: Estimate
    forgetting: Estimate | None
    key_change: Estimate | None
    changed: Drop
    others: Drop
    difference: Estimate | None
    outputs_bleu: Estimate | None = None
    input_bleu: Estimate | None = None
    forgetting_bleu: Estimate | None = None


@dataclass(frozen=True)
class Resampling:
    """Estimates with intervals over sequences."""

    resamples: int
    seed: int

    def mean(self, values_SP: FloatArray) -> Estimate:
        """Over the pairs of steps that have the measure, of which there must be one."""
        mean_S = values_SP[:, ~np.isnan(values_SP[0])].mean(axis=1)
        return bootstrap_mean(mean_S, resamples=self.resamples, seed=self.seed).estimate()

    def mean_if_any(self, values_SP: FloatArray | None) -> Estimate | None:
        """None where no pair has the measure."""
        if values_SP is None or np.isnan(values_SP[0]).all():
            return None
        return self.mean(values_SP)

    def drop(self, drop_SP: FloatArray, chosen_SP: NDArray[np.bool_]) -> Drop:
        """Over chosen pairs."""
        sum_S, count_S = _sums(drop_SP, chosen_SP)
        sequences, found = int((count_S > 0).sum()), None
        if sequences >= 2:
            ratio = bootstrap_ratio(sum_S, count_S, resamples=self.resamples, seed=self.seed)
            found = ratio.estimate()
        return Drop(pairs=int(count_S.sum()), sequences=sequences, drop=found)

    def difference(self, drop_SP: FloatArray, many_SP: NDArray[np.bool_]) -> Estimate | None:
        """Of the drops of chosen pairs and of others; None where one of them has no interval."""
        sums = (*_sums(drop_SP, many_SP), *_sums(drop_SP, ~many_SP))
        if min((sums[1] > 0).sum(), (sums[3] > 0).sum()) < 2:
            return None

        def statistic(a: FloatArray, n: FloatArray, b: FloatArray, m: FloatArray) -> FloatArray:
            return a / n - b / m

        found = bootstrap_statistic(statistic, *sums, resamples=self.resamples, seed=self.seed)
        return found.estimate()


def _sums(drop_SP: FloatArray, chosen_SP: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Of every sequence, over chosen pairs: the sum of drops and how many there are, (S,) each."""
    chosen_SP = chosen_SP & ~np.isnan(drop_SP)
    return np.where(chosen_SP, drop_SP, 0.0).sum(axis=1), chosen_SP.sum(axis=1).astype(np.float64)
