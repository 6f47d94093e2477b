"""From sums per sequence to curves, step scores and tests, each with a 95 % bootstrap interval.

Resamples are drawn by (number of sequences, seed) alone, so all figures of one pass share them:
differences are paired.

Legend: S sequences, K levels, T steps, J segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import ArrayLike

from schedlab.importance.propagation import SwapSums
from schedlab.importance.sums import SequenceSums
from schedlab.results import Estimate
from schedlab.results.bootstrap import Intervals, bootstrap_mean, bootstrap_ratio
from schedlab.results.importance_file import (
    Curve,
    Propagation,
    Significance,
    States,
    StepScores,
    curve_id,
)

_GAPS: tuple[Literal["loss_gap", "relative_kl"], ...] = ("loss_gap", "relative_kl")


@dataclass(frozen=True)
class Estimator:
    """Estimates of one pass.

    Args:
        heavy: the role of the reference.
        prefix: whether the pass gave a prefix.
        resamples, seed: of the bootstrap.
    """

    heavy: str
    prefix: bool
    resamples: int
    seed: int

    def curves(self, sums: SequenceSums, states: States) -> list[Curve]:
        """Every metric per masked position against the noise level: ratios of sums over sequences.

        Levels at which no sequence had a masked position are left out.
        """
        seen_K = sums.masked_SK.sum(axis=0) > 0
        masked_SK = sums.masked_SK[:, seen_K]
        found = []
        for name, metric_SK in sums.metrics.items():
            metric, *roles = name.split("/")
            interval = self._ratio(metric_SK[:, seen_K], masked_SK)
            found.append(
                Curve(
                    id=curve_id(metric, roles, states=states, prefix=self.prefix),
                    metric=metric,  # type: ignore[arg-type]  # pydantic checks it
                    roles=roles,
                    states=states,
                    prefix=self.prefix,
                    t=sums.t_K[seen_K].tolist(),
                    value=interval.value.tolist(),
                    low=interval.low.tolist(),
                    high=interval.high.tolist(),
                    n=interval.n,
                )
            )
        return found

    def step_scores(self, sums: SequenceSums, light: str, states: States) -> StepScores:
        """What every step costs in the bounds when `light` runs it, nats per generated token.

        `loss_gap_k = r_k E[sum_masked (CE_light - CE_heavy)] / L` sums to a schedule's excess
        NELBO, `path_kl_k = r_k E[sum_masked KL(heavy || light)] / L` to the KL of trajectories.
        """
        scores: dict[str, Any] = {}
        metrics = {"path_kl": "kl_heavy_light"}
        if states == "forward":
            metrics["loss_gap"] = "loss_gap"
        for score, metric in metrics.items():
            interval = self._mean(sums.per_step(f"{metric}/{self.heavy}/{light}"))
            scores[score] = interval.value.tolist()
            scores[f"{score}_low"] = interval.low.tolist()
            scores[f"{score}_high"] = interval.high.tolist()
        return StepScores(
            heavy=self.heavy,
            light=light,
            states=states,
            prefix=self.prefix,
            num_steps=len(sums.level_of_step_T),
            **scores,
        )

    def nelbo(self, sums: SequenceSums, role: str) -> Estimate:
        """T-step NELBO of one denoiser alone, nats per generated token; lower is better."""
        return self._bound(sums, f"cross_entropy/{role}")

    def significance(self, sums: SequenceSums, light: str) -> list[Significance]:
        """Is `light` worse than heavy, and further from it than a second heavy one is?"""
        found = []
        for metric in _GAPS:
            name = f"{metric}/{self.heavy}/{light}"
            if name not in sums.metrics:  # no second heavy denoiser
                continue
            gap = self._bound(sums, name)
            found.append(
                Significance(
                    light=light,
                    metric=metric,
                    mean_gap=gap,
                    significant=gap.excludes(0.0),
                    prefix=self.prefix,
                )
            )
        return found

    def propagation(self, sums: SwapSums, light: str) -> list[Propagation]:
        """Shares of changed and of propagated tokens, KL of the next prediction, by segment."""
        changed = self._mean(sums.changed_SJ / sums.num_free)
        propagated = self._mean((sums.changed_SJ - sums.own_SJ) / sums.num_free)
        found = []
        for j in range(sums.changed_SJ.shape[1]):
            kl_next, goes_on = None, bool(sums.masked_SJ[:, j].any())
            if goes_on:
                kl_next = self._ratio(sums.kl_next_SJ[:, j], sums.masked_SJ[:, j]).estimate()
            found.append(
                Propagation(
                    segment=j,
                    t_from=float(sums.t_J1[j]),
                    t_to=float(sums.t_J1[j + 1]),
                    heavy=self.heavy,
                    light=light,
                    changed_tokens=changed.estimate(j),
                    propagated_tokens=propagated.estimate(j) if goes_on else None,
                    kl_next=kl_next,
                    prefix=self.prefix,
                )
            )
        return found

    def _bound(self, sums: SequenceSums, name: str) -> Estimate:
        return self._mean(sums.per_step(name).sum(axis=1)).estimate()

    def _mean(self, values_S: ArrayLike) -> Intervals:
        return bootstrap_mean(values_S, resamples=self.resamples, seed=self.seed)

    def _ratio(self, numerator_S: ArrayLike, denominator_S: ArrayLike) -> Intervals:
        return bootstrap_ratio(
            numerator_S, denominator_S, resamples=self.resamples, seed=self.seed
        )
