"""Training checkpoints of MDLM and DUO (PyTorch Lightning) to the published layout.

The only place that opens a pickle, and only with `weights_only=True`: tensors and plain values are
read, anything else is refused. Convert files of people you trust all the same.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from schedlab.denoisers import loading
from schedlab.denoisers.dit import DiT, DiTConfig
from schedlab.denoisers.families import FAMILIES
from schedlab.denoisers.families.mdlm import PREFIX
from schedlab.denoisers.weights import check_shapes, is_finite
from schedlab.errors import InputError

_DERIVED = f"{PREFIX}rotary_emb.inv_freq"


def convert(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    weights: Literal["ema", "raw"] = "ema",
    num_heads: int | None = None,
    max_length: int | None = None,
) -> DiT:
    """Write a training checkpoint as a folder that `loading.load` reads.

    Args:
        checkpoint: the Lightning file.
        folder: made where missing; files of a model in it are replaced.
        weights: the averaged ones, which papers evaluate, or the raw ones.
        num_heads, max_length: needed where the file does not tell.

    Raises:
        InputError: not such a file, or it holds more than tensors and plain values.
    """
    content = _read(Path(checkpoint))
    state = _tensors(content.get("state_dict"), where=f"{checkpoint}: state_dict")
    config = _config(content, state, str(checkpoint), num_heads, max_length)
    with torch.device("meta"):
        network = DiT(config)
    names = [name for name, _ in network.named_parameters()]
    if weights == "ema":
        # A plain list, in the order of the parameters that were trained.
        shadow = (content.get("ema") or {}).get("shadow_params")
        if not isinstance(shadow, list) or len(shadow) != len(names):
            found = len(shadow) if isinstance(shadow, list) else "no"
            raise InputError(
                f"{checkpoint}: has {found} averaged weights, the network {len(names)};"
                " convert the raw ones"
            )
        values = dict(zip(names, shadow, strict=True))
    else:
        values = {n.removeprefix(PREFIX): v for n, v in state.items() if n != _DERIVED}
    family = FAMILIES["mdlm" if config.process == "masked" else "duo"]
    check_shapes(
        {name: tuple(value.shape) for name, value in values.items()},
        {name: tuple(value.shape) for name, value in network.state_dict().items()},
        where=str(checkpoint),
        family=family.name,
    )
    for name, value in values.items():
        if not is_finite(value):
            raise InputError(f"{checkpoint}: {name} must hold finite numbers")
    network.load_state_dict(values, assign=True)
    loading.save(folder, network, family)
    return network


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise InputError(f"{file}: not found") from None
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise InputError(
            f"{file}: not a checkpoint of tensors and plain values alone ({reason[:120]}); save"
            " state_dict and ema anew where it was trained"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: must hold a dict with state_dict")
    return content


def _tensors(values: object, *, where: str) -> Mapping[str, Tensor]:
    if not isinstance(values, dict) or not values:
        raise InputError(f"{where} must hold tensors by name")
    if not all(isinstance(value, Tensor) for value in values.values()):
        raise InputError(f"{where} must hold tensors by name")
    return values


def _config(
    content: Mapping[str, Any],
    state: Mapping[str, Tensor],
    where: str,
    num_heads: int | None,
    max_length: int | None,
) -> DiTConfig:
    """Sizes from the shapes; heads, length and conventions from the trainer's configuration."""
    told = (content.get("hyper_parameters") or {}).get("config") or {}
    model = told.get("model") or {}
    try:
        vocab_size, hidden_size = state[f"{PREFIX}vocab_embed.embedding"].shape
        cond_size = state[f"{PREFIX}sigma_map.mlp.0.weight"].shape[0]
    except (KeyError, ValueError):
        raise InputError(f"{where}: state_dict is not of MDLM's or DUO's network") from None
    blocks = {name.split(".")[2] for name in state if name.startswith(f"{PREFIX}blocks.")}
    heads, length = num_heads or model.get("n_heads"), max_length or model.get("length")
    if not isinstance(heads, int) or not isinstance(length, int):
        raise InputError(f"{where}: does not tell its heads and length; give both")
    uniform = (told.get("algo") or {}).get("name", "mdlm") in ("duo", "duo_base", "udlm")
    return DiTConfig(
        process="uniform" if uniform else "masked",
        vocab_size=vocab_size,
        mask_id=None if uniform else vocab_size - 1,
        num_blocks=len(blocks),
        hidden_size=hidden_size,
        num_heads=heads,
        cond_size=cond_size,
        max_length=length,
        time_conditioning=uniform or bool(told.get("time_conditioning", False)),
    )
