"""Whole runs: analyze, search, resume, status and the demo, as the command line calls them.

A run lives in one folder (see `run_folder`). Every function may be called again on the same
folder: what is finished is kept, what was cut off goes on. Ctrl-C and SIGTERM raise
KeyboardInterrupt and lose no finished evaluation.

Stages are imported where they are run: looking at a folder loads no torch.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from schedlab.errors import InputError
from schedlab.job import Job, load_job, with_absolute_paths
from schedlab.pipeline.demo import MINUTES, demo_job
from schedlab.pipeline.progress import duration, reporter
from schedlab.pipeline.run_folder import JOB, PLAN, SAMPLES, RunFolder, Stage
from schedlab.pipeline.status import RunStatus, status
from schedlab.search.proposals import check_size

if TYPE_CHECKING:
    from schedlab.pipeline.calibration import Estimate
    from schedlab.pipeline.stages import Run

__all__ = [
    "DemoPaths",
    "RunStatus",
    "demo_job",
    "estimate_job",
    "resume",
    "run_analyze",
    "run_demo",
    "run_search",
    "status",
]

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class DemoPaths:
    """What to open after the demo; the PDF is missing where it could not be made."""

    folder: Path
    html: Path
    pdf: Path | None
    plan: Path
    samples: Path


def run_analyze(job: Job | PathLike, run_dir: PathLike | None = None) -> Path:
    """Measure step importance.

    Args:
        job: a job or the path of a job file.
        run_dir: run folder; the job's own by default.

    Returns:
        The run folder, with `importance.json`.

    Raises:
        InputError: the job, what it names or the folder does not fit.
    """
    loaded = _loaded(job)
    return _run(loaded, run_dir, ("analyze",))


def run_search(job: Job | PathLike, run_dir: PathLike | None = None) -> Path:
    """Search for schedules; analyzes first where the job wants additive schedules. A job with a
    `[policies]` table is a search over policies instead, one with a `[control]` table a joint
    search over guidance and timestep allocation.

    Args:
        job, run_dir: as in `run_analyze`.

    Returns:
        The run folder, with `search.json`, `policies.json` or `control.json`.

    Raises:
        InputError: the job, what it names or the folder does not fit.
        BudgetError: the job asks for more plans than it allows.
    """
    loaded = _loaded(job)
    stages: tuple[Stage, ...] = ("analyze", "search") if loaded.search.additive else ("search",)
    if loaded.policies is not None:
        stages = ("policies",)
    if loaded.control is not None:
        stages = ("control",)
    return _run(loaded, run_dir, stages)


def resume(run_dir: PathLike) -> Path:
    """Go on with whatever was asked for in a run folder; does nothing where all is done.

    Raises:
        InputError: no run folder, or models other than those it was begun with.
    """
    folder = RunFolder(run_dir)
    if status(run_dir).complete:
        return folder.path
    return _run(folder.job, run_dir, folder.state.stages)


def estimate_job(job: Job | PathLike) -> Estimate:
    """Predict forwards, FLOPs, seconds and memory of `run_search` by timing a little of it.

    Raises:
        InputError: the job or what it names does not fit.
        BudgetError: the job asks for more plans than it allows.
    """
    from schedlab.pipeline import calibration
    from schedlab.pipeline.stages import Run

    loaded = _loaded(job)
    if loaded.policies is not None:
        raise InputError(
            "estimate: how many forwards a policy takes is for its predictions to say; run the"
            " search with few search.num_sequences and trials first"
        )
    if loaded.control is not None:
        raise InputError(
            "estimate: what a joint search costs is for its proposals to say; run it with few"
            " search.num_sequences and control.trials first"
        )
    check_size(loaded)
    with tempfile.TemporaryDirectory() as folder, reporter() as progress:
        run = Run(loaded, RunFolder(folder), progress)
        # Nothing is chosen by the figures, so they may come from the very sequences of the search.
        timings = calibration.measure(run, seconds=3.0, seed=loaded.job.seed, start=True)
        return calibration.estimate(run, timings)


def run_demo(
    run_dir: PathLike = "runs/demo",
    *,
    minutes: float = MINUTES,
    quick: bool = False,
    seed: int = 0,
) -> DemoPaths:
    """Analyze, search, report and export with the bundled models.

    Args:
        run_dir: run folder; one of a demo that was cut off is gone on with.
        minutes: what analysis and search may take together. They are sized by timing this machine
            for a few seconds, never below 32 sequences a plan and 64 windows.
        quick: a much smaller job of one size, whatever `minutes` says.
        seed: of everything random.
    """
    from schedlab.pipeline.stages import Run

    folder = RunFolder(run_dir)
    stages: tuple[Stage, ...] = ("analyze", "search", "report", "export")
    with folder.lock(), reporter() as progress:
        wanted = demo_job(quick=quick, seed=seed, folder=str(folder.path.absolute()))
        run = Run(_job_of(folder, wanted), folder, progress)
        if not quick and not (folder / JOB).exists():
            _fit(run, 60 * minutes)
        _do(run, stages)
    pdf = folder / "report.pdf"
    return DemoPaths(
        folder=folder.path,
        html=folder / "report.html",
        pdf=pdf if pdf.exists() else None,
        plan=folder / PLAN,
        samples=folder / SAMPLES,
    )


def _fit(run: Run, seconds: float) -> None:
    """Give the demo as many sequences as fit into the time, and say how long it will take."""
    from schedlab.pipeline import calibration

    timings = calibration.measure(run)
    run.job = calibration.size(run.job, timings, seconds, num_workers=run.num_workers)
    expected = calibration.estimate_seconds(run.job, timings, num_workers=run.num_workers)
    run.reporter.stage(
        f"{run.job.search.num_sequences} sequences a schedule: analysis and search will take"
        f" {duration(expected)}"
    )


def _loaded(job: Job | PathLike) -> Job:
    """The job; paths of one made in Python are relative to the working directory."""
    return with_absolute_paths(job, Path.cwd()) if isinstance(job, Job) else load_job(job)


def _job_of(folder: RunFolder, wanted: Job) -> Job:
    """The job of a demo that was begun in the folder, else the wanted one."""
    if not (folder / JOB).exists():
        return wanted
    job = folder.job
    if job.job != wanted.job:
        raise InputError(
            f"{folder.path}: holds another job ({job.job.name}, seed {job.job.seed}); choose"
            " another folder"
        )
    return job


def _run(job: Job, run_dir: PathLike | None, stages: tuple[Stage, ...]) -> Path:
    """Do the stages that are not done, holding the folder."""
    from schedlab.pipeline.stages import Run

    folder = RunFolder(run_dir if run_dir is not None else job.output.folder)
    with folder.lock(), reporter() as progress:
        _do(Run(job, folder, progress), stages)
    return folder.path


def _do(run: Run, stages: tuple[Stage, ...]) -> None:
    from schedlab.pipeline.stages import STAGES

    if "search" in stages:
        check_size(run.job)
    run.folder.begin(run.job, stages)
    for stage in stages:
        STAGES[stage](run)
