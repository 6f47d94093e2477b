"""Model folders: `config.json` + `model.safetensors` + `card.json`; nothing in them is executed.

A folder is checked wholly before a model is handed out: sizes, names, shapes, finite values. The
card says what the weights are (data, steps, seed, held-out loss); it does not affect the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from schedlab import hub
from schedlab.denoisers.network import Network
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.denoisers.weights import WEIGHTS_FILE, WeightFiles, fill
from schedlab.errors import InputError
from schedlab.files import Record, read_json, validate, write_atomic

CONFIG_FILE = "config.json"
CARD_FILE = "card.json"
OWN_FAMILY = "schedlab"
BUNDLED = Path(__file__).resolve().parent.parent / "data" / "models"

PRECISIONS: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}

Architectures = Mapping[str, tuple[type[Record], type[Network]]]
ARCHITECTURES: Architectures = {
    "transformer": (TransformerConfig, Transformer),
    "simplex_transformer": (SimplexTransformerConfig, SimplexTransformer),
}
"""Configuration and network by the `architecture` of a `config.json`; the first has no such
key."""


def save(
    folder: str | Path,
    model: Network,
    card: Mapping[str, Any],
    *,
    weights: Mapping[str, Tensor] | None = None,
    precision: str = "bfloat16",
) -> None:
    """Write a model folder; each file is replaced as a whole, the configuration last.

    Args:
        folder: made where missing.
        model: gives the sizes, and the weights unless `weights` does.
        card: what the weights are, as JSON values.
        weights: the state to store instead of the model's (an average, say).
        precision: dtype on disk: "bfloat16", "float32" or "float64".
    """
    dtype = dtype_of(precision)
    state = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in (weights or model.state_dict()).items()
    }
    target = Path(folder)
    write_atomic(target / WEIGHTS_FILE, safetensors.torch.save(state, metadata={"format": "pt"}))
    write_atomic(target / CARD_FILE, json_text(dict(card)))
    write_atomic(target / CONFIG_FILE, json_text(model.config.model_dump()))


def load(
    location: str | Path, *, device: str | torch.device = "cpu", precision: str = "float32"
) -> Network:
    """Read a model folder, ready for inference (no gradients).

    Args:
        location: a folder, or "bundled:NAME" for a model that ships with the package.
        device: where the weights go.
        precision: dtype of the weights in memory: "bfloat16", "float32" or "float64".

    Raises:
        InputError: anything in the folder is missing, damaged, of another shape or not finite.
    """
    return load_network(location, ARCHITECTURES, device=device, precision=precision)


def load_network(
    location: str | Path,
    architectures: Architectures,
    *,
    device: str | torch.device,
    precision: str,
) -> Network:
    """`load` of one of some architectures."""
    folder = resolve(location)
    values = read_json(folder / CONFIG_FILE)
    kind = values.get("architecture", "transformer") if isinstance(values, dict) else "transformer"
    if not isinstance(kind, str) or kind not in architectures:
        raise InputError(
            f"{folder / CONFIG_FILE}: its architecture is {str(kind)[:40]!r}, wanted is"
            f" {' or '.join(architectures)}"
        )
    config_type, network_type = architectures[kind]
    config = validate(config_type, values, where=str(folder / CONFIG_FILE))
    dtype = dtype_of(precision)
    stored = WeightFiles.find(folder)
    _check_size(stored, config)
    with torch.device("meta"):  # no memory and no random numbers for weights that are replaced
        model = network_type(config)
    names = {name: name for name in model.state_dict()}
    fill(model, stored, names, family=OWN_FAMILY, device=device, dtype=dtype)
    model.keep_float32_head()
    return model.eval().requires_grad_(False)


def resolve(location: str | Path) -> Path:
    """The folder behind a location; checks that it is a model folder."""
    text = hub.local(str(location))
    if text.startswith("bundled:"):
        name = text.removeprefix("bundled:")
        known = bundled_names()
        if name not in known:
            raise InputError(
                f"no bundled model {name!r}; bundled models: {', '.join(known) or 'none'}"
            )
        return BUNDLED / name
    folder = Path(text)
    if not folder.is_dir():
        raise InputError(f"model {text!r}: must be a folder with {CONFIG_FILE} and {WEIGHTS_FILE}")
    return folder


def bundled_names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CONFIG_FILE}"))


def read_card(location: str | Path) -> dict[str, Any]:
    """The card of a model folder, {} where it has none."""
    file = resolve(location) / CARD_FILE
    if not file.exists():
        return {}
    card = read_json(file)
    if not isinstance(card, dict):
        raise InputError(f"{file}: must be a JSON object")
    return card


def json_text(value: Any) -> str:
    """JSON for people: indented, keys in the order given, one line end at the end."""
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of a precision by name."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise InputError(f"precision must be one of {known}, got {precision!r}")
    return PRECISIONS[precision]


def _check_size(stored: WeightFiles, config: Any) -> None:
    """An absurd size must not even be laid out: one embedding at least, and blocks of it."""
    blocks = config.num_blocks if getattr(config, "encoder", "") != "convolution" else 0
    per_block = config.hidden_size * config.hidden_size * (4 + 2 * config.mlp_ratio)
    expected = blocks * per_block + config.vocab_size * config.hidden_size
    found = sum(math.prod(shape) for shape in stored.shapes.values())
    if expected > found:
        raise InputError(
            f"{stored.where}: holds {found} numbers, too few for the {expected} of its"
            f" {CONFIG_FILE}"
        )
