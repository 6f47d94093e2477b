"""What a job will take, and how large it may be: time a little of everything first.

The search is timed by sampling all plans that it will look at on a few sequences of seeds that
nothing else uses: forwards that plans share, and states that turn out equal, are in the figure.
Nothing here changes what is estimated, only how many sequences it is estimated from. Times are of
this machine as loaded as it is now.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from schedlab.denoisers.cost import block_flops, head_flops
from schedlab.evaluation.evaluate import run_missing
from schedlab.files import Record
from schedlab.importance import analyze
from schedlab.job import Job
from schedlab.metrics.cost import expected_cost, role_costs
from schedlab.pipeline.stages import Run
from schedlab.plan import ModelSchedule, Plan
from schedlab.results import SeedBlock, Store
from schedlab.results.bootstrap import FloatArray
from schedlab.results.search_file import Score
from schedlab.sampling import SequenceIds, Work, sample_events
from schedlab.search.additive import StepCosts
from schedlab.search.proposals import propose

MIN_SEQUENCES, MAX_SEQUENCES = 32, 512
MIN_WINDOWS, MAX_WINDOWS = 64, 512
ANALYSIS_SHARE = 0.3
# What the analysis is timed on: windows, trajectories, swapped trajectories.
_PROBE = (4, 4, 2)
_FRESH_PLANS = 14
_RECORDS_PROBE = 4  # plans that are scored together
_SEARCH_PROBE = 2  # sequences that all plans are sampled on
_GP_SECONDS = 1.5  # of proposing, per trial
_STATISTICS_SECONDS = 0.02
CALIBRATION_SEED = 2**62 + 1


@dataclass(frozen=True)
class Timings:
    """Seconds that things take on this machine.

    Args:
        sequence: sampling all plans of the search on one sequence.
        alone: sampling a plan by itself on one sequence, the mean of all heavy and all light.
        record: scoring and storing one block of one plan.
        window: the analysis of one held-out window.
        trajectory: of one trajectory of the heavy sampler.
        swap: of one trajectory with every segment swapped in turn.
        fixed: the analysis of any number of sequences, beside those.
        forwards: by role, forwards of all plans of the search on one sequence.
    """

    sequence: float
    alone: float
    record: float
    window: float = 0.0
    trajectory: float = 0.0
    swap: float = 0.0
    fixed: float = 0.0
    forwards: Mapping[str, float] = field(default_factory=dict)


def measure(run: Run) -> Timings:
    """Time the search on a few sequences, and a small analysis: some seconds."""
    run.reporter.stage("timing this machine")
    analysis = _time_analysis(run) if run.job.search.additive else {}
    return Timings(**_time_sampling(run), **analysis)


class Estimate(Record):
    """What a job will take.

    Args:
        plans: schedules that the search looks at, proposals of Optuna included.
        sequences: per schedule, and again per re-measured one.
        forwards: by role, of one sequence each, in search and re-measurement.
        flops: of those, heads included.
        analysis_seconds, search_seconds: on this machine as loaded now.
    """

    plans: int
    sequences: int
    fresh_sequences: int
    forwards: dict[str, float]
    flops: float
    analysis_seconds: float
    search_seconds: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.analysis_seconds + self.search_seconds


def estimate(run: Run, timings: Timings) -> Estimate:
    """Extrapolate what was timed to the whole job.

    Proposals of Optuna and re-measured plans count as half heavy and half light.
    """
    job, table = run.job, run.job.search
    plans = likely_plans(job)
    fresh = table.fresh_sequences or table.num_sequences
    alone = table.trials * table.num_sequences + _FRESH_PLANS * fresh
    forwards = {role: table.num_sequences * n for role, n in timings.forwards.items()}
    for role in (job.plan.heavy, job.plan.light):
        plan = job.plan.plan(ModelSchedule.constant(role, job.plan.num_steps))
        costs = role_costs(plan, run.lab.denoisers)
        cost = expected_cost(plan, costs, prefix_length=table.prefix_length)
        forwards[role] = forwards.get(role, 0.0) + alone * cost.forwards[role] / 2
    specs = {role: run.lab.denoisers[role].spec for role in forwards}
    # Every position of every sequence of every plan needs the head once at most.
    heads = (len(plans) * table.num_sequences + alone) * (job.plan.length - table.prefix_length)
    flops = sum(n * block_flops(specs[role], job.plan.length) for role, n in forwards.items())
    analysis, search = _seconds(job, timings, num_workers=run.num_workers)
    return Estimate(
        plans=len(plans) + table.trials,
        sequences=table.num_sequences,
        fresh_sequences=fresh,
        forwards=forwards,
        flops=flops + heads * head_flops(specs[job.plan.heavy]),
        analysis_seconds=analysis,
        search_seconds=search,
    )


def likely_plans(job: Job) -> list[Plan]:
    """The plans of a search, with any two orders of the steps for those that an analysis sorts."""
    ramp = np.linspace(0.1, 1.0, job.plan.num_steps)
    lights = list(dict.fromkeys((job.plan.light, *job.search_roles[1:])))  # heavy is the first
    shapes: dict[Score, FloatArray] = {"loss_gap": ramp, "path_kl": 1 + np.sin(40 * ramp)}
    orders = [
        StepCosts(job.plan.heavy, {r: tuple(shape / (1 + n)) for n, r in enumerate(lights)}, score)
        for score, shape in shapes.items()
    ]
    share = {job.plan.heavy: 1.0} | {r: 0.3 + 0.3 * n for n, r in enumerate(lights)}
    return [job.plan.plan(schedule) for schedule in propose(job, orders, share)]


def size(job: Job, timings: Timings, seconds: float, *, num_workers: int = 1) -> Job:
    """The job with as many windows and sequences as fit into `seconds`, within the limits.

    The blocks of sequences become a multiple of the workers, which would be idle otherwise.
    """
    analysis_seconds = ANALYSIS_SHARE * seconds
    at_64 = 64 * timings.window + 16 * timings.trajectory + 8 * timings.swap
    factor = int(
        np.clip((analysis_seconds - timings.fixed) / at_64, 1, MAX_WINDOWS // MIN_WINDOWS)
    )
    analyze_table = {
        "num_windows": MIN_WINDOWS * factor,
        "sampled_sequences": 16 * min(factor, 4),
        "propagation_sequences": 8 * min(factor, 4),
    }
    left = seconds - timings.fixed - factor * at_64
    per_search_block, per_fresh_block, once = _search_seconds(job, timings)
    per_block = per_search_block + per_fresh_block  # as many fresh sequences
    block_size = job.search.block_size
    rounds = int((left - once) / per_block) if left > once else 0
    smallest = -(-MIN_SEQUENCES // block_size)
    largest = max(smallest, MAX_SEQUENCES // block_size)
    num_sequences = int(np.clip(rounds * num_workers, smallest, largest)) * block_size
    return job.model_copy(
        update={
            "analyze": job.analyze.model_copy(update=analyze_table),
            "search": job.search.model_copy(update={"num_sequences": num_sequences}),
        }
    )


def estimate_seconds(job: Job, timings: Timings, *, num_workers: int = 1) -> float:
    """How long analysis and search of a job will take, roughly."""
    return sum(_seconds(job, timings, num_workers=num_workers))


def _seconds(job: Job, timings: Timings, *, num_workers: int) -> tuple[float, float]:
    """Seconds of the analysis and of the search."""
    table = job.analyze
    analysis = (
        timings.fixed
        + table.num_windows * timings.window
        + table.sampled_sequences * timings.trajectory
        + table.propagation_sequences * timings.swap
    )
    per_block, per_fresh_block, once = _search_seconds(job, timings)
    rounds, fresh_rounds = (
        -(-len(blocks) // num_workers) for blocks in (job.blocks(), job.fresh_blocks())
    )
    trials = job.search.trials * (job.search.num_sequences * timings.alone + _GP_SECONDS)
    search = once + per_block * rounds + per_fresh_block * fresh_rounds + trials / num_workers
    return analysis, search


def _search_seconds(job: Job, timings: Timings) -> tuple[float, float, float]:
    """Seconds of a search per block, per fresh block, and once; Optuna's proposals left out."""
    num_plans, size = len(likely_plans(job)), job.search.block_size
    return (
        size * timings.sequence + num_plans * timings.record,
        _FRESH_PLANS * (size * timings.alone + timings.record),
        num_plans * _STATISTICS_SECONDS,
    )


def _time_sampling(run: Run) -> dict[str, Any]:
    """Seconds of sampling and of records, in one thread if that is how workers will run."""
    job = run.job
    plans, size = likely_plans(job), job.search.block_size
    constant = {
        role: job.plan.plan(ModelSchedule.constant(role, job.plan.num_steps))
        for role in dict.fromkeys((*job.search_roles, job.plan.light))
    }
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if run.num_workers > 1 else threads)
        _sampling_seconds(run, list(constant.values()), 1, Work())  # set-up is done once
        work, few = Work(), Work()
        alone = {
            role: _sampling_seconds(run, [plan], size, work) for role, plan in constant.items()
        }
        _sampling_seconds(run, plans, _SEARCH_PROBE, few)
        scored = plans[:: max(1, len(plans) // _RECORDS_PROBE)][:_RECORDS_PROBE]
        record = _record_seconds(run, scored, size)
    finally:
        torch.set_num_threads(threads)
    # Few sequences leave calls half empty, so only their forwards are used, at full calls' price.
    price = {role: work.seconds[role] / n for role, n in work.forwards.items()}
    forwards = {role: n / _SEARCH_PROBE for role, n in few.forwards.items()}
    return {
        "sequence": sum(n * price[role] for role, n in forwards.items()),
        "alone": (alone[job.plan.heavy] + alone[job.plan.light]) / 2,
        "record": record,
        "forwards": forwards,
    }


def _record_seconds(run: Run, plans: list[Plan], size: int) -> float:
    """Seconds per plan of scoring and storing a block, several plans together."""
    work = Work()
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run_missing(
            plans,
            [SeedBlock(CALIBRATION_SEED, 0, max(2, size))],
            lab=run.lab,
            store=Store(folder),
            prompts=run.prompts,
            work=work,
        )
        elapsed = time.perf_counter() - begin
    return max(0.0, elapsed - sum(work.seconds.values())) / len(plans)


def _sampling_seconds(run: Run, plans: list[Plan], num: int, work: Work) -> float:
    """Seconds per sequence of sampling plans on `num` sequences."""
    ids = SequenceIds.of([SeedBlock(CALIBRATION_SEED, 0, num)], device=run.lab.device)
    prefix_BP = None
    if run.prompts is not None:
        prefix_BP = torch.from_numpy(run.prompts.of_block(SeedBlock(0, 0, num)))
        prefix_BP = prefix_BP.to(run.lab.device)
    lab, begin = run.lab, time.perf_counter()
    for _ in sample_events(plans, lab.denoisers, lab.process, ids, prefix_BP, work=work):
        pass
    return (time.perf_counter() - begin) / num


def _time_analysis(run: Run) -> dict[str, Any]:
    """Seconds per window, trajectory and swapped trajectory, and for the estimates."""
    sizes = dict(zip(("window", "trajectory", "swap"), _PROBE, strict=True))
    config = run.job.importance_config().model_copy(
        update={
            "sampled_sequences": sizes["trajectory"],
            "propagation_sequences": sizes["swap"],
            "seed": CALIBRATION_SEED,
        }
    )
    windows = run.windows(sizes["window"])
    marks: dict[str, list[float]] = {}

    def mark(name: str, done: int, total: int) -> None:
        marks.setdefault(name, []).append(time.perf_counter())

    begin = time.perf_counter()
    analyze(run.lab, windows, config, mark)
    total = time.perf_counter() - begin
    # Progress is told after each part of a stage: of a stage's first part only the end is known,
    # save for the first stage.
    seconds = {}
    for (name, number), times in zip(sizes.items(), marks.values(), strict=False):
        start = begin if name == "window" else times[0]
        parts = len(times) if name == "window" else len(times) - 1
        seconds[name] = (times[-1] - start) * len(times) / max(1, parts) / number
    compute = sum(seconds[name] * sizes[name] for name in seconds)
    return {name: seconds.get(name, 0.0) for name in sizes} | {"fixed": max(0.0, total - compute)}
