"""Losses and costs of plans in a search over policies, on its own sequences and on fresh ones.

Shapes: S sequences, N plans, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schedlab.errors import InputError
from schedlab.job import Job
from schedlab.plan import Plan
from schedlab.results import Measurement, SeedBlock
from schedlab.results.measurement import DUEL_NATS, DUEL_TOKENS, NLL, SCORED_TOKENS
from schedlab.search.bench import Evaluator
from schedlab.search.front import Band, entropy_band, excess

FloatArray = NDArray[np.float64]


@dataclass
class PolicyBench:
    """Measurements of this search by plan; runs what is missing.

    Args:
        job: with a `[policies]` table.
        evaluator: runs plans.
        reference: the plan that costs 1, and whose entropy is the band's middle.
    """

    job: Job
    evaluator: Evaluator
    reference: Plan
    measured: dict[Plan, Measurement] = field(default_factory=dict)
    fresh: dict[Plan, Measurement] = field(default_factory=dict)

    def measure(self, plans: Iterable[Plan]) -> None:
        """Fill `measured` for these and the reference."""
        self._fill(self.measured, plans, self.job.blocks())

    def measure_fresh(self, plans: Iterable[Plan]) -> None:
        """Fill `fresh` for these and the reference, on sequences that no choice depends on."""
        self._fill(self.fresh, plans, self.job.fresh_blocks())

    def _fill(
        self,
        known: dict[Plan, Measurement],
        plans: Iterable[Plan],
        blocks: Sequence[SeedBlock],
    ) -> None:
        new = [plan for plan in dict.fromkeys([self.reference, *plans]) if plan not in known]
        if new:
            known |= dict(zip(new, self.evaluator(new, blocks), strict=True))

    def loss(self, plan: Plan) -> float:
        """What is minimised, on the search's sequences."""
        top_S, bottom_S = self.columns(self.measured[plan])
        return float(top_S.sum() / bottom_S.sum())

    def cost(self, plan: Plan) -> float:
        """Mean cost as a share of the reference's, on the search's sequences."""
        own_S, all_S = self.cost_S(self.measured[plan]), self.cost_S(self.measured[self.reference])
        return float(own_S.mean() / all_S.mean())

    def columns(self, measurement: Measurement) -> tuple[FloatArray, FloatArray]:
        """Per sequence what the loss is the ratio of sums of, (S,) each."""
        scores, quality = measurement.scores, self._quality
        pairs = {"gen_ppl": (NLL, SCORED_TOKENS), "duel": (DUEL_NATS, DUEL_TOKENS)}
        if quality in pairs:
            top, bottom = pairs[quality]
            if top not in scores:
                raise InputError(f"policies.quality {quality!r} was not measured; name a scorer")
            return scores[top], scores[bottom]
        wrong_S = 1.0 - scores["accuracy"]
        return wrong_S, np.ones_like(wrong_S)

    def cost_S(self, measurement: Measurement) -> FloatArray:
        """Cost of every sequence, (S,)."""
        assert self.job.policies is not None, "a search over policies"
        name = self.job.policies.cost
        if name == "forwards":
            zero_S = np.zeros(measurement.num_sequences)
            return sum((n.astype(float) for n in measurement.forwards.values()), zero_S)
        return np.asarray(getattr(measurement, f"{name}_S"), dtype=np.float64)

    @property
    def _quality(self) -> str:
        assert self.job.policies is not None, "a search over policies"
        return self.job.policies.quality

    @property
    def band(self) -> Band | None:
        """Entropies of plans that may be picked; None where the loss needs no such guard."""
        if self._quality != "gen_ppl":
            return None
        self.measure([])
        return self._band(self.measured[self.reference])

    def _band(self, reference: Measurement) -> Band:
        return entropy_band(
            reference.estimates["entropy"],
            standard_errors=self.job.search.entropy_standard_errors,
            nats=self.job.search.entropy_nats,
        )

    @property
    def fresh_band(self) -> Band | None:
        """The same on fresh sequences."""
        if self._quality != "gen_ppl":
            return None
        self.measure_fresh([])
        return self._band(self.fresh[self.reference])

    def entropy_excess(self, plan: Plan) -> float:
        """How far a plan's entropy is outside the band, at most 0 within it."""
        band = self.band
        if band is None:
            return 0.0
        return excess(band, self.measured[plan].estimates["entropy"].value)

    def holds(self, plan: Plan) -> bool:
        """Whether a plan's entropy on fresh sequences is within their band."""
        band = self.fresh_band
        return band is None or excess(band, self.fresh[plan].estimates["entropy"].value) <= 0


@dataclass(frozen=True)
class FreshColumns:
    """Loss and cost columns of N plans on the same fresh sequences, (S, N); see `of`.

    Statistics are functions of means over sequences, so that any of them can be resampled.
    """

    top_SN: FloatArray
    bottom_SN: FloatArray
    cost_SN: FloatArray
    reference_S: FloatArray

    @classmethod
    def of(cls, bench: PolicyBench, plans: Sequence[Plan]) -> FreshColumns:
        """Of these plans, all measured on fresh sequences."""
        pairs = [bench.columns(bench.fresh[plan]) for plan in plans]
        return cls(
            np.stack([top_S for top_S, _ in pairs], axis=1),
            np.stack([bottom_S for _, bottom_S in pairs], axis=1),
            np.stack([bench.cost_S(bench.fresh[plan]) for plan in plans], axis=1),
            bench.cost_S(bench.fresh[bench.reference])[:, None],
        )

    @property
    def all(self) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """The columns for `bootstrap_statistic`."""
        return self.top_SN, self.bottom_SN, self.cost_SN, self.reference_S


def losses_and_costs(
    top: FloatArray, bottom: FloatArray, cost: FloatArray, reference: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Losses and cost shares (..., N) of means over sequences."""
    return top / bottom, cost / reference


def front_area(loss: FloatArray, cost: FloatArray, reference: tuple[float, float]) -> FloatArray:
    """Area that a front chosen beforehand dominates within the reference point.

    Args:
        loss, cost: (..., N) of its plans, in the order in which it was chosen: from cheap to dear,
            from bad to good. Who has a budget takes the last plan of that order within it,
            whatever its loss turns out to be: the best of what was measured would be chosen anew,
            and the more plans there are the more so. Where that order holds in what was measured
            it is `front.hypervolume`.
        reference: loss and cost of the far corner.

    Returns:
        (...,) areas, for many resamples at once.
    """
    worst, dearest = reference
    order = np.argsort(cost, axis=-1, kind="stable")
    chosen = np.maximum.accumulate(order, axis=-1)
    cost = np.minimum(np.take_along_axis(cost, order, -1), dearest)
    loss = np.minimum(np.take_along_axis(loss, chosen, -1), worst)
    width = np.diff(cost, axis=-1, append=np.full((*cost.shape[:-1], 1), dearest))
    area: FloatArray = ((worst - loss) * width).sum(axis=-1)
    return area


def loss_at(cost: FloatArray, curve_loss: FloatArray, curve_cost: FloatArray) -> FloatArray:
    """Loss (...,) of a curve (..., K) at a cost (...,): between its two neighbours in cost that of
    drawing one of them at random; beyond its ends that of the end: who may spend more need not."""
    order = np.argsort(curve_cost, axis=-1, kind="stable")
    known = np.take_along_axis(curve_cost, order, -1)
    losses = np.take_along_axis(curve_loss, order, -1)
    above = (known < cost[..., None]).sum(axis=-1)[..., None]
    right = np.clip(above, 0, known.shape[-1] - 1)
    left = np.clip(above - 1, 0, known.shape[-1] - 1)
    x0, x1 = np.take_along_axis(known, left, -1), np.take_along_axis(known, right, -1)
    y0, y1 = np.take_along_axis(losses, left, -1), np.take_along_axis(losses, right, -1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(x1 > x0, (cost[..., None] - x0) / (x1 - x0), 1.0)
    found: FloatArray = (y0 + np.clip(share, 0.0, 1.0) * (y1 - y0))[..., 0]
    return found
