"""Denoisers from anywhere: our own folders, published layouts, a hub name. Nothing is executed.

A published checkpoint is told by the `model_type` of its `config.json`; ours has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from torch import Tensor, nn

from schedlab import hub
from schedlab.denoisers import checkpoint
from schedlab.denoisers.checkpoint import CARD_FILE, CONFIG_FILE, dtype_of
from schedlab.denoisers.families import FAMILIES, Family, PublishedConfig
from schedlab.denoisers.network import Network
from schedlab.denoisers.weights import WeightFiles, fill, write
from schedlab.errors import InputError
from schedlab.files import read_json, write_atomic

_BLOCKS = "#blocks="
_MOST_BLOCKS = 10_000
_BLOCK_COUNTS = {"n_blocks", "n_layers", "num_hidden_layers"}


def load(
    location: str | Path,
    *,
    device: str | torch.device = "cpu",
    precision: str = "float32",
    networks: dict[str, Network] | None = None,
) -> Network:
    """Read a denoiser of any known family, ready for inference (no gradients).

    Args:
        location: a folder, a safetensors file with its `config.json` beside it, "bundled:NAME" or
            "hf:OWNER/NAME[@REVISION]"; with "#blocks=0,3,8-11" behind it a light denoiser of
            those blocks of the network, which shares their weights.
        device: where the weights go, one tensor after the other.
        precision: dtype of the weights in memory: "bfloat16", "float32" or "float64".
        networks: what was read so far, by location; what is read is added.

    Raises:
        InputError: anything is missing, damaged, of another shape or not finite, or there are no
            such blocks; one line.
    """
    networks = {} if networks is None else networks
    base = without_blocks(location)
    if base not in networks:
        networks[base] = _read(base, device=device, precision=precision)
    _, marked, text = str(location).partition(_BLOCKS)
    if not marked:
        return networks[base]
    return with_blocks(networks[base], _numbers(text, where=str(location)), where=str(location))


def without_blocks(location: str | Path) -> str:
    """The location of the whole network."""
    return str(location).partition(_BLOCKS)[0]


def with_blocks(network: Network, kept: Sequence[int], *, where: str = "blocks") -> Network:
    """A network of some blocks of another, in the order given, sharing all weights with it.

    Skipping blocks needs no training; what it costs in quality is for a search to find out
    ("static layer skip"; the first blocks alone are an early exit).

    Raises:
        InputError: no blocks, or blocks that are not there.
    """
    found = getattr(network, "blocks", None)
    blocks = list(found) if isinstance(found, nn.ModuleList) else []
    if not kept or not all(0 <= number < len(blocks) for number in kept):
        raise InputError(
            f"{where}: blocks must be between 0 and {len(blocks) - 1}, got"
            f" {', '.join(map(str, kept)) or 'none'}"
        )
    with torch.device("meta"):
        smaller = type(network)(network.config.model_copy(update={"num_blocks": len(kept)}))
    for name, part in network.named_children():
        if name != "blocks":
            setattr(smaller, name, part)
    smaller.add_module("blocks", nn.ModuleList(blocks[number] for number in kept))
    smaller._float32_head = network._float32_head
    return smaller.eval().requires_grad_(False)


def _numbers(text: str, *, where: str) -> list[int]:
    """`0,3,8-11` as numbers."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"{where}: blocks read like 0,3,8-11, got {text[:40]!r}")
        stop = int(last if dash else first) + 1
        if stop > _MOST_BLOCKS:
            raise InputError(f"{where}: blocks are numbered below {_MOST_BLOCKS}, got {stop - 1}")
        found += range(int(first), stop)
    return found


def _read(location: str | Path, *, device: str | torch.device, precision: str) -> Network:
    found = published(location)
    if found is None:
        return checkpoint.load(location, device=device, precision=precision)
    dtype = dtype_of(precision)
    place, family, config = found
    stored = WeightFiles.find(place)
    for name in _BLOCK_COUNTS & config.values.keys():  # an absurd size must not even be laid out
        if config.whole(name) > len(stored.shapes):
            raise InputError(
                f"{config.where}: {name} = {config.whole(name)} is more than the"
                f" {len(stored.shapes)} tensors of the model"
            )
    try:
        with torch.device("meta"):  # no memory and no random numbers for what is replaced
            network = family.build(config)
    except (ValueError, RuntimeError) as error:  # sizes that do not fit together, or into memory
        raise InputError(f"{config.where}: {_first_reason(error)}") from None
    names = {own: family.published_name(own) for own in network.state_dict()}
    fill(
        network,
        stored,
        names,
        ignored=frozenset(family.derived(network)),
        family=family.name,
        device=device,
        dtype=dtype,
    )
    network.keep_float32_head()
    return network.eval().requires_grad_(False)


def _first_reason(error: Exception) -> str:
    if isinstance(error, pydantic.ValidationError):
        return str(error.errors()[0]["msg"])
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def save(
    folder: str | Path,
    network: Network,
    family: Family | None,
    *,
    precision: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> None:
    """Write a model folder in a family's published layout, or in ours.

    Args:
        folder: made where missing; each file is replaced as a whole, the configuration last.
        network: the weights.
        family: None for ours.
        precision: dtype on disk; None is that of the weights in memory.
        card: what the weights are, as JSON values.
    """
    precision = precision or _dtype_name(network)
    if family is None:
        checkpoint.save(folder, network, card or {}, precision=precision)
        return
    dtype, target = dtype_of(precision), Path(folder)
    state: dict[str, Tensor] = {
        family.published_name(name): value.detach().to("cpu", dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    state.update(family.derived(network))
    write(target, state)
    if card is not None:
        write_atomic(target / CARD_FILE, checkpoint.json_text(dict(card)))
    config = {**family.published_config(network), "torch_dtype": precision}
    write_atomic(target / CONFIG_FILE, checkpoint.json_text(config))


def published(location: str | Path) -> tuple[Path, Family, PublishedConfig] | None:
    """Where a published checkpoint lies, its family and configuration; None for one of ours."""
    location = hub.local(without_blocks(location))
    if location.startswith("bundled:"):
        return None
    place = Path(location)
    folder = place.parent if place.is_file() else place
    if not folder.is_dir() or not (folder / CONFIG_FILE).is_file():
        return None  # whose error is the same for all
    values = read_json(folder / CONFIG_FILE)
    if not isinstance(values, dict) or "model_type" not in values:
        return None
    family = FAMILIES.get(str(values["model_type"]))
    if family is None:
        known = ", ".join(FAMILIES)
        raise InputError(
            f"{folder / CONFIG_FILE}: model_type {str(values['model_type'])[:40]!r} is not known;"
            f" known: {known}"
        )
    return place, family, PublishedConfig(values, str(folder / CONFIG_FILE), family.name)


def _dtype_name(network: Network) -> str:
    return str(next(network.parameters()).dtype).removeprefix("torch.")
