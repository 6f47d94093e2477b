"""Sizing a job to a time budget: time a little of everything, then choose how much of it to do.

Nothing here changes what is estimated, only how many sequences it is estimated from; what was
chosen stands in the run folder's job file. Times are of this machine as loaded as it is now.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.prefix_tree import steps_to_run
from schedlab.importance import analyze
from schedlab.job import Job
from schedlab.pipeline.stages import Bench
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
    """

    step: Mapping[str, float]
    record: float
    window: float
    trajectory: float
    swap: float


def measure(bench: Bench) -> Timings:
    """Time one block of the two constant schedules, and a small analysis: a few seconds."""
    bench.reporter.stage("timing this machine")
    job = bench.job
    heavy, light = (
        job.plan.plan(ModelSchedule.constant(role, job.plan.num_steps))
        for role in (job.plan.heavy, job.plan.light)
    )
    (block,) = seed_blocks(CALIBRATION_SEED, job.search.block_size, job.search.block_size)
    with tempfile.TemporaryDirectory() as folder:
        evaluator = Evaluator(bench.lab, Store(folder))
        warm_up = job.plan.plan(ModelSchedule.parse(f"{job.plan.light}2"))
        evaluator([warm_up], [block])
        begin = time.perf_counter()
        measured = evaluator([heavy, light], [block])
        elapsed = time.perf_counter() - begin
    sampling = [float(measurement.seconds_S.sum()) for measurement in measured]
    return Timings(
        step={
            role: seconds / job.plan.num_steps
            for role, seconds in zip((job.plan.heavy, job.plan.light), sampling, strict=True)
        },
        record=max(0.0, elapsed - sum(sampling)) / 2,
        **_time_analysis(bench),
    )


def size(job: Job, timings: Timings, seconds: float) -> Job:
    """The job with as many windows and sequences as fit into `seconds`, within the limits."""
    analysis_seconds = ANALYSIS_SHARE * seconds
    at_64 = 64 * timings.window + 16 * timings.trajectory + 8 * timings.swap
    factor = int(np.clip(analysis_seconds / at_64, 1, MAX_WINDOWS // MIN_WINDOWS))
    analyze_table = {
        "num_windows": MIN_WINDOWS * factor,
        "sampled_sequences": 16 * min(factor, 4),
        "propagation_sequences": 8 * min(factor, 4),
    }
    left = seconds - factor * at_64
    per_block, once = _search_seconds(job, timings)
    block_size = job.search.block_size
    blocks = int(np.floor((left - once) / per_block)) if left > once else 0
    smallest = -(-MIN_SEQUENCES // block_size)
    largest = max(smallest, MAX_SEQUENCES // block_size)
    num_sequences = int(np.clip(blocks, smallest, largest)) * block_size
    return job.model_copy(
        update={
            "analyze": job.analyze.model_copy(update=analyze_table),
            "search": job.search.model_copy(update={"num_sequences": num_sequences}),
        }
    )


def estimate_seconds(job: Job, timings: Timings) -> float:
    """How long analysis and search of a job will take, roughly."""
    table = job.analyze
    analysis = (
        table.num_windows * timings.window
        + table.sampled_sequences * timings.trajectory
        + table.propagation_sequences * timings.swap
    )
    per_block, once = _search_seconds(job, timings)
    return analysis + once + per_block * len(job.blocks())


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


def _time_analysis(bench: Bench) -> dict[str, float]:
    """Seconds per window, trajectory and swapped trajectory."""
    num_windows, sampled, swapped = _PROBE
    whole = bench.job.importance_config()
    small = whole.model_copy(
        update={
            "sampled_sequences": sampled,
            "propagation_sequences": 0,
            "bootstrap_resamples": 100,
            "seed": CALIBRATION_SEED,
        }
    )
    windows = bench.windows(num_windows)

    def seconds(**changes: object) -> float:
        begin = time.perf_counter()
        analyze(bench.lab, windows, small.model_copy(update=changes))
        return time.perf_counter() - begin

    heavy = ["heavy_sampler"]
    window = seconds(states=["forward"]) if "forward" in whole.states else 0.0
    trajectory = seconds(states=heavy)
    swap = seconds(states=heavy, propagation_sequences=swapped) - trajectory
    return {
        "window": window / num_windows,
        "trajectory": trajectory / sampled if "heavy_sampler" in whole.states else 0.0,
        "swap": max(0.0, swap) / swapped if whole.propagation_sequences else 0.0,
    }
