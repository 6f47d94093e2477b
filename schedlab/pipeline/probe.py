"""A little of everything that a job does, timed on this machine: some seconds.

The search is timed by running all plans that it will look at on a few sequences, and plans such as
will be measured again: forwards that plans share, and states that turn out equal, are in the
figures. The analysis is run on a few windows and trajectories, Optuna and the statistics on noise.
Nothing here changes what is estimated, only how many sequences it is estimated from. Times are of
this machine as loaded as it is now.

Memory is what this process has taken after all that, and what a measurement holds of every plan
and sequence, as Python counts it.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from schedlab.evaluation.evaluate import evaluate, run_missing
from schedlab.importance import analyze
from schedlab.job import Job
from schedlab.pipeline.likely import events_of, likely_fresh, likely_proposals, num_samplers
from schedlab.pipeline.memory import Resident, forget_peak, resident
from schedlab.pipeline.run_folder import DATABASE
from schedlab.pipeline.stages import Run
from schedlab.plan import Plan
from schedlab.results import (
    BlockRecord,
    Measurement,
    SeedBlock,
    Store,
    agreement,
    paired_log_ppl_difference,
    seed_blocks,
)
from schedlab.results.bootstrap import DEFAULT_RESAMPLES
from schedlab.sampling import Work
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

CALIBRATION_SEED = 2**62 + 1
_CHUNK, _MOST = 4, 32  # sequences that all plans are sampled on: at a time, at most
_TABLES = 3  # additive scores that are ranked: the loss gap, the path KL on two kinds of states
_SHARE = 20  # of the resamples of a rank correlation, one in so many is timed
_PROPOSALS = 2
_STAGES = {
    "held-out text": "window",
    "heavy's trajectories": "trajectory",
    "swapped segments": "swap",
}


@dataclass(frozen=True)
class Footprint:
    """Memory that things take, bytes.

    Args:
        process: this process after a little of everything; None where the system does not say.
        worker: what a process that only samples shares with no other; None likewise.
        gpu: peak of tensors on the GPU, of this process; None without one.
        plan, sequence: what a measurement holds, and of every sequence in it.
        window: what the analysis holds of a window.
        statistics: the largest arrays of the statistics.
    """

    process: Resident | None = None
    worker: int | None = None
    gpu: int | None = None
    plan: float = 0.0
    sequence: float = 0.0
    window: float = 0.0
    statistics: float = 0.0


@dataclass(frozen=True)
class Timings:
    """Seconds that things take on this machine.

    Args:
        sequence: sampling and scoring all plans of the search on one sequence.
        fresh: the same of plans as they are measured again.
        alone: the same of a plan by itself, the mean over the roles that proposals use.
        store, merge: writing a block of a plan; reading it, and its share in a measurement.
        statistics: what is done once, over all plans.
        proposal: Optuna's, per trial.
        window, trajectory, swap: the analysis of a held-out window, of a trajectory of the heavy
            sampler, of one with every segment swapped in turn.
        fixed: the analysis of any number of sequences, beside those.
        start, load: starting an interpreter; loading models and text, first calls.
        forwards, fresh_forwards: by role, of all plans of the search on one sequence, and of those
            that are measured again.
        num_fresh: how many those are.
        changed: share of swapped segments in which the light denoiser changes anything.
        memory: bytes.
    """

    sequence: float
    fresh: float
    alone: float
    store: float
    merge: float
    statistics: float = 0.0
    proposal: float = 0.0
    window: float = 0.0
    trajectory: float = 0.0
    swap: float = 0.0
    fixed: float = 0.0
    start: float = 0.0
    load: float = 0.0
    forwards: Mapping[str, float] = field(default_factory=dict)
    fresh_forwards: Mapping[str, float] = field(default_factory=dict)
    num_fresh: int = 0
    changed: float = 0.0
    memory: Footprint = Footprint()


def measure(
    run: Run, *, seconds: float = 3.0, seed: int = CALIBRATION_SEED, start: bool = False
) -> Timings:
    """Time a little of everything.

    Args:
        run: of the job.
        seconds: for which more sequences are sampled; the rest takes about as long again.
        seed: of the sequences whose forwards are counted; by default one that nothing else uses,
            so that nothing that is chosen by these figures depends on the sequences of the search.
        start: time a fresh interpreter too, as each process of the job begins with one.
    """
    forget_peak()
    before, begin = resident(), time.perf_counter()
    device = torch.device(run.lab.device)
    load = time.perf_counter() - begin
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    run.reporter.stage("timing this machine")
    timings = _time_sampling(run, seed, seconds)
    sampled, begin = resident(), time.perf_counter()
    if run.needs_corpus:
        run.windows(2)
    timings = replace(timings, load=timings.load + load + time.perf_counter() - begin)
    if run.job.search.additive:
        timings = _time_analysis(run, timings)
    if run.job.search.trials:
        timings = replace(timings, proposal=_time_proposals(run.job))
    process = resident()
    timings = _time_statistics(run.job, timings)
    worker = sampled.own if sampled else None
    if start:
        start_seconds, imports = _time_start()
        timings = replace(timings, start=start_seconds)
        if before and sampled and imports:  # this process has imported more than a worker does
            worker = sampled.own - before.own + imports
    gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    memory = replace(timings.memory, process=process, worker=worker, gpu=gpu)
    return replace(timings, memory=memory)


def _time_start() -> tuple[float, int]:
    """Seconds until a worker's interpreter has imported what it needs, and its own bytes then."""
    code = (
        "import schedlab.pipeline.workers, schedlab.pipeline.memory as memory;"
        "found = memory.resident(); print(found.own if found else 0)"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return time.perf_counter() - begin, int(done.stdout)


# --------------------------------------------------------------------------------------------
# Sampling


class _TimedStore(Store):
    """A store that knows how long its writing takes: on a slow disk longer than anything else."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__(folder)
        self.seconds, self.number = 0.0, 0

    def put(self, record: BlockRecord) -> None:
        """Write a record and count it."""
        begin = time.perf_counter()
        super().put(record)
        self.seconds, self.number = self.seconds + time.perf_counter() - begin, self.number + 1


@dataclass(frozen=True)
class _Sampled:
    """Plans on some sequences: what was run, and seconds beside that and writing (scores)."""

    work: Work
    number: int
    beside: float

    @property
    def forwards(self) -> dict[str, float]:
        """By role, of all plans on one sequence."""
        return {role: n / self.number for role, n in self.work.forwards.items()}


def _time_sampling(run: Run, seed: int, seconds: float) -> Timings:
    """Sampling, scoring and storing, in one thread if that is how workers will run."""
    job, threads = run.job, torch.get_num_threads()
    plans = [job.plan.plan(schedule) for schedule in likely_proposals(job)]
    processes = num_samplers(job, len(plans), run.num_workers)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if processes > 1:
                torch.set_num_threads(1)
            store = _TimedStore(folder)
            timings, few = _time_few(run, store)
            every = _sample_all(run, plans, store, seed, seconds)
        finally:
            torch.set_num_threads(threads)
    # A worker has one block at a time, one process has all.
    together = job.search.block_size if processes > 1 else job.search.num_sequences
    events = events_of(run, job.search.prefix_length)
    rows = call_rows(job.plan.length, torch.device(run.lab.device))
    call = {role: few.work.seconds[role] / n for role, n in few.work.calls.items()}

    def sampling(forwards: Mapping[str, float]) -> float:
        # Calls are full where enough rows wait; few sequences still need one for every event.
        full = {role: max(n / rows, events / together) for role, n in forwards.items()}
        return sum(call[role] * n for role, n in full.items())

    alone = sum(sampling({role: events}) for role in job.search_roles) / len(job.search_roles)
    return replace(
        timings,
        sequence=sampling(every.forwards) + every.beside / every.number,
        fresh=sampling(few.forwards) + timings.fresh,
        alone=alone + timings.fresh / timings.num_fresh,
        store=store.seconds / store.number,
        statistics=timings.statistics * len(plans),
        forwards=every.forwards,
    )


def _time_few(run: Run, store: _TimedStore) -> tuple[Timings, _Sampled]:
    """Plans such as are measured again, on blocks as large as the job's.

    `sequence`, `alone` and `store` are not known yet, `fresh` is what scores take, `statistics` is
    that of one plan.
    """
    job, few = run.job, likely_fresh(run.job)
    begin = time.perf_counter()
    _sample(run, few, [SeedBlock(CALIBRATION_SEED + 1, 0, 2)], store)
    load = time.perf_counter() - begin  # first calls: every process of the job makes them
    # Enough sequences to fill calls.
    rows = call_rows(job.plan.length, torch.device(run.lab.device))
    size, number = job.search.block_size, min(job.search.num_sequences, max(2, rows))
    blocks = seed_blocks(CALIBRATION_SEED + 2, size * -(-number // size), size)
    found = _sample(run, few, blocks, store)
    begin = time.perf_counter()
    measured = evaluate(few, blocks, lab=run.lab, store=store, prompts=run.prompts)
    merge = (time.perf_counter() - begin) / (len(few) * len(blocks))
    timings = Timings(
        sequence=0.0,
        fresh=found.beside / found.number,
        alone=0.0,
        store=0.0,
        merge=merge,
        statistics=_time_comparison(measured),
        load=load,
        fresh_forwards=found.forwards,
        num_fresh=len(few),
        memory=_held(run, few[0], blocks, store),
    )
    return timings, found


def _sample_all(
    run: Run, plans: Sequence[Plan], store: _TimedStore, seed: int, seconds: float
) -> _Sampled:
    """All plans of the search on a few sequences, more of them while there is time.

    How early plans part differs much between sequences, so there are several. They leave calls
    half empty, so forwards are counted here, not timed.
    """
    most = min(_MOST, run.job.search.num_sequences)
    size = max(2, min(_CHUNK, most))
    work, number, beside, begin = Work(), 0, 0.0, time.perf_counter()
    while not number or (number + size <= most and time.perf_counter() - begin < seconds):
        found = _sample(run, plans, [SeedBlock(seed, number, size)], store)
        for role, forwards in found.work.forwards.items():
            work.add(role, forwards, found.work.calls[role], found.work.seconds[role])
        number, beside = number + size, beside + found.beside
    return _Sampled(work, number, beside)


def _sample(
    run: Run, plans: Sequence[Plan], blocks: Sequence[SeedBlock], store: _TimedStore
) -> _Sampled:
    work, written, begin = Work(), store.seconds, time.perf_counter()
    run_missing(plans, blocks, lab=run.lab, store=store, prompts=run.prompts, work=work)
    beside = time.perf_counter() - begin - sum(work.seconds.values()) - store.seconds + written
    return _Sampled(work, sum(block.size for block in blocks), max(0.0, beside))


def _time_comparison(measured: Sequence[Measurement]) -> float:
    """Seconds of comparing a measurement with all heavy's."""
    begin = time.perf_counter()
    for measurement in measured:
        agreement(measurement, measured[0])
        paired_log_ppl_difference(measurement, measured[0])
    return (time.perf_counter() - begin) / len(measured)


def _held(run: Run, plan: Plan, blocks: Sequence[SeedBlock], store: Store) -> Footprint:
    """Bytes of a measurement: of its arrays, which grow with the sequences, and of the rest."""
    tracemalloc.start()
    try:
        (kept,) = evaluate([plan], blocks, lab=run.lab, store=store, prompts=run.prompts)
        total, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    columns = (kept.scores, kept.forwards, kept.head_positions)
    values = [*vars(kept).values(), *(array for some in columns for array in some.values())]
    arrays = sum(value.nbytes for value in values if isinstance(value, np.ndarray))
    return Footprint(plan=max(0, total - arrays), sequence=arrays / kept.num_sequences)


# --------------------------------------------------------------------------------------------
# Analysis, proposals, statistics


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
