"""Sampling, timed: what a full call of every denoiser takes, and how many calls a job makes.

All plans of the search are run on a few sequences for their forwards: how much plans share is in
the figure. Calls have one shape (`schedlab.sampling.forwards`), so a few of them price all. How
much slower processes are that sample at the same time is seen by starting them.
"""

from __future__ import annotations

import contextlib
import os
import random
import tempfile
import time
import tracemalloc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from schedlab.evaluation.evaluate import evaluate, run_missing
from schedlab.evaluation.evaluator import Evaluator
from schedlab.pipeline.likely import events_of, likely_fresh, likely_proposals, num_samplers
from schedlab.pipeline.memory import resident
from schedlab.pipeline.stages import Run
from schedlab.pipeline.timings import Footprint, Timings
from schedlab.pipeline.workers import ParallelEvaluator
from schedlab.plan import ModelSchedule, Plan
from schedlab.results import (
    BlockRecord,
    Measurement,
    SeedBlock,
    Store,
    agreement,
    paired_log_ppl_difference,
)
from schedlab.sampling import Work
from schedlab.sampling.forwards import call_rows

CALIBRATION_SEED = 2**62 + 1
_CHUNK, _MOST = 2, 32  # sequences that all plans are sampled on: at a time, at most


def time_sampling(run: Run, seed: int, seconds: float, *, start: bool) -> Timings:
    """Sampling, scoring and storing, in one thread if that is how workers will run."""
    job, threads = run.job, torch.get_num_threads()
    plans = [job.plan.plan(schedule) for schedule in likely_proposals(job)]
    processes = num_samplers(job, len(plans), run.num_workers)
    with tempfile.TemporaryDirectory() as folder:
        store = _TimedStore(folder)
        try:
            if processes > 1:
                torch.set_num_threads(1)
            timings, prices = _time_few(run, processes, store)
            if job.search.trials:
                timings = replace(timings, alone=_time_trial(run, store))
            every = _sample_all(run, plans, store, seed, seconds)
        finally:
            torch.set_num_threads(threads)
        used = resident()
        timings = replace(
            timings,
            sequence=prices.calls(every.forwards) + every.beside / every.number,
            store=store.seconds / store.number,
            statistics=timings.statistics * len(plans),
            forwards=every.forwards,
            memory=replace(timings.memory, worker=used.own if used else None),
        )
        if start and processes > 1:
            timings = _time_workers(run, processes, timings, prices, store)
    return timings


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
    """Plans on some sequences: what was run, seconds in all, and those beside forwards and writing
    (scores, mostly)."""

    work: Work
    number: int
    elapsed: float
    beside: float

    @property
    def forwards(self) -> dict[str, float]:
        """By role, of all plans on one sequence."""
        return {role: n / self.number for role, n in self.work.forwards.items()}


@dataclass(frozen=True)
class _Prices:
    """Seconds of sampling.

    Args:
        call: of a full call, by role.
        rows: sequences of a call.
        together: sequences that a process has at a time.
        events: forwards of one plan on one sequence.
        beside: of a plan on one sequence, beside calls and writing.
    """

    call: Mapping[str, float]
    rows: int
    together: int
    events: float
    beside: float

    def calls(self, forwards: Mapping[str, float]) -> float:
        """Of these forwards of every sequence.

        Calls are full where enough rows wait; few sequences still need one for every event.
        """
        least = self.events / self.together
        return sum(self.call[r] * max(n / self.rows, least) for r, n in forwards.items())


def _time_few(run: Run, processes: int, store: _TimedStore) -> tuple[Timings, _Prices]:
    """Plans such as are measured again, on a few sequences.

    Seconds of all plans are not known yet, `statistics` is that of one plan.
    """
    job, few = run.job, likely_fresh(run.job)
    begin = time.perf_counter()
    _sample(run, few, [_block(0, 2)], store)
    load = time.perf_counter() - begin  # first calls: every process of the job makes them
    blocks = [_block(1, 2), _block(2, 2)]
    found = _sample(run, few, blocks, store)
    begin = time.perf_counter()
    measured = evaluate(few, blocks, lab=run.lab, store=store, prompts=run.prompts)
    merge = (time.perf_counter() - begin) / (len(few) * len(blocks))
    prices = _Prices(
        call={role: found.work.seconds[role] / n for role, n in found.work.calls.items()},
        rows=call_rows(job.plan.length, torch.device(run.lab.device)),
        # A worker has one block at a time, one process has all.
        together=job.search.block_size if processes > 1 else job.search.num_sequences,
        events=events_of(run, job.search.prefix_length),
        beside=found.beside / found.number / len(few),
    )
    timings = Timings(
        sequence=0.0,
        fresh=prices.calls(found.forwards) + len(few) * prices.beside,
        alone=0.0,
        store=0.0,
        merge=merge,
        statistics=_time_comparison(measured),
        load=load,
        fresh_forwards=found.forwards,
        num_fresh=len(few),
        memory=_held(run, few[0], blocks, store),
    )
    return timings, prices


def _time_trial(run: Run, store: _TimedStore) -> float:
    """Seconds of a sequence, writing left out, of a plan with all roles alike, block by block."""
    job = run.job
    number = job.search.num_segments
    roles = (list(job.search_roles) * number)[:number]
    random.Random(0).shuffle(roles)
    plan = job.plan.plan(ModelSchedule.from_assignment(tuple(roles), job.plan.num_steps))
    block = _block(3, min(job.search.block_size, job.search.num_sequences))
    written = store.seconds
    found = _sample(run, [plan], [block], store)
    return (found.elapsed - store.seconds + written) / block.size


def _time_workers(
    run: Run, processes: int, timings: Timings, prices: _Prices, store: Store
) -> Timings:
    """As many processes as the job will have, on a block each: how long they take to start, how
    much slower they are than one alone, their memory."""
    job = run.job
    plans = [job.plan.plan(ModelSchedule.constant(r, job.plan.num_steps)) for r in prices.call]
    size = job.search.block_size
    local = Evaluator(run.lab, store, prompts=run.prompts)
    workers = ParallelEvaluator(local, run.job.lab, processes, min_work=1)
    with contextlib.closing(workers):
        begin = time.perf_counter()
        workers(plans, [_block(10 + n, 2) for n in range(processes)])
        start = time.perf_counter() - begin
        begin = time.perf_counter()
        workers(plans, [_block(1_000 + n, size) for n in range(processes)])
        elapsed = time.perf_counter() - begin - processes * len(plans) * timings.merge
        found = [own.own for pid in workers.pids if (own := resident(pid)) is not None]
    alone = sum(
        size * (prices.calls({role: prices.events}) + prices.beside) + timings.store
        for role in prices.call
    )
    return replace(
        timings,
        start_workers=start,
        slower=max(1.0, elapsed / alone),
        memory=replace(timings.memory, worker=max(found, default=timings.memory.worker)),
    )


def _sample_all(
    run: Run, plans: Sequence[Plan], store: _TimedStore, seed: int, seconds: float
) -> _Sampled:
    """All plans of the search on a few sequences, more of them while there is time.

    How early plans part differs much between sequences, so there are several. They leave calls
    half empty, so forwards are counted here, not timed.
    """
    most = min(_MOST, run.job.search.num_sequences)
    size = min(_CHUNK, most)
    work, number, elapsed, beside = Work(), 0, 0.0, 0.0
    while not number or (number + size <= most and elapsed < seconds):
        found = _sample(run, plans, [SeedBlock(seed, number, size)], store)
        for role, forwards in found.work.forwards.items():
            work.add(role, forwards, found.work.calls[role], found.work.seconds[role])
        number, elapsed, beside = number + size, elapsed + found.elapsed, beside + found.beside
    return _Sampled(work, number, elapsed, beside)


def _sample(
    run: Run, plans: Sequence[Plan], blocks: Sequence[SeedBlock], store: _TimedStore
) -> _Sampled:
    work, written, begin = Work(), store.seconds, time.perf_counter()
    run_missing(plans, blocks, lab=run.lab, store=store, prompts=run.prompts, work=work)
    elapsed = time.perf_counter() - begin
    beside = elapsed - sum(work.seconds.values()) - (store.seconds - written)
    return _Sampled(work, sum(block.size for block in blocks), elapsed, max(0.0, beside))


def _block(number: int, size: int) -> SeedBlock:
    """Sequences that are used here alone."""
    return SeedBlock(CALIBRATION_SEED + 1 + number, 0, size)


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
