"""What a classifier is, for people: labels, sizes, cost, fingerprint, card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schedlab import hub
from schedlab.classifiers.loading import load_own
from schedlab.classifiers.network import encoder_flops
from schedlab.denoisers import checkpoint
from schedlab.denoisers.weights import WeightFiles
from schedlab.errors import InputError
from schedlab.files import read_json


@dataclass(frozen=True)
class ClassifierDescription:
    """A classifier in figures.

    Args:
        location: as asked for; hub names with their commit.
        folder: where it lies.
        labels: names.
        config: everything that the network was built from.
        num_parameters: weights in all.
        num_bytes: size of the weights file.
        precision: dtype that the fingerprint is of.
        fingerprint: hex SHA-256 of sizes and weights.
        encoder_flops: FLOPs of a forward behind the embedding, of the longest text.
        card: data, steps, seed, accuracy and calibration on held-out texts.
    """

    location: str
    folder: str
    labels: tuple[str, ...]
    config: dict[str, Any]
    num_parameters: int
    num_bytes: int
    precision: str
    fingerprint: str
    encoder_flops: int
    card: dict[str, Any]


def is_classifier(location: str | Path) -> bool:
    """Whether a location holds a classifier of ours; False for anything else, also for nothing."""
    try:
        values = read_json(checkpoint.resolve(location) / checkpoint.CONFIG_FILE)
    except InputError:
        return False
    return isinstance(values, dict) and values.get("architecture") == "classifier"


def describe(location: str | Path, *, precision: str = "float32") -> ClassifierDescription:
    """Load a classifier and say what it is.

    Raises:
        InputError: anything is missing, damaged, of another shape or not finite.
    """
    model, folder = load_own(location, precision=precision), checkpoint.resolve(location)
    return ClassifierDescription(
        location=hub.pinned(str(location)),
        folder=str(folder),
        labels=model.labels,
        config=model.config.model_dump(),
        num_parameters=sum(weight.numel() for weight in model.parameters()),
        num_bytes=WeightFiles.find(folder).num_bytes,
        precision=precision,
        fingerprint=model.fingerprint,
        encoder_flops=encoder_flops(model.config, model.config.max_length),
        card=checkpoint.read_card(folder),
    )
