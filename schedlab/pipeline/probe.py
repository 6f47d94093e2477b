"""A little of everything that a job does, timed on this machine: some seconds.

Sampling is in `probe_sampling`. The analysis is run on a few windows and trajectories, Optuna and
the statistics on noise. Nothing here changes what is estimated, only how many sequences it is
estimated from. Times are of this machine as loaded as it is now.

Memory is what this process has taken after all that, and what a measurement holds of every plan
and sequence, as Python counts it.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from schedlab.importance import analyze
from schedlab.job import Job
from schedlab.pipeline.likely import likely_proposals
from schedlab.pipeline.memory import forget_peak, resident
from schedlab.pipeline.probe_sampling import CALIBRATION_SEED, time_sampling
from schedlab.pipeline.run_folder import DATABASE
from schedlab.pipeline.stages import Run
from schedlab.pipeline.timings import Timings
from schedlab.results.bootstrap import DEFAULT_RESAMPLES
from schedlab.sampling.forwards import call_rows
from schedlab.search.bayesian import (
    GP_MAX_SEGMENTS,
    GP_MAX_TRIALS,
    AssignmentSpace,
    Objectives,
    Outcome,
    optimize,
)
from schedlab.search.influence import segment_influence
from schedlab.search.ranking import rank_correlation
from schedlab.search.space import assignment_of

_TABLES = 3  # additive scores that are ranked: the loss gap, the path KL on two kinds of states
_SHARE = 20  # of the resamples of a rank correlation, one in so many is timed
_PROPOSALS = 2
_STAGES = {
    "held-out text": "window",
    "heavy's trajectories": "trajectory",
    "swapped segments": "swap",
}


def measure(
    run: Run, *, seconds: float = 3.0, seed: int = CALIBRATION_SEED, start: bool = False
) -> Timings:
    """Time a little of everything.

    Args:
        run: of the job.
        seconds: for which more sequences are sampled; the rest takes about as long again.
        seed: of the sequences whose forwards are counted; by default one that nothing else uses,
            so that nothing that is chosen by these figures depends on the sequences of the search.
        start: start as many processes as the job will, too. Without, workers count as started, and
            as fast together as one alone.
    """
    forget_peak()
    begin = time.perf_counter()
    device = torch.device(run.lab.device)
    load = time.perf_counter() - begin
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run.reporter.stage("timing this machine")
    timings = time_sampling(run, seed, seconds, start=start)
    begin = time.perf_counter()
    if run.needs_corpus:
        run.windows(2)
    load += time.perf_counter() - begin
    timings = replace(timings, load=timings.load + load)
    if run.job.search.additive:
        timings = _time_analysis(run, timings)
    if run.job.search.trials:
        timings = replace(timings, proposal=_time_proposals(run.job))
    process = resident()
    timings = _time_statistics(run.job, timings)
    if start:
        # Workers started all at once, and loaded what this process has loaded.
        begun = timings.start_workers - timings.load
        timings = replace(timings, start=begun if begun > 0 else _time_start())
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return replace(timings, memory=replace(timings.memory, process=process, gpu=gpu))


def _time_start() -> float:
    """Seconds until an interpreter has imported what a job needs."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import schedlab.pipeline.stages"], check=True)
    return time.perf_counter() - begin


def _time_analysis(run: Run, timings: Timings) -> Timings:
    """Seconds per window, trajectory and swapped trajectory, and for the estimates."""
    sizes = _analysis_sizes(run)
    config = run.job.importance_config().model_copy(
        update={
            "sampled_sequences": sizes["trajectory"],
            "propagation_sequences": sizes["swap"],
            "seed": CALIBRATION_SEED,
        }
    )
    windows, watch, begin = run.windows(sizes["window"]), _StageWatch(), time.perf_counter()
    found = analyze(run.lab, windows, config, watch.mark)
    fixed = time.perf_counter() - begin - sum(watch.seconds.values())
    own = [array > 0 for name, array in found.arrays.items() if name.endswith("/own")]
    held = sum(array.nbytes for array in found.arrays.values()) / sizes["window"]
    return replace(
        timings,
        window=watch.seconds["window"] / sizes["window"],
        trajectory=watch.seconds["trajectory"] / sizes["trajectory"],
        swap=watch.seconds["swap"] / max(1, sizes["swap"]),
        fixed=max(0.0, fixed),
        changed=float(np.mean(own)) if own else 0.0,
        memory=replace(timings.memory, window=held),
    )


class _StageWatch:
    """Seconds of the stages of an analysis, both passes of one that knows prefixes together.

    Progress is told after each part of a stage. When the first part began is not: it counts like
    those behind it, and if there are none, from what was told last.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(_STAGES.values(), 0.0)
        self._last = time.perf_counter()
        self._first: dict[str, tuple[float, int]] = {}

    def mark(self, name: str, done: int, total: int) -> None:
        """As `analyze` tells it."""
        now = time.perf_counter()
        begin, told = self._first.setdefault(name, (now, done))
        if done == total:
            elapsed = (now - begin) * total / (total - told) if told < total else now - self._last
            self.seconds[_STAGES[name.split(",")[0]]] += elapsed
        self._last = now


def _analysis_sizes(run: Run) -> dict[str, int]:
    """Windows, trajectories and swapped trajectories to time: as many as fill calls, or all."""
    job, config = run.job, run.job.importance_config()
    length, table = job.plan.length, job.analyze
    rows = call_rows(length, torch.device(run.lab.device))
    trajectories = min(table.sampled_sequences, max(4, rows))
    swaps = min(table.propagation_sequences, max(2, rows // 4))  # each grows branches
    batches = 2 * max(1, table.max_batch_tokens // length)
    windows = max(4, -(-batches // config.num_levels))
    if table.prefix_length:  # which trajectories take from the windows
        windows = max(windows, trajectories, swaps)
    return {
        "window": min(table.num_windows, windows),
        "trajectory": trajectories,
        "swap": swaps,
    }


def _time_proposals(job: Job) -> float:
    """Seconds of one of Optuna's proposals when half of them are made, on noise."""
    table, noise = job.search, np.random.default_rng(0)
    space = AssignmentSpace(job.plan.num_steps, table.num_segments, job.search_roles)
    small = table.trials <= GP_MAX_TRIALS and table.num_segments <= GP_MAX_SEGMENTS
    known = max(10, 2 * table.num_segments) + table.trials // 2
    seeds = itertools.islice(itertools.product(space.roles, repeat=table.num_segments), known)
    begins: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        optimize(
            space,
            Objectives(
                lambda assignments: [Outcome(float(noise.random())) for _ in assignments],
                cost=lambda assignment: assignment.count(job.plan.heavy) / table.num_segments,
            ),
            num_trials=_PROPOSALS,
            seed=0,
            seeds=list(seeds),
            storage=Path(folder) / DATABASE,
            sampler=("gp" if small else "tpe") if table.sampler == "auto" else table.sampler,
            told=lambda done: begins.append(time.perf_counter()),
        )
    return (time.perf_counter() - begins[0]) / len(begins) if begins else 0.0


def _time_statistics(job: Job, timings: Timings) -> Timings:
    """Seconds and bytes of what is computed over the exhaustive set, on noise."""
    schedules = likely_proposals(job).of("exhaustive")
    rows = [assignment_of(schedule, job.search.num_segments) or () for schedule in schedules]
    light_NS = np.array([[role == job.plan.light for role in row] for row in rows])
    if len(schedules) < 3 or not light_NS.any(axis=0).all():
        return timings
    nll_BN = 1 + np.random.default_rng(0).random((4, len(schedules)))
    ones_BN = np.ones_like(nll_BN)

    def ranking() -> None:
        rank_correlation(
            nll_BN[0], nll_BN, ones_BN, budget_N=light_NS.sum(axis=1),
            resamples=DEFAULT_RESAMPLES // _SHARE,
        )  # fmt: skip

    peak, seconds = _peak(lambda: segment_influence(light_NS, nll_BN, ones_BN)), 0.0
    if job.search.additive:
        peak = max(peak, _SHARE * _peak(ranking))
        begin = time.perf_counter()
        ranking()
        seconds = _TABLES * _SHARE * (time.perf_counter() - begin)
    memory = replace(timings.memory, statistics=peak)
    return replace(timings, statistics=timings.statistics + seconds, memory=memory)


def _peak(call: Callable[[], object]) -> int:
    """Most bytes that a call holds at a time, as Python counts them."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
