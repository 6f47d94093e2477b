"""Sizing a job to a time budget: time a little of everything, then choose how much of it to do.

Nothing here changes what is estimated, only how many sequences it is estimated from; what was
chosen stands in the run folder's job file. Times are of this machine as loaded as it is now.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.prefix_tree import steps_to_run
from schedlab.importance import analyze
from schedlab.job import Job
from schedlab.pipeline.stages import Run
from schedlab.plan import ModelSchedule
from schedlab.results import Store, seed_blocks
from schedlab.search.additive import StepCosts
from schedlab.search.proposals import propose

MIN_SEQUENCES, MAX_SEQUENCES = 32, 512
MIN_WINDOWS, MAX_WINDOWS = 64, 512
ANALYSIS_SHARE = 0.3
# What the analysis is timed on: windows, trajectories, swapped trajectories.
_PROBE = (4, 4, 2)
_FRESH_PLANS = 18
_STATISTICS_SECONDS = 0.05
CALIBRATION_SEED = 2**62 + 1


@dataclass(frozen=True)
class Timings:
    """Seconds that things take on this machine.

    Args:
        step: one denoising step of one block of sequences, by role.
        record: scoring and storing one block of one plan.
        window: the analysis of one held-out window.
        trajectory: of one trajectory of the heavy sampler.
        swap: of one trajectory with every segment swapped in turn.
        fixed: the analysis of any number of sequences, beside those.
    """

    step: Mapping[str, float]
    record: float
    window: float
    trajectory: float
    swap: float
    fixed: float = 0.0


def measure(run: Run) -> Timings:
    """Time one block of the two constant schedules, and a small analysis: some seconds."""
    run.reporter.stage("timing this machine")
    return Timings(**_time_sampling(run), **_time_analysis(run))


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
    per_block, once = _search_seconds(job, timings)
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
    table = job.analyze
    analysis = (
        table.num_windows * timings.window
        + table.sampled_sequences * timings.trajectory
        + table.propagation_sequences * timings.swap
    )
    per_block, once = _search_seconds(job, timings)
    return timings.fixed + analysis + once + per_block * -(-len(job.blocks()) // num_workers)


def _search_seconds(job: Job, timings: Timings) -> tuple[float, float]:
    """Seconds of a search per block of sequences, and once."""
    # The analysis is not done yet: any two different orders of the steps give as many plans.
    ramp = np.linspace(0.0, 1.0, job.plan.num_steps)
    light = job.plan.light
    orders = [
        StepCosts(job.plan.heavy, {light: tuple(ramp)}, "loss_gap"),
        StepCosts(job.plan.heavy, {light: tuple(np.sin(40 * ramp))}, "path_kl"),
    ]
    plans = [job.plan.plan(schedule) for schedule in propose(job, orders)]
    dearest = max(timings.step.values())
    per_block = sum(
        count * timings.step.get(role, dearest) for role, count in steps_to_run(plans).items()
    )
    per_block += _FRESH_PLANS * job.plan.num_steps * dearest
    per_block += (len(plans) + _FRESH_PLANS) * timings.record
    return per_block, len(plans) * _STATISTICS_SECONDS


def _time_sampling(run: Run) -> dict[str, Any]:
    """Seconds per step and record, in one thread if that is how workers will run."""
    job, roles = run.job, (run.job.plan.heavy, run.job.plan.light)
    plans = [job.plan.plan(ModelSchedule.constant(role, job.plan.num_steps)) for role in roles]
    block_size = job.search.block_size
    blocks = seed_blocks(CALIBRATION_SEED, block_size, block_size)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if run.num_workers > 1 else threads)
        with tempfile.TemporaryDirectory() as folder:
            evaluator = Evaluator(run.lab, Store(folder), prompts=run.prompts)
            warm_up = job.plan.plan(ModelSchedule.constant(job.plan.light, 2))
            evaluator([warm_up], blocks)
            begin = time.perf_counter()
            measured = evaluator(plans, blocks)
            elapsed = time.perf_counter() - begin
    finally:
        torch.set_num_threads(threads)
    sampling = [float(measurement.seconds_S.sum()) for measurement in measured]
    return {
        "step": {
            role: seconds / job.plan.num_steps
            for role, seconds in zip(roles, sampling, strict=True)
        },
        "record": max(0.0, elapsed - sum(sampling)) / len(plans),
    }


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
