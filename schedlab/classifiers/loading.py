"""Classifiers from folders; nothing in them is executed."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch

from schedlab import hub
from schedlab.classifiers.huggingface import load_huggingface
from schedlab.classifiers.network import Classifier, ClassifierConfig, TextClassifier
from schedlab.denoisers.checkpoint import CONFIG_FILE, dtype_of, load_network
from schedlab.files import read_json

ARCHITECTURES = {"classifier": (ClassifierConfig, TextClassifier)}


def load(
    location: str | Path, *, device: str | torch.device = "cpu", precision: str = "float32"
) -> Classifier:
    """Read a classifier: a folder in our layout or in that of `transformers`, `bundled:NAME`, or
    `hf:OWNER/NAME[@REVISION]`.

    Raises:
        InputError: anything is missing, damaged, of another shape or not finite.
    """
    folder = Path(hub.local(str(location)))
    if (folder / CONFIG_FILE).is_file():
        values = read_json(folder / CONFIG_FILE)
        if isinstance(values, dict) and "model_type" in values:
            return load_huggingface(folder, device=device, dtype=dtype_of(precision))
    return load_own(location, device=device, precision=precision)


def load_own(
    location: str | Path, *, device: str | torch.device = "cpu", precision: str = "float32"
) -> TextClassifier:
    """Read a classifier in our layout.

    Raises:
        InputError: see `load`.
    """
    found = load_network(location, ARCHITECTURES, device=device, precision=precision)
    return cast(TextClassifier, found)
