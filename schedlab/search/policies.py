"""A whole search over policies: sweep, tune, choose, measure the chosen again, compare.

What is chosen is chosen on the search's sequences and compared on fresh ones: other items of the
task, other seeds. Swept and tuned policies meet at equal cost, never as single points.
"""

from __future__ import annotations

from collections.abc import Sequence

from schedlab.job import Job
from schedlab.plan import Plan
from schedlab.plan.plan import PolicyName
from schedlab.results.policy_file import Curve, PolicyFile
from schedlab.search.bench import Evaluator, Stage
from schedlab.search.policy_bench import PolicyBench
from schedlab.search.policy_board import PolicyBoard, PolicyContext
from schedlab.search.policy_sweep import PlanSpace, Proposal
from schedlab.search.tuning import Found, TuningSpace, tune


def search_policies(
    job: Job,
    evaluator: Evaluator,
    context: PolicyContext,
    *,
    stage: Stage = lambda name: None,
) -> PolicyFile:
    """Run the search of a job with a `[policies]` table.

    Raises:
        InputError: settings that do not fit together.
    """
    space = PlanSpace(job, context.prefix_length)
    bench = PolicyBench(job, evaluator, space.reference())
    proposals = [point for name in space.table.names for point in space.sweep(name)]
    stage(f"sampling {len(proposals)} plans of {len(space.table.names)} policies")
    bench.measure(proposal.plan for proposal in proposals)
    for name in space.table.tuned:
        for repeat in range(space.table.repeats):
            proposals += _tuned(space, bench, name, repeat, context, stage)
    board = PolicyBoard(space, bench, _once(proposals, bench.reference))
    board.choose(stage)
    stage("statistics")
    return board.file(context)


def first_plans(job: Job, prefix_length: int) -> list[Plan]:
    """The reference, and the first plan of every policy that is swept or tuned: what has to be
    refused is refused before anything is run."""
    space = PlanSpace(job, prefix_length)
    names = dict.fromkeys((*space.table.names, *space.table.tuned))
    found = [space.sweep(name)[:1] for name in names]
    return [space.reference(), *(point.plan for points in found for point in points)]


def _once(proposals: Sequence[Proposal], reference: Plan) -> list[Proposal]:
    """Every plan of every curve once; the reference, where no sweep holds it, first."""
    found = dict.fromkeys(proposals)
    if reference not in {proposal.plan for proposal in found}:
        curve = Curve(policy=reference.policy.name, temperature=reference.decoding.temperature)
        return [Proposal(reference, curve), *found]
    return list(found)


def _tuned(
    space: PlanSpace,
    bench: PolicyBench,
    name: PolicyName,
    repeat: int,
    context: PolicyContext,
    stage: Stage,
) -> list[Proposal]:
    table, job = space.table, space.job

    def evaluate(plans: Sequence[Plan]) -> list[Found]:
        bench.measure(plans)
        return [
            Found(bench.loss(plan), bench.cost(plan), bench.entropy_excess(plan)) for plan in plans
        ]

    total = f"{table.trials} ({name}, search {repeat + 1} of {table.repeats})"
    plans = tune(
        TuningSpace(space, name),
        evaluate,
        defaults=context.defaults[name],
        num_trials=table.trials,
        seed=(job.job.seed, repeat),
        constrained=bench.band is not None,
        storage=None if context.folder is None else context.folder / f"optuna-{name}-{repeat}.db",
        fingerprint=f"{context.fingerprint} {job.blocks()} {table.quality} {table.cost}"
        f" {bench.reference.digest}",
        sampler=table.sampler,
        told=lambda done: stage(f"proposal {done + 1} of {total}"),
    )
    bench.measure(plans)  # those that a study knew beforehand: from the store
    return [Proposal(plan, Curve(policy=name, tuned=True, repeat=repeat)) for plan in plans]
