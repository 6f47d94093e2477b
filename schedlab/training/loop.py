"""The training loop: a job and a folder in, a model folder out; a stopped run can go on.

One process, or several under `torchrun`: each takes a share of every batch and gradients are
summed, so the result is that of one process up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schedlab.denoisers.network import Network
from schedlab.errors import SchedlabError
from schedlab.results import Estimate
from schedlab.training.batches import (
    Batch,
    masked_batch,
    next_token_batch,
    share_of,
)
from schedlab.training.distributed import join_workers
from schedlab.training.job import AnyTrainJob, DeriveJob
from schedlab.training.objectives import held_out_losses, mean_with_interval, weighted_loss
from schedlab.training.optimizers import (
    largest_noise_level,
    learning_rate_share,
    set_learning_rate,
    update_average,
)
from schedlab.training.progress import Progress, Say, say_on_stderr
from schedlab.training.run import HELD_OUT_SEED, Run, log, save, start_or_resume

LossFunction = Callable[..., Tensor]  # as `weighted_loss`


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
        Held-out loss of the averaged weights in nats per token (NELBO for denoisers,
        cross-entropy for scorers), with its 95 % interval. For derived denoisers log and card
        also hold the heavy one's loss, the difference, paired, and the KL divergence from it.

    Raises:
        InputError: the corpus, the tokenizer or the folder does not fit the job.
        SchedlabError: the loss is not finite any more.
    """
    with join_workers(device) as workers:
        say = say if workers.is_first else _say_nothing
        run = start_or_resume(job, Path(folder), workers, say)
        say(str(run.rows))
        loss = _compiled(say) if job.optimization.compile else weighted_loss
        progress = Progress(job.optimization.num_steps)
        last = min(job.optimization.num_steps, stop_after or job.optimization.num_steps)
        while run.steps_done < last:
            value, norm = _train_step(run, loss)
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


def _train_step(run: Run, loss: LossFunction) -> tuple[float, float]:
    """One optimiser step; returns the loss in nats per token and the gradient norm."""
    settings, step, device = run.job.optimization, run.steps_done, run.workers.device
    set_learning_rate(run.optimizers, learning_rate_share(step, settings))
    batch = share_of(_batch(run, step), rank=run.workers.rank, world_size=run.workers.world_size)
    arrays = (batch.input_BL, batch.t_B, batch.read_N, batch.target_N, batch.weight_N)
    tensors = [torch.from_numpy(array).to(device) for array in arrays]
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
        value = loss(run.model, *_teacher(run), *tensors)
    value.backward()
    weights = list(run.model.parameters())
    total = float(run.workers.sum_gradients(weights, value.detach()))
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


def _teacher(run: Run) -> tuple[Network | None, float]:
    """The heavy denoiser and the share of the denoising loss."""
    if run.parent is None or not isinstance(run.job, DeriveJob):
        return None, 1.0
    weight = run.job.derive.denoising_weight
    return (run.parent.heavy.network if weight < 1.0 else None), weight


def _batch(run: Run, step: int) -> Batch:
    job = run.job
    tokens_BL = run.rows.of_step(step, batch_size=job.optimization.batch_size, seed=job.seed)
    if job.kind == "autoregressive":
        return next_token_batch(tokens_BL)
    return masked_batch(
        tokens_BL,
        mask_id=run.tokenizer.mask_id,
        smallest_t=job.optimization.smallest_t,
        largest_t=largest_noise_level(step, job.optimization),
        seed=job.seed,
        step=step,
        given=run.rows.given,
    )


def _evaluate(run: Run, say: Say) -> Estimate:
    """Held-out loss of the averaged weights, measured by the first process for all."""
    if run.workers.is_first:
        levels, model = run.job.reporting.held_out_levels, run.average_model
        rows_SL, given = run.rows.held_out_SL, run.rows.given
        losses_S = held_out_losses(model, rows_SL, levels=levels, seed=HELD_OUT_SEED, given=given)
        run.held_out = mean_with_interval(losses_S)
        say(f"held-out loss at step {run.steps_done}: {run.held_out} nats per token")
        facts = {"held_out": run.held_out.model_dump()}
        if run.parent is not None:
            run.parent.measure(model, losses_S, run.rows, levels=levels, seed=HELD_OUT_SEED)
            for name, value in run.parent.measured.items():
                say(f"  {name.replace('_', ' ')}: {value}")
                facts[name] = value.model_dump()
        log(run, **facts)
    estimate = run.workers.share(run.held_out)
    assert estimate is not None, "measured by the first process"
    return estimate


def _compiled(say: Say) -> LossFunction:
    """The loss through `torch.compile`, or as it is where the first call shows no compiler."""
    compiled = torch.compile(weighted_loss, dynamic=False)
    usable: LossFunction | None = None

    def loss(*arguments: Any) -> Tensor:
        nonlocal usable
        if usable is not None:
            return usable(*arguments)
        try:
            value = compiled(*arguments)
        except Exception as error:  # every back end raises its own kind
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            say(f"torch.compile does not work here ({reason}); going on without it, slower")
            usable = weighted_loss
            return usable(*arguments)
        usable = compiled
        return value

    return loss


def _say_nothing(line: str) -> None:
    pass
