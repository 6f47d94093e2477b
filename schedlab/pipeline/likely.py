"""What a job will do, as far as it is known before it runs."""

from __future__ import annotations

import numpy as np

from schedlab.job import Job
from schedlab.metrics.cost import expected_cost, role_costs
from schedlab.pipeline.stages import Run
from schedlab.pipeline.workers import MIN_WORK
from schedlab.plan import ModelSchedule, Plan
from schedlab.results.bootstrap import FloatArray
from schedlab.results.search_file import Score
from schedlab.search.additive import StepCosts
from schedlab.search.proposals import Proposals, propose, step_budgets

_PICKED = 5  # plans measured again beside both ends and the additive ones: worst, best, the front


def likely_proposals(job: Job) -> Proposals:
    """What a search looks at, with any two orders of the steps for those that an analysis
    sorts."""
    ramp = np.linspace(0.1, 1.0, job.plan.num_steps)
    lights = list(dict.fromkeys((job.plan.light, *job.search_roles[1:])))  # heavy is the first
    shapes: dict[Score, FloatArray] = {"loss_gap": ramp, "path_kl": 1 + np.sin(40 * ramp)}
    orders = [
        StepCosts(job.plan.heavy, {r: tuple(shape / (1 + n)) for n, r in enumerate(lights)}, score)
        for score, shape in shapes.items()
    ]
    share = {job.plan.heavy: 1.0} | {r: 0.3 + 0.3 * n for n, r in enumerate(lights)}
    return propose(job, orders, share)


def likely_fresh(job: Job) -> list[Plan]:
    """As many plans, and about as different ones, as will be measured again on fresh seeds.

    Every role of the search is there by itself.
    """
    proposals = likely_proposals(job)
    roles = dict.fromkeys((*job.search_roles, job.plan.light))
    ends = [ModelSchedule.constant(role, job.plan.num_steps) for role in roles]
    budgets = step_budgets(job)
    additive = [s for s in proposals.of("additive") if s.count(job.plan.light) in budgets]
    every = max(1, len(proposals) // _PICKED)
    picked = list(proposals)[every // 2 :: every][:_PICKED]
    return [job.plan.plan(schedule) for schedule in dict.fromkeys((*ends, *additive, *picked))]


def num_samplers(job: Job, num_plans: int, num_workers: int) -> int:
    """Processes that will sample: a small search is left to one."""
    blocks = len(job.blocks())
    return min(num_workers, blocks) if blocks * num_plans >= MIN_WORK else 1


def events_of(run: Run, prefix_length: int) -> float:
    """Expected forwards of one plan on one sequence."""
    table = run.job.plan
    plan = table.plan(ModelSchedule.constant(table.heavy, table.num_steps))
    cost = expected_cost(
        plan, role_costs(plan, run.lab.denoisers, prefix_length), prefix_length=prefix_length
    )
    return cost.forwards[table.heavy]
