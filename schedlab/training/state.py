"""The resumable state of a training run: one safetensors file, replaced as a whole.

Weights, averaged weights, optimiser moments and what the objective keeps are tensors; the step and
what the run depends on stand as JSON in the file's header. Random numbers need no state: they are
functions of (seed, step), see `batches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor
from torch.optim import Optimizer

from schedlab.errors import InputError
from schedlab.files import canonical_json, parse_json, write_atomic

STATE_FILE = "state.safetensors"


def save_state(
    folder: Path,
    facts: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    memory: Mapping[str, Tensor],
) -> None:
    """Write everything that the next step depends on; `facts` are JSON values, `memory` is the
    objective's."""
    tensors = {f"weights/{name}": value for name, value in weights.items()}
    tensors |= {f"average/{name}": value for name, value in average.items()}
    tensors |= {f"memory/{name}": value for name, value in memory.items()}
    for number, optimizer in enumerate(optimizers):
        for index, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"optimizer/{number}/{index}/{name}"] = value
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    data = safetensors.torch.save(tensors, metadata={"facts": canonical_json(dict(facts))})
    write_atomic(folder / STATE_FILE, data)


def stored_facts(folder: Path) -> dict[str, Any]:
    """What a saved state says of itself; {} where there is none or it is damaged."""
    try:
        with safetensors.safe_open(folder / STATE_FILE, framework="pt") as stored:
            facts = parse_json((stored.metadata() or {}).get("facts", "{}"), where=STATE_FILE)
    except (safetensors.SafetensorError, OSError, InputError):
        return {}
    return facts if isinstance(facts, dict) else {}


def load_state(
    folder: Path,
    weights: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimizers: Sequence[Optimizer],
    memory: dict[str, Tensor],
) -> dict[str, Any] | None:
    """Copy a saved state into the given tensors and optimisers.

    Returns:
        The saved facts, None where nothing was saved yet.

    Raises:
        InputError: the file is damaged or of another model.
    """
    file = folder / STATE_FILE
    if not file.exists():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            facts = parse_json((stored.metadata() or {}).get("facts", "{}"), where=str(file))
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        for group, targets in (("weights", weights), ("average", average)):
            for name, target in targets.items():
                target.data.copy_(tensors.pop(f"{group}/{name}"))
        for name in [name for name in tensors if name.startswith("memory/")]:
            memory[name.removeprefix("memory/")] = tensors.pop(name)
        moments: list[dict[int, dict[str, Tensor]]] = [{} for _ in optimizers]
        for name, value in tensors.items():
            _, number, index, moment = name.split("/")
            moments[int(number)].setdefault(int(index), {})[moment] = value
    except (safetensors.SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file}: not a state of this training job ({reason}); delete it to start anew"
        ) from None
    for optimizer, state in zip(optimizers, moments, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return dict(facts)
