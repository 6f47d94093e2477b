"""Losses, constraints and costs of guided plans, on the search's sequences and on fresh ones.

Shapes: S sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from schedlab.errors import InputError
from schedlab.job import ControlConfig, Job
from schedlab.plan import Plan
from schedlab.results import Estimate, Measurement, SeedBlock
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic
from schedlab.results.measurement import NLL, SCORED_TOKENS
from schedlab.search.bench import Evaluator

FloatArray = NDArray[np.float64]


@dataclass
class ControlBench:
    """Measurements of this search by plan; runs what is missing.

    Args:
        job: with a `[control]` table.
        evaluator: runs plans.
        reference: the unguided plan.
    """

    job: Job
    evaluator: Evaluator
    reference: Plan
    measured: dict[Plan, Measurement] = field(default_factory=dict)
    choice: dict[Plan, Measurement] = field(default_factory=dict)
    fresh: dict[Plan, Measurement] = field(default_factory=dict)

    @property
    def table(self) -> ControlConfig:
        """The job's `[control]`."""
        assert self.job.control is not None, "a joint search"
        return self.job.control

    @property
    def judge(self) -> str:
        """Name of the judge whose verdict is the objective."""
        return self.table.judge or next(iter(self.job.lab.judges))

    def measure(self, plans: Iterable[Plan]) -> None:
        """Fill `measured` for these and the reference."""
        self._fill(self.measured, plans, self.job.blocks())

    def measure_choice(self, plans: Iterable[Plan]) -> None:
        """Fill `choice` for these and the reference, on the sequences that picks hang on."""
        blocks = self.job.choice_blocks()
        if blocks == self.job.blocks():
            self.choice = self.measured
        else:  # the search's own come from the store
            self._fill(self.choice, plans, blocks)

    def measure_fresh(self, plans: Iterable[Plan]) -> None:
        """Fill `fresh` for these and the reference."""
        self._fill(self.fresh, plans, self.job.fresh_blocks())

    def _fill(
        self, known: dict[Plan, Measurement], plans: Iterable[Plan], blocks: Sequence[SeedBlock]
    ) -> None:
        new = [plan for plan in dict.fromkeys([self.reference, *plans]) if plan not in known]
        if new:
            known |= dict(zip(new, self.evaluator(new, blocks), strict=True))

    def control_S(self, measurement: Measurement) -> FloatArray:
        """1 where the judge finds what was asked for, (S,)."""
        name = f"control_{self.judge}"
        if name not in measurement.scores:
            raise InputError(
                f"control.judge {self.judge!r} knows none of the labels that are asked for"
            )
        return np.asarray(measurement.scores[name], dtype=np.float64)

    def cost_S(self, measurement: Measurement) -> FloatArray:
        """Cost of every sequence, (S,)."""
        if self.table.cost == "forwards":
            zero_S = np.zeros(measurement.num_sequences)
            return sum((n.astype(float) for n in measurement.forwards.values()), zero_S)
        return np.asarray(getattr(measurement, f"{self.table.cost}_S"), dtype=np.float64)

    def losses(self, plan: Plan) -> dict[str, float]:
        """What is minimised, by objective, on the search's sequences."""
        found, reference = self.measured[plan], self.measured[self.reference]
        return {str(name): self.loss(name, found, reference) for name in self.table.objectives}

    def loss(self, name: str, found: Measurement, reference: Measurement) -> float:
        """One objective of a measurement, beside the reference's on the same sequences."""
        if name == "control":
            return float(1.0 - self.control_S(found).mean())
        if name == "cost":
            return float(self.cost_S(found).mean() / self.cost_S(reference).mean())
        if name == "gen_ppl":
            return found.estimates["log_gen_ppl"].value
        value = found.estimates[name].value if name in found.estimates else np.nan
        return float(1.0 - value if name == "distinct_3" else value)

    def excess(self, plan: Plan, *, fresh: bool = False) -> dict[str, float]:
        """How far every constraint is broken, on fresh or on the search's sequences; at most 0
        where it holds."""
        known = self.fresh if fresh else self.measured
        found, reference, table = known[plan], known[self.reference], self.table
        own: dict[str, float] = {}
        if table.max_ppl_ratio is not None:
            gap = found.estimates["log_gen_ppl"].value - reference.estimates["log_gen_ppl"].value
            own["max_ppl_ratio"] = float(gap - np.log(table.max_ppl_ratio))
        if table.max_entropy_drop is not None:
            drop = reference.estimates["entropy"].value - found.estimates["entropy"].value
            own["max_entropy_drop"] = drop - table.max_entropy_drop
        if table.min_distinct_3 is not None:
            loss = self.loss("distinct_3", found, reference)  # NaN where it is undefined
            own["min_distinct_3"] = table.min_distinct_3 - (1.0 - loss)
        if table.max_cost is not None:
            own["max_cost"] = self.loss("cost", found, reference) - table.max_cost
        return own

    def control(self, plan: Plan) -> Estimate:
        """Accuracy on fresh sequences."""
        return bootstrap_mean(self.control_S(self.fresh[plan])).estimate()

    def control_by_label(self, plan: Plan, labels: Sequence[str]) -> dict[str, Estimate]:
        """Accuracy on fresh sequences by the label asked for in turn."""
        found = self.fresh[plan]
        number_S = np.concatenate(
            [np.arange(block.first, block.first + block.size) for block in found.blocks]
        )
        control_S = self.control_S(found)
        own = {}
        for place, label in enumerate(labels):
            mine_S = control_S[number_S % len(labels) == place]
            if len(mine_S) >= 2:
                own[label] = bootstrap_mean(mine_S).estimate()
        return own

    def ppl_ratio(self, plan: Plan) -> Estimate | None:
        """Gen-PPL over the reference's on the same fresh sequences; None without a scorer."""
        own, reference = self.fresh[plan].scores, self.fresh[self.reference].scores
        if NLL not in own:
            return None
        columns = (own[NLL], own[SCORED_TOKENS], reference[NLL], reference[SCORED_TOKENS])
        ratio = bootstrap_statistic(lambda a, b, c, d: a / b - c / d, *columns)
        return ratio.map(np.exp).estimate()

    def columns(self, plan: Plan) -> dict[str, tuple[float, ...]]:
        """What differences on fresh sequences are made of, by name."""
        found = self.fresh[plan]
        own = {"control": self.control_S(found), "entropy": found.entropy_S}
        own |= {name: found.scores[name] for name in (NLL, SCORED_TOKENS) if name in found.scores}
        return {
            name: tuple(float(f"{value:.7g}") for value in column_S)
            for name, column_S in own.items()
        }

    def cost(self, plan: Plan) -> Estimate:
        """Cost over the reference's on the same fresh sequences."""
        own_S, reference_S = (self.cost_S(self.fresh[p]) for p in (plan, self.reference))
        return bootstrap_statistic(lambda a, b: a / b, own_S, reference_S).estimate()
