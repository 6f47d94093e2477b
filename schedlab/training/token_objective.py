"""What denoisers of tokens and scorers are trained on and measured by: a masked or a next-token
batch and `weighted_loss`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from schedlab.denoisers.network import Network
from schedlab.results import Estimate
from schedlab.training.batches import Batch, masked_batch, next_token_batch, share_of
from schedlab.training.derive import Parent
from schedlab.training.distributed import Workers
from schedlab.training.job import DeriveJob, RefineJob, TrainJob
from schedlab.training.objective import NoisyRows, Objective
from schedlab.training.objectives import held_out_losses, mean_with_interval
from schedlab.training.optimizers import largest_noise_level
from schedlab.training.progress import Say
from schedlab.training.rows import Rows

LossFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class TokenObjective(Objective):
    """NELBO of masked denoisers, derived ones beside their heavy one, cross-entropy of scorers."""

    job: TrainJob | DeriveJob | RefineJob
    rows: Rows
    mask_id: int
    workers: Workers
    parent: Parent | None
    function: LossFunction
    seed: int

    @property
    def unit(self) -> str:
        """Of the loss."""
        return "nats per token"

    def loss(self, model: Network, step: int, part: int = 0) -> Tensor:
        """A share of the step's loss."""
        batch = self._share(step, part)
        arrays = (batch.input_BL, batch.t_B, batch.read_N, batch.target_N, batch.weight_N)
        tensors = [torch.from_numpy(array).to(self.workers.device) for array in arrays]
        return self.function(model, *self._teacher(), *tensors)

    def noisy(self, model: Network, step: int, part: int = 0) -> NoisyRows:
        """Rows of a share of a step, as for its loss."""
        batch = self._share(step, part)
        x_BL = self._rows(step)[self.workers.rows(part, self.job.optimization.accumulate)]
        x, z, t = (
            torch.from_numpy(array).to(self.workers.device)
            for array in (x_BL, batch.input_BL, batch.t_B)
        )
        return NoisyRows(x, z, t, z == self.mask_id)

    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """Loss on held-out rows; for a derived model also against the heavy one."""
        levels, rows = self.job.reporting.held_out_levels, self.rows
        losses_S = held_out_losses(
            model, rows.held_out_SL, levels=levels, seed=self.seed, given=rows.given
        )
        measured: dict[str, Estimate] = {}
        if self.parent is not None:
            self.parent.measure(model, losses_S, rows, levels=levels, seed=self.seed)
            measured = dict(self.parent.measured)
        return mean_with_interval(losses_S), measured

    def __str__(self) -> str:
        return str(self.rows)

    def _teacher(self) -> tuple[Network | None, float]:
        """The heavy denoiser and the share of the denoising loss."""
        if self.parent is None or not isinstance(self.job, DeriveJob):
            return None, 1.0
        weight = self.job.derive.denoising_weight
        return (self.parent.heavy.network if weight < 1.0 else None), weight

    def _rows(self, step: int) -> np.ndarray:
        size = self.job.optimization.batch_size
        return self.rows.of_step(step, batch_size=size, seed=self.job.seed)

    def _share(self, step: int, part: int) -> Batch:
        rank, world_size = self.workers.place(part, self.job.optimization.accumulate)
        grid_steps = self.job.grid_steps_at(step)
        return share_of(self.batch(step), rank=rank, world_size=world_size, grid_steps=grid_steps)

    def batch(self, step: int) -> Batch:
        """Rows of all processes at a step."""
        job, tokens_BL = self.job, self._rows(step)
        if job.kind == "autoregressive":
            return next_token_batch(tokens_BL)
        return masked_batch(
            tokens_BL,
            mask_id=self.mask_id,
            smallest_t=job.optimization.smallest_t,
            largest_t=largest_noise_level(step, job.optimization),
            seed=job.seed,
            step=step,
            given=self.rows.given,
            grid_steps=job.grid_steps_at(step),
        )


def maybe_compiled(function: LossFunction, *, compiled: bool, say: Say) -> LossFunction:
    """A function of networks, compiled on wish."""
    return compiled_where_possible(function, say) if compiled else function


def compiled_where_possible(function: LossFunction, say: Say) -> LossFunction:
    """A function through `torch.compile`, or as it is where the first call shows no compiler."""
    compiled = torch.compile(function, dynamic=False)
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
            usable = function
            return usable(*arguments)
        usable = compiled
        return value

    return loss
