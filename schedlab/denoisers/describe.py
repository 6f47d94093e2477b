"""What a model folder holds, for people: sizes, mask, cost, fingerprint, card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedlab.denoisers import checkpoint
from schedlab.denoisers.cost import block_flops, forward_flops, head_flops
from schedlab.denoisers.transformer import TransformerConfig


@dataclass(frozen=True)
class ModelDescription:
    """A model folder in figures.

    Args:
        location: as asked for.
        folder: where it lies.
        kind: "denoiser" or "autoregressive".
        config: sizes, vocabulary and mask token.
        num_parameters: weights in all.
        num_bytes: size of the weights file.
        precision: dtype that the fingerprint is of.
        fingerprint: hex SHA-256 of sizes and weights, what stored evaluations and plans refer to.
        block_flops: FLOPs of the blocks for one sequence of `config.max_length` positions.
        head_flops: FLOPs of the head at one position.
        forward_flops: FLOPs of a full forward, head at every position.
        card: data, steps, seed, held-out loss and whatever else was noted in training.
    """

    location: str
    folder: str
    kind: str
    config: TransformerConfig
    num_parameters: int
    num_bytes: int
    precision: str
    fingerprint: str
    block_flops: int
    head_flops: int
    forward_flops: int
    card: dict[str, Any]


def describe(location: str | Path, *, precision: str = "float32") -> ModelDescription:
    """Load a model as the sampler would and say what it is.

    Args:
        location: a folder, or "bundled:NAME".
        precision: dtype of the weights in memory, which the fingerprint depends on.

    Raises:
        InputError: anything in the folder is missing, damaged, of another shape or not finite.
    """
    folder = checkpoint.resolve(location)
    model = checkpoint.load(location, precision=precision)
    length = model.config.max_length
    return ModelDescription(
        location=str(location),
        folder=str(folder),
        kind="autoregressive" if model.config.causal else "denoiser",
        config=model.config,
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_bytes=(folder / checkpoint.WEIGHTS_FILE).stat().st_size,
        precision=precision,
        fingerprint=model.fingerprint,
        block_flops=block_flops(model.spec, length),
        head_flops=head_flops(model.spec),
        forward_flops=forward_flops(model.spec, length),
        card=checkpoint.read_card(location),
    )
