"""`Evaluator`: evaluate with lab and store bound. Search receives one and never sees torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schedlab.evaluation.evaluate import Progress, evaluate
from schedlab.evaluation.lab import Lab
from schedlab.evaluation.prompts import Given, Prompts
from schedlab.evaluation.trace import trace_plan
from schedlab.metrics.cost import expected_cost, role_costs
from schedlab.plan import Plan
from schedlab.results.control_file import ControlTrace
from schedlab.results.measurement import Measurement
from schedlab.results.plan_cost import PlanCost
from schedlab.results.seed_block import SeedBlock
from schedlab.results.store import Store
from schedlab.sampling import check_roles


@dataclass(frozen=True)
class Evaluator:
    """`evaluator(plans, blocks)` is `evaluate` in one lab and store, with one set of prompts."""

    lab: Lab
    store: Store
    prompts: Given | None = None
    progress: Progress | None = None

    def __call__(self, plans: Sequence[Plan], blocks: Sequence[SeedBlock]) -> list[Measurement]:
        """Measure plans on seed blocks; see `evaluate`."""
        return evaluate(
            plans,
            blocks,
            lab=self.lab,
            store=self.store,
            prompts=self.prompts,
            progress=self.progress,
        )

    def trace(self, plan: Plan, block: SeedBlock) -> ControlTrace:
        """Clocks and edits of a plan on the sequences of a block, see `trace_plan`."""
        prompts = self.prompts if isinstance(self.prompts, Prompts) else None
        return trace_plan(plan, block, lab=self.lab, prompts=prompts)

    def cost_of(self, plan: Plan) -> PlanCost:
        """Expected cost of one sequence, before running."""
        check_roles(plan, self.lab.denoisers)
        prefix_length = self.prompts.prefix_length if self.prompts is not None else 0
        costs = role_costs(plan, self.lab.denoisers, prefix_length, guides=self.lab.guides)
        return expected_cost(plan, costs, prefix_length=prefix_length)

    def texts(self, measurement: Measurement, num: int | None = None) -> list[str]:
        """The first `num` samples of a measurement as text, prefix included; all by default."""
        return [self.lab.tokenizer.decode(row) for row in measurement.tokens_SL[:num].tolist()]
