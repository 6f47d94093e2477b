"""What is predicted of a job, against the job itself and against arithmetic."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schedlab.importance import analyze, heavy_states, panel, propagation
from schedlab.job import Job
from schedlab.pipeline import calibration, memory, probe
from schedlab.pipeline.likely import events_of, likely_fresh, likely_proposals, num_samplers
from schedlab.pipeline.memory import Resident, resident
from schedlab.pipeline.probe import measure
from schedlab.pipeline.progress import Silent
from schedlab.pipeline.run_folder import RunFolder
from schedlab.pipeline.stages import Run
from schedlab.pipeline.timings import Footprint, Timings
from schedlab.sampling import SequenceIds, Work, sample_events, sampler

sys.path.insert(0, str(Path(__file__).parent))

from tiny_world import LENGTH, tiny_job

MB = 1_000_000
NOTHING = Timings(sequence=0.0, fresh=0.0, alone=0.0, store=0.0, merge=0.0)


def run_of(job: Job, folder: Path) -> Run:
    return Run(job, RunFolder(folder), Silent())


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, world: Path, tmp_path: Path) -> tuple[Run, Counter]:
    """A run, and sequences that its denoisers are given in an analysis, by role."""
    table = {"num_windows": 64, "sampled_sequences": 64, "propagation_sequences": 32}
    run = run_of(tiny_job(world, analyze=table), tmp_path)
    roles = {id(denoiser): role for role, denoiser in run.lab.denoisers.items()}
    count: Counter = Counter()
    for module in (panel, propagation, heavy_states, sampler):
        (name,) = {"features_at", "features_of", "trunk_of"} & set(vars(module))
        monkeypatch.setattr(module, name, counting(getattr(module, name), roles, count))
    return run, count


def counting(
    call: Callable[..., Any], roles: dict[int, str], count: Counter
) -> Callable[..., Any]:
    def counted_call(denoiser: object, z_BL: torch.Tensor, t_B: torch.Tensor | None) -> Any:
        if id(denoiser) in roles:  # not one that only remembers
            count[roles[id(denoiser)]] += len(z_BL)
        return call(denoiser, z_BL, t_B)

    return counted_call


def test_forwards_of_an_analysis_are_those_that_it_makes(counted: tuple[Run, Counter]) -> None:
    run, count = counted
    found = analyze(run.lab, run.windows(64), run.job.importance_config())
    changed = float((found.arrays["propagation/L/own"] > 0).mean())
    assert 0 < changed < 1
    timings = dataclasses.replace(NOTHING, changed=changed)
    predicted = calibration.estimate(run, timings).forwards
    assert set(predicted) == set(count) == {"H", "L"}
    # How many steps reveal something is known on average only, here over 64 trajectories.
    assert predicted == pytest.approx(count, rel=0.05)


def test_forwards_of_a_search_are_counted_on_its_own_sequences(
    world: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_job(world, search={"additive": False}), tmp_path)
    plans = [run.job.plan.plan(schedule) for schedule in likely_proposals(run.job)]
    ids, work = SequenceIds.of(run.job.blocks(), device="cpu"), Work()
    for _ in sample_events(plans, run.lab.denoisers, run.lab.process, ids, work=work):
        pass
    measured = measure(run, seconds=1e9, seed=run.job.job.seed)
    assert {role: 8 * n for role, n in measured.forwards.items()} == pytest.approx(work.forwards)
    assert measured.window == 0 and "corpus" not in vars(run)  # no text is read


def test_flops_are_forwards_and_heads_at_their_price(world: Path, tmp_path: Path) -> None:
    run = run_of(tiny_job(world, search={"additive": False}), tmp_path)
    timings = dataclasses.replace(NOTHING, forwards={"H": 10.0, "L": 5.0})
    found = calibration.estimate(run, timings)
    assert found.forwards == {"H": 80.0, "L": 40.0}
    spec = run.lab.denoisers["H"].spec
    block = LENGTH * 16 * (24 * 16 + 4 * LENGTH)  # one block: 8 + 4 * 4 squares of the width 16
    revealed = LENGTH / events_of(run, 0)
    assert found.flops == pytest.approx(
        80 * 2 * block + 40 * block + 120 * revealed * 2 * 16 * spec.vocab_size
    )


def test_proposals_are_expected_to_use_their_roles_alike(world: Path, tmp_path: Path) -> None:
    table = {"additive": False, "trials": 6, "roles": ["H", "M", "L"]}
    run = run_of(tiny_job(world, search=table), tmp_path)
    found = calibration.estimate(run, NOTHING)
    assert set(found.forwards) == {"H", "L", "M"} and found.plans == 6 + len(
        likely_proposals(run.job)
    )
    assert sum(found.forwards.values()) == pytest.approx(6 * 8 * events_of(run, 0))


# A process of 500 MB, of which libraries are 150.
FOOTPRINT = Footprint(
    process=Resident(500 * MB, 150 * MB), worker=300 * MB, plan=1e4, sequence=500.0, window=1e3
)


def memory_of(job: Job, folder: Path, **changes: float) -> int:
    footprint = dataclasses.replace(FOOTPRINT, **changes)
    timings = dataclasses.replace(NOTHING, num_fresh=10, memory=footprint)
    found = calibration.estimate(run_of(job, folder), timings).memory_bytes
    assert found is not None
    return found


def large_job(world: Path, **search: object) -> Job:
    """Enough evaluations for several processes."""
    table = {"num_segments": 8, "num_light": "all", "num_sequences": 16, "workers": 1}
    return tiny_job(world, search=table | search)


def test_memory_is_what_was_reached_and_what_is_kept(world: Path, tmp_path: Path) -> None:
    job = large_job(world)
    plans = len(likely_proposals(job))
    kept = (plans + 10) * (1e4 + 16 * 500.0)
    assert memory_of(job, tmp_path) == pytest.approx(500 * MB + kept)
    assert memory_of(job, tmp_path, statistics=7 * MB) == pytest.approx(507 * MB + kept)
    assert memory_of(job, tmp_path, window=100 * MB) == 500 * MB + 2 * 8 * 100 * MB


def test_every_process_that_samples_adds_its_own_memory(world: Path, tmp_path: Path) -> None:
    one = memory_of(large_job(world, workers=1), tmp_path)
    assert memory_of(large_job(world, workers=3), tmp_path) == one + 3 * 300 * MB
    assert memory_of(large_job(world, workers=9), tmp_path) == one + 4 * 300 * MB  # four blocks
    small = {"num_segments": 4, "num_light": 2, "num_sequences": 8}
    assert num_samplers(large_job(world, **small), 12, num_workers=3) == 1


def test_gpu_memory_counts_every_process(world: Path, tmp_path: Path) -> None:
    for workers, copies in ((1, 1), (2, 3)):
        timings = dataclasses.replace(NOTHING, memory=Footprint(gpu=10 * MB))
        found = calibration.estimate(run_of(large_job(world, workers=workers), tmp_path), timings)
        assert found.gpu_memory_bytes == copies * 10 * MB and found.memory_bytes is None


def test_a_measured_footprint_is_sane(world: Path, tmp_path: Path) -> None:
    found = measure(run_of(tiny_job(world), tmp_path), seconds=0.0).memory
    assert found.process is not None and found.worker is not None and found.gpu is None
    assert 0 <= found.process.shared < found.process.peak
    assert 20 * MB < found.worker <= found.process.peak
    assert found.sequence >= 4 * LENGTH  # its tokens at least
    assert found.plan > 0 and found.window > 0 and found.statistics > 0


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the system forgets no peak"
)
def test_a_peak_is_remembered_until_it_is_forgotten() -> None:
    def peak() -> int:
        found = resident()
        assert found is not None
        return found.peak

    memory.forget_peak()
    before = peak()
    held = torch.ones(200 * MB // 4)
    assert peak() > before + 100 * MB  # the kernel counts in steps
    del held
    assert peak() > before + 100 * MB
    memory.forget_peak()
    assert peak() < before + 100 * MB


def test_where_there_is_no_proc_the_peak_alone_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(memory, "_PROC", tmp_path / "nowhere")
    memory.forget_peak()  # says nothing
    found = resident()
    assert found is not None and found.peak > 20 * MB and found.shared == 0 and found.own > 0
    assert resident(os.getpid()) is None  # of other processes nothing is


def test_a_stage_whose_beginning_is_not_told_counts_by_its_later_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    watch = probe._StageWatch()

    def at(now: float, name: str, done: int, total: int = 30) -> None:
        clock[0] = now
        watch.mark(name, done, total)

    at(9.0, "held-out text", 10)  # with set-up
    at(11.0, "held-out text", 20)
    at(13.0, "held-out text", 30)
    at(15.0, "heavy's trajectories", 30)  # one part: since what was told last
    at(20.0, "held-out text, 4 tokens given", 15)
    at(21.0, "held-out text, 4 tokens given", 30)
    assert watch.seconds == pytest.approx({"window": 6.0 + 2.0, "trajectory": 2.0, "swap": 0.0})


def test_what_is_measured_again_holds_both_ends_and_the_additive_budget(world: Path) -> None:
    job = tiny_job(world, search={"roles": ["H", "M", "L"]})
    schedules = [str(plan.model_schedule) for plan in likely_fresh(job)]
    assert {"H8", "M8", "L8"} <= set(schedules) and len(set(schedules)) == len(schedules)
    assert len(schedules) <= len(likely_proposals(job)) + 1  # M alone is not proposed
