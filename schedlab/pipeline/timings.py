"""What things take on this machine: seconds and bytes, from which a job's are put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schedlab.pipeline.memory import Resident


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
        start_workers: all of both in the processes that sample, at once.
        slower: how many times as long these take for a block as one alone does.
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
    start_workers: float = 0.0
    slower: float = 1.0
    forwards: Mapping[str, float] = field(default_factory=dict)
    fresh_forwards: Mapping[str, float] = field(default_factory=dict)
    num_fresh: int = 0
    changed: float = 0.0
    memory: Footprint = Footprint()
