"""The training loop: a job and a folder in, a model folder out; a stopped run can go on.

One process, or several under `torchrun`: each takes a share of every batch and gradients are
summed, so the result is that of one process up to rounding.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from schedlab.errors import InputError, SchedlabError
from schedlab.results import Estimate
from schedlab.training.distributed import join_workers
from schedlab.training.job import AnyTrainJob, RefineJob, SimplexJob, Stage
from schedlab.training.optimizers import (
    learning_rate_share,
    set_learning_rate,
    update_average,
)
from schedlab.training.progress import Progress, Say, say_on_stderr
from schedlab.training.run import Run, log, save, start_or_resume


def train(
    job: AnyTrainJob,
    folder: str | Path,
    *,
    device: str = "auto",
    stop_after: int | None = None,
    say: Say = say_on_stderr,
) -> Estimate:
    """Train a model, or go on training it, and write it to a folder.

    The folder becomes a model folder (see `denoisers.checkpoint`) with the averaged weights, and
    holds the resumable state and a log (`train.jsonl`). A finished run is only measured again.

    Args:
        job: what to train.
        folder: made where missing; a folder of another job is refused.
        device: "cpu", "cuda" or "auto" (a GPU where there is one).
        stop_after: save and return once this many steps are done in all (None: the job's).
        say: receives lines of progress, in the first process only.

    Returns:
        Held-out loss of the averaged weights, with its 95 % interval: NELBO of masked denoisers,
        cross-entropy of others, in nats per token, and of classifiers per text. Log and card hold
        what else is measured: of derived denoisers the heavy one's loss, the difference, paired,
        and the KL divergence from it; accuracy and calibration of classifiers. A job with stages,
        or several arms and seeds, returns the last one's.

    Raises:
        InputError: the corpus, the tokenizer or the folder does not fit the job.
        SchedlabError: the loss is not finite any more.
    """
    if isinstance(job, SimplexJob) and job.stages:
        return _train_stages(job, Path(folder), device=device, stop_after=stop_after, say=say)
    if isinstance(job, RefineJob):
        if "" not in (runs := job.runs):
            return _train_all(runs, Path(folder), device=device, stop_after=stop_after, say=say)
        job = runs[""]
    with join_workers(device) as workers:
        say = say if workers.is_first else _say_nothing
        run = start_or_resume(job, Path(folder), workers, say)
        say(str(run.objective))
        progress = Progress(job.optimization.num_steps)
        last = min(job.optimization.num_steps, stop_after or job.optimization.num_steps)
        while run.steps_done < last:
            value, norm = train_step(run)
            done = run.steps_done
            if done % job.reporting.log_every == 0 or done == last:
                say(progress.line(done, value))
                log(run, loss=value, gradient_norm=norm)
            if done < last and done % job.reporting.evaluate_every == 0:
                _evaluate(run, say)
            if done < last and done % job.reporting.checkpoint_every == 0:
                save(run)
        final = _evaluate(run, say)
        save(run)
        return final


def stage_folder(folder: Path, stage: Stage) -> Path:
    """Where the model of a stage of progressive step reduction is."""
    return folder / f"T{stage.grid_steps}"


def _train_stages(
    job: SimplexJob, folder: Path, *, device: str, stop_after: int | None, say: Say
) -> Estimate:
    """Each stage from the weights of the one before (TTA, section on step reduction)."""
    begin, done, final = job.simplex.begin, 0, None
    for stage in job.stages:
        own = job.model_copy(
            update={
                "stages": [],
                "simplex": job.simplex.model_copy(
                    update={"begin": begin, "grid_steps": stage.grid_steps}
                ),
                "optimization": job.optimization.model_copy(update={"num_steps": stage.num_steps}),
            }
        )
        target = stage_folder(folder, stage)
        left = None if stop_after is None else min(stage.num_steps, stop_after - done)
        if left is not None and left <= 0:
            break
        if os.environ.get("RANK", "0") == "0":
            say(f"stage of {stage.grid_steps} noise levels, {stage.num_steps} steps: {target}")
        final = train(own, target, device=device, stop_after=left, say=say)
        begin, done = str(target.resolve()), done + stage.num_steps
    if final is None:
        raise InputError(f"stop_after must be positive, got {stop_after}")
    return final


def _train_all(
    runs: Mapping[str, RefineJob],
    folder: Path,
    *,
    device: str,
    stop_after: int | None,
    say: Say,
) -> Estimate:
    """Run after run, each stopped where told; returns the last one's loss."""
    for name, job in runs.items():
        if os.environ.get("RANK", "0") == "0":
            say(f"run {name}: {folder / name}")
        final = train(job, folder / name, device=device, stop_after=stop_after, say=say)
    return final


def train_step(run: Run) -> tuple[float, float]:
    """One optimiser step; returns the loss and the gradient norm."""
    settings, step, device = run.job.optimization, run.steps_done, run.workers.device
    set_learning_rate(run.optimizers, learning_rate_share(step, settings))
    summed, short = torch.zeros((), device=device), settings.precision == "bfloat16"
    for part in range(settings.accumulate):
        with torch.autocast(device.type, torch.bfloat16, enabled=short):
            value = run.objective.loss(run.model, step, part)
        value.backward()
        summed += value.detach()
    weights = list(run.model.parameters())
    total = float(run.workers.sum_gradients(weights, summed))
    if not math.isfinite(total):
        raise SchedlabError(
            f"loss is {total} at step {step}; lower the learning rates and start anew"
        )
    norm = torch.nn.utils.clip_grad_norm_(weights, settings.gradient_clip)
    for optimizer in run.optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    average = list(run.average_model.parameters())
    update_average(average, weights, step=step, decay=settings.ema_decay)
    run.steps_done += 1
    return total, float(norm)


def _evaluate(run: Run, say: Say) -> Estimate:
    """Held-out loss of the averaged weights, measured by the first process for all."""
    if run.workers.is_first:
        objective = run.objective
        run.held_out, run.measured = objective.held_out(run.average_model)
        say(f"held-out loss at step {run.steps_done}: {run.held_out} {objective.unit}")
        facts = {"held_out": run.held_out.model_dump()}
        for name, value in run.measured.items():
            say(f"  {name.replace('_', ' ')}: {value}")
            facts[name] = value.model_dump()
        log(run, **facts)
    estimate = run.workers.share(run.held_out)
    assert estimate is not None, "measured by the first process"
    return estimate


def _say_nothing(line: str) -> None:
    pass
