"""The processes of one training run: alone, or started by `torchrun`.

Gradients are summed in one flat buffer after the backward pass. At the sizes trained here the
time to hide behind overlapped communication is small, and the sum makes the batch exactly the
same as on one process.
"""

from __future__ import annotations

import atexit
import datetime
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from schedlab.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """This process among those of the run."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def device_name(self) -> str:
        """What the run is computed on, for the card."""
        if self.device.type == "cuda":
            return f"{self.world_size} x {torch.cuda.get_device_name(self.device)}"
        return f"{self.world_size} x CPU process ({platform.machine()})"

    def place(self, part: int, parts: int) -> tuple[int, int]:
        """Which of how many shares of a step's rows is the `part`-th one here, of `parts` that
        every process takes one after the other: every so-manieth row from there."""
        return self.rank * parts + part, self.world_size * parts

    def rows(self, part: int, parts: int) -> slice:
        """The rows of that share."""
        first, stride = self.place(part, parts)
        return slice(first, None, stride)

    def sum_gradients(self, weights: Sequence[Tensor], loss: Tensor) -> Tensor:
        """Sum gradients in place, and the loss, over all processes; returns the loss."""
        if self.world_size == 1:
            return loss
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        flat = torch.cat([loss.reshape(1).float(), *(g.reshape(-1).float() for g in gradients)])
        dist.all_reduce(flat)
        start = 1
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        return flat[0]

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes, which have equally many, process by process; no gradients."""
        if self.world_size == 1:
            return rows
        found = [torch.empty_like(rows) for _ in range(self.world_size)]
        dist.all_gather(found, rows.contiguous())
        return torch.cat(found)

    def share(self, value: T) -> T:
        """Give the first process's value to all."""
        shared = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(shared, src=0)
        return shared[0]

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def join_workers(device: str) -> Iterator[Workers]:
    """Join the run that `torchrun` started, or be alone.

    Args:
        device: "cpu", "cuda" or "auto".
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda': no GPU is visible to torch; use 'cpu' or 'auto'")
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Workers(0, 1, torch.device(kind))
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = torch.device("cuda", local_rank) if kind == "cuda" else torch.device("cpu")
    if kind == "cuda":
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        # The others wait while the first process chooses blocks or measures, which may take hours.
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=datetime.timedelta(days=1))
        # Left at the end of the process, not of the run: a second start would find the addresses
        # of the first in the store of `torchrun`, and wait for them now and then for ever.
        atexit.register(dist.destroy_process_group)
    yield Workers(dist.get_rank(), world_size, place)
