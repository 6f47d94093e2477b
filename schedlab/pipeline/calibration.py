"""What a job will take, and how large it may be: from a little of everything (`probe`) to all."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from schedlab.denoisers.cost import block_flops, head_flops
from schedlab.files import Record
from schedlab.job import Job
from schedlab.pipeline.likely import events_of, likely_proposals, num_samplers
from schedlab.pipeline.probe import measure
from schedlab.pipeline.stages import Run
from schedlab.pipeline.timings import Timings

__all__ = ["Estimate", "Timings", "estimate", "estimate_seconds", "measure", "size"]

MIN_SEQUENCES, MAX_SEQUENCES = 32, 512
MIN_WINDOWS, MAX_WINDOWS = 64, 512
ANALYSIS_SHARE = 0.3
_MORE_PLANS = 1.2

Numbers = defaultdict[str, float]
"""Sums by role."""


class Estimate(Record):
    """What a job will take.

    Args:
        plans: schedules that the search looks at, proposals of Optuna included.
        sequences: per schedule, and again per re-measured one.
        forwards: by role, of one sequence each, in analysis, search and re-measurement.
        flops: of those, heads included.
        start_seconds: starting processes, loading models and text.
        analysis_seconds, search_seconds: on this machine as loaded now.
        memory_bytes: most resident memory of all processes together at a time, pages of files that
            they share (libraries) counted once; None where the system does not say.
        gpu_memory_bytes: the same of tensors on the GPU; None without one.
    """

    plans: int
    sequences: int
    fresh_sequences: int
    forwards: dict[str, float]
    flops: float
    start_seconds: float
    analysis_seconds: float
    search_seconds: float
    memory_bytes: int | None
    gpu_memory_bytes: int | None

    @property
    def seconds(self) -> float:
        """In all."""
        return self.start_seconds + self.analysis_seconds + self.search_seconds


def estimate(run: Run, timings: Timings) -> Estimate:
    """Extrapolate what was timed to the whole job.

    Proposals of Optuna count as using all of their roles alike.
    """
    job, table = run.job, run.job.search
    num_plans = len(likely_proposals(job))
    processes = num_samplers(job, num_plans, run.num_workers)
    forwards, flops = _work(run, timings)
    analysis, search = _seconds(job, timings, num_workers=processes)
    # Schedules of an analysis that come twice count once: near the limit at which workers are
    # started there may be some more of them.
    most = num_samplers(job, round(_MORE_PLANS * num_plans), run.num_workers)
    gpu = timings.memory.gpu
    return Estimate(
        plans=num_plans + table.trials,
        sequences=table.num_sequences,
        fresh_sequences=_fresh_sequences(job),
        forwards=forwards,
        flops=flops,
        start_seconds=timings.start + timings.load + timings.start_workers,
        analysis_seconds=analysis,
        search_seconds=search,
        memory_bytes=_memory(job, timings, num_plans=num_plans, processes=most),
        gpu_memory_bytes=None if gpu is None else gpu * (most + (most > 1)),
    )


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
    block_size = job.search.block_size
    # As many fresh sequences as others.
    round_seconds = sum(_round_seconds(job, timings, num_workers=num_workers))
    rounds = int(max(0.0, left - timings.statistics) / round_seconds)
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
    table, search_table = job.analyze, job.search
    analysis = 0.0
    if search_table.additive:
        analysis = (
            timings.fixed
            + table.num_windows * timings.window
            + table.sampled_sequences * timings.trajectory
            + table.propagation_sequences * timings.swap
        )
    blocks, fresh_blocks = len(job.blocks()), len(job.fresh_blocks())
    once, again = _round_seconds(job, timings, num_workers=num_workers)
    trial = (
        timings.proposal
        + timings.slower * search_table.num_sequences * timings.alone / num_workers
        + blocks * (timings.slower * timings.store / num_workers + timings.merge)
    )
    search = (
        -(-blocks // num_workers) * once
        + -(-fresh_blocks // num_workers) * again
        + search_table.trials * trial
        + timings.statistics
    )
    return analysis, search


def _round_seconds(job: Job, timings: Timings, *, num_workers: int) -> tuple[float, float]:
    """Seconds in which every worker runs a block of the search; a block of fresh sequences.

    Workers write their records at the same time, the coordinator reads one after another.
    """
    num_plans, size = len(likely_proposals(job)), job.search.block_size

    def both(sequence: float, plans: int) -> float:
        block = size * sequence + plans * timings.store
        return timings.slower * block + plans * num_workers * timings.merge

    return both(timings.sequence, num_plans), both(timings.fresh, timings.num_fresh)


def _work(run: Run, timings: Timings) -> tuple[dict[str, float], float]:
    """Forwards of one sequence by role, and FLOPs of everything."""
    job, table = run.job, run.job.search
    forwards: Numbers = defaultdict(float)
    heads: Numbers = defaultdict(float)
    if table.additive:
        for prefix_length in dict.fromkeys((0, job.analyze.prefix_length)):
            _add_analysis(run, timings, prefix_length, forwards, heads)
    per_sequence = events_of(run, table.prefix_length)
    searched: Numbers = defaultdict(float)
    for role, number in timings.forwards.items():
        searched[role] += table.num_sequences * number
    for role, number in timings.fresh_forwards.items():
        searched[role] += _fresh_sequences(job) * number
    for role in job.search_roles:
        steps = table.trials * table.num_sequences * per_sequence
        searched[role] += steps / len(job.search_roles)
    # The forwards of a sequence reveal each of its positions once.
    revealed = (job.plan.length - table.prefix_length) / per_sequence
    for role, number in searched.items():
        forwards[role] += number
        heads[role] += revealed * number
    specs = {role: run.lab.denoisers[role].spec for role in forwards}
    flops = sum(
        number * block_flops(specs[role], job.plan.length) + heads[role] * head_flops(specs[role])
        for role, number in forwards.items()
    )
    return dict(forwards), flops


def _add_analysis(
    run: Run,
    timings: Timings,
    prefix_length: int,
    forwards: Numbers,
    heads: Numbers,
) -> None:
    """Forwards and head positions of the analysis with one prefix length.

    They follow from the settings, except how often a swap changes anything, which was counted: a
    swapped trajectory is carried on by heavy to its end, and heavy's next prediction is compared
    with that of the trajectory that it left.
    """
    config, table = run.job.importance_config(), run.job.analyze
    free, per_sequence = run.job.plan.length - prefix_length, events_of(run, prefix_length)
    # Half of the positions are masked, on average; all move in the uniform-state process.
    read = free / 2 if run.job.plan.process == "masked" else free
    states = table.num_windows * config.num_levels if "forward" in config.states else 0.0
    if "heavy_sampler" in config.states:
        states += table.sampled_sequences * per_sequence
    for role in (config.heavy, *config.others):
        forwards[role] += states
        heads[role] += states * read
    swaps, num_segments = table.propagation_sequences, config.propagation_segments
    changed = swaps * len(config.swapped_lights) * timings.changed
    carried = (swaps + changed * (num_segments - 1) / 2) * per_sequence
    compared = 2 * changed * (num_segments - 1)  # nothing is predicted after the last
    forwards[config.heavy] += carried + compared
    heads[config.heavy] += carried * free / per_sequence + compared * read
    for role in config.swapped_lights:
        forwards[role] += swaps * per_sequence
        heads[role] += swaps * free


def _memory(job: Job, timings: Timings, *, num_plans: int, processes: int) -> int | None:
    """Peak resident memory of all processes, bytes.

    What was tried has left its peak on this process. On top come the measurements of all plans and
    the statistics over them, beside workers that wait for more; or before that, with nothing else
    there, the arrays of the analysis, in parts and as a whole.
    """
    memory, table = timings.memory, job.search
    if memory.process is None or memory.worker is None:
        return None
    all_plans = num_plans + table.trials
    sequences = all_plans * table.num_sequences + timings.num_fresh * _fresh_sequences(job)
    search = (
        (all_plans + timings.num_fresh) * memory.plan
        + sequences * memory.sequence
        + memory.statistics
    )
    analysis = 2 * job.analyze.num_windows * memory.window
    if processes > 1:
        search += processes * memory.worker
    return round(memory.process.peak + max(search, analysis))


def _fresh_sequences(job: Job) -> int:
    return job.search.fresh_sequences or job.search.num_sequences
