"""Losses, constraints and costs of guided plans, on the search's sequences and on fresh ones.

Shapes: S sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schedlab.errors import InputError
from schedlab.job import ControlConfig, Job
from schedlab.plan import Plan
from schedlab.plan.guidance import EACH
from schedlab.results import Estimate, Measurement, SeedBlock
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic
from schedlab.results.measurement import NLL, SCORED_TOKENS
from schedlab.search.bench import Evaluator

FloatArray = NDArray[np.float64]


def deciding_judges(
    job: Job, guides: Mapping[str, Sequence[str]], judges: Mapping[str, Sequence[str]]
) -> tuple[str, ...]:
    """The judge of the job, and as many others as it takes to judge every attribute.

    Args:
        job: with a `[control]` table.
        guides: labels of every guide, by name.
        judges: labels of every judge, by name.

    Raises:
        InputError: an attribute that nobody can judge, or a judge that can judge none.
    """
    assert job.control is not None, "a joint search"
    table = job.control
    first = table.judge or next(iter(judges))
    asked = [
        set(guides[one.classifier]) if one.label == EACH else {one.label}
        for one in table.attributes
    ]
    if not any(labels <= set(judges[first]) for labels in asked):
        raise InputError(
            f"control.judge {first!r} knows none of the labels that are asked for; it knows"
            f" {', '.join(judges[first])}"
        )
    chosen: list[str] = []
    for name in dict.fromkeys((first, *judges)):
        left = [labels for labels in asked if not _known(labels, chosen, judges)]
        if any(labels <= set(judges[name]) for labels in left):
            chosen.append(name)
    for attribute, labels in zip(table.attributes, asked, strict=True):
        if not _known(labels, chosen, judges):
            raise InputError(
                f"control.attributes: no judge knows all labels of {attribute.classifier!r},"
                f" {', '.join(sorted(labels))}; add one to lab.judges"
            )
    return tuple(chosen)


def _known(labels: set[str], chosen: list[str], judges: Mapping[str, Sequence[str]]) -> bool:
    return any(labels <= set(judges[name]) for name in chosen)


@dataclass
class ControlBench:
    """Measurements of this search by plan; runs what is missing.

    Args:
        job: with a `[control]` table.
        evaluator: runs plans.
        reference: the unguided plan.
        judges: those whose verdicts together are the objective, see `deciding_judges`.
    """

    job: Job
    evaluator: Evaluator
    reference: Plan
    judges: tuple[str, ...]
    measured: dict[Plan, Measurement] = field(default_factory=dict)
    choice: dict[Plan, Measurement] = field(default_factory=dict)
    fresh: dict[Plan, Measurement] = field(default_factory=dict)

    @property
    def table(self) -> ControlConfig:
        """The job's `[control]`."""
        assert self.job.control is not None, "a joint search"
        return self.job.control

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
        """1 where the judges find all that was asked for, (S,)."""
        verdicts = [measurement.scores[f"control_{name}"] for name in self.judges]
        return np.min(np.asarray(verdicts, dtype=np.float64), axis=0)

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

    def excess(
        self, plan: Plan, on: Literal["measured", "choice", "fresh"] = "measured"
    ) -> dict[str, float]:
        """How far every constraint is broken; at most 0 where it holds."""
        known: dict[Plan, Measurement] = getattr(self, on)
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
            mine_S = control_S[
                number_S % len(labels) == place
            ]  # the first attribute turns fastest
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
        """Cost over the reference's on the same fresh sequences; of seconds over blocks, which
        are timed one by one, where there are at least two."""
        own, reference = self.fresh[plan], self.fresh[self.reference]
        columns = [self.cost_S(own), self.cost_S(reference)]
        if self.table.cost == "seconds" and len(own.blocks) > 1:
            ends = np.cumsum([block.size for block in own.blocks])[:-1]
            columns = [
                np.array([part.sum() for part in np.split(column_S, ends)]) for column_S in columns
            ]
        return bootstrap_statistic(lambda a, b: a / b, *columns).estimate()
