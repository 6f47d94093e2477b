"""What a model is, for people: family, sizes, process, mask, cost, fingerprint, card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedlab import hub
from schedlab.denoisers import checkpoint, loading
from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.cost import block_flops, forward_flops, head_flops
from schedlab.denoisers.weights import WeightFiles


@dataclass(frozen=True)
class ModelDescription:
    """A model in figures.

    Args:
        location: as asked for; hub names with their commit.
        folder: where it lies, or the file.
        family: whose layout it has.
        kind: "denoiser" or "autoregressive".
        spec: sizes, process, mask token, time input.
        config: everything that the network was built from.
        num_parameters: weights in all.
        num_bytes: size of the weights files.
        precision: dtype that the fingerprint is of.
        fingerprint: hex SHA-256 of sizes and weights, what stored evaluations and plans refer to.
        block_flops: FLOPs of the blocks for one sequence of `spec.max_length` positions.
        head_flops: FLOPs of the head at one position.
        forward_flops: FLOPs of a full forward, head at every position.
        unusual: what a reader should know, in lines.
        card: data, steps, seed, held-out loss and whatever else was noted in training.
    """

    location: str
    folder: str
    family: str
    kind: str
    spec: DenoiserSpec
    config: dict[str, Any]
    num_parameters: int
    num_bytes: int
    precision: str
    fingerprint: str
    block_flops: int
    head_flops: int
    forward_flops: int
    unusual: tuple[str, ...]
    card: dict[str, Any]


def describe(location: str | Path, *, precision: str = "float32") -> ModelDescription:
    """Load a model as the sampler would and say what it is.

    Args:
        location: see `loading.load`.
        precision: dtype of the weights in memory, which the fingerprint depends on.

    Raises:
        InputError: anything is missing, damaged, of another shape or not finite.
    """
    network = loading.load(location, precision=precision)
    found = loading.published(location)
    place = checkpoint.resolve(location) if found is None else found[0]
    spec = network.spec
    return ModelDescription(
        location=hub.pinned(str(location)),
        folder=str(place),
        family=checkpoint.OWN_FAMILY if found is None else found[1].name,
        kind="autoregressive" if getattr(network.config, "causal", False) else "denoiser",
        spec=spec,
        config=network.config.model_dump(),
        num_parameters=sum(weight.numel() for weight in network.parameters()),
        num_bytes=WeightFiles.find(place).num_bytes,
        precision=precision,
        fingerprint=network.fingerprint,
        block_flops=block_flops(spec, spec.max_length),
        head_flops=head_flops(spec),
        forward_flops=forward_flops(spec, spec.max_length),
        unusual=() if found is None else found[1].unusual(network),
        card=checkpoint.read_card(place if place.is_dir() else place.parent),
    )
