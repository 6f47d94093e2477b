"""Classifiers from model folders; nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from schedlab.classifiers.network import ClassifierConfig, TextClassifier
from schedlab.denoisers.checkpoint import load_network

ARCHITECTURES = {"classifier": (ClassifierConfig, TextClassifier)}


def load(
    location: str | Path, *, device: str | torch.device = "cpu", precision: str = "float32"
) -> TextClassifier:
    """Read a classifier: a folder, `bundled:NAME` or `hf:OWNER/NAME` in our layout.

    Raises:
        InputError: anything is missing, damaged, of another shape or not finite.
    """
    found = load_network(location, ARCHITECTURES, device=device, precision=precision)
    return cast(TextClassifier, found)
