"""Weights on disk: one safetensors file, or shards with an index; read one tensor at a time.

Files are mapped into memory, and a tensor is copied (and converted) to where it belongs before the
next one is touched, so that a load needs little beside the model itself. Nothing is executed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from schedlab.errors import InputError
from schedlab.files import read_json, write_atomic

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
PICKLE_SUFFIXES = frozenset((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"))
_SHOWN = 3  # names of tensors in a message


@dataclass(frozen=True)
class WeightFiles:
    """Where tensors lie.

    Args:
        where: the file or folder, for messages.
        shapes: of every tensor.
        files: the safetensors files, each with the names of its tensors.
    """

    where: str
    shapes: Mapping[str, tuple[int, ...]]
    files: Mapping[Path, tuple[str, ...]]

    @classmethod
    def find(cls, location: Path) -> WeightFiles:
        """Look at a safetensors file, or at those of a folder.

        Raises:
            InputError: there are none, one is damaged, or the index does not agree with them.
        """
        files = [location] if location.is_file() else _files_of(location)
        shapes: dict[str, tuple[int, ...]] = {}
        names: dict[Path, tuple[str, ...]] = {}
        for file in files:
            with _opened(file) as content:
                names[file] = tuple(content.keys())
                for name in names[file]:
                    if name in shapes:
                        raise InputError(f"{file}: {name!r} is in another file of the model too")
                    shapes[name] = tuple(content.get_slice(name).get_shape())
        return cls(str(location), shapes, names)

    @property
    def num_bytes(self) -> int:
        """Size of the files."""
        return sum(file.stat().st_size for file in self.files)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, as long as the next one is not asked for: the memory is the file's."""
        for file, names in self.files.items():
            with _opened(file) as content:
                for name in names:
                    yield name, content.get_tensor(name)


def fill(
    network: nn.Module,
    stored: WeightFiles,
    names: Mapping[str, str],
    *,
    family: str,
    device: str | torch.device,
    dtype: torch.dtype,
    ignored: frozenset[str] = frozenset(),
) -> None:
    """Give a network on the meta device its weights.

    Args:
        network: without weights.
        stored: what there is.
        names: of the stored tensors by the network's own names; all are needed.
        family: for messages.
        device, dtype: where and as what the weights go.
        ignored: stored tensors that are not read.

    Raises:
        InputError: tensors that are missing, unknown, of other shapes or not finite, in one line
            with the first of them.
    """
    expected = {names[own]: tuple(value.shape) for own, value in network.state_dict().items()}
    check_shapes(stored.shapes, expected, where=stored.where, family=family, ignored=ignored)
    own_names = {published: own for own, published in names.items()}
    for name, value in stored.tensors():
        if name not in own_names:
            continue
        if not value.is_floating_point() or not is_finite(value):
            raise InputError(f"{stored.where}: {name!r} must hold finite floating-point numbers")
        moved = value.to(device=device, dtype=dtype, copy=True)
        place, _, own_name = own_names[name].rpartition(".")
        # `load_state_dict` would walk the whole network for every tensor.
        setattr(network.get_submodule(place), own_name, nn.Parameter(moved, requires_grad=False))


def check_shapes(
    shapes: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    where: str,
    family: str,
    ignored: frozenset[str] = frozenset(),
) -> None:
    """Raise an `InputError`, with the first ones, unless just the expected tensors are there."""
    problems = []
    missing = sorted(expected.keys() - shapes.keys())
    unknown = sorted(shapes.keys() - expected.keys() - ignored)
    other = sorted(n for n in expected.keys() & shapes.keys() if expected[n] != shapes[n])
    if missing:
        problems.append(f"lacks {_listed([_shown(n, expected[n]) for n in missing])}")
    if unknown:
        problems.append(f"has the unknown {_listed([_shown(n, shapes[n]) for n in unknown])}")
    if other:
        wrong = [f"{_shown(n, shapes[n])} instead of {list(expected[n])}" for n in other]
        problems.append(f"has {_listed(wrong)}")
    if problems:
        raise InputError(
            f"{where}: taken for a checkpoint of {family} with the sizes of its"
            f" config.json, it {'; '.join(problems)}"
        )


def _shown(name: str, shape: tuple[int, ...]) -> str:
    return f"{name} {list(shape)}"


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def is_finite(value: Tensor) -> bool:
    """A sum is not finite if one term is not; and one pass over the memory, without another
    array: 20 times as fast as asking each term. Sums of large terms may overflow: then all are
    asked."""
    return bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())


def _opened(file: Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(file, framework="pt", device="cpu")
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{file}: not a whole safetensors file ({error}); a pickle is never loaded"
        ) from None


def _files_of(folder: Path) -> list[Path]:
    """The files that an index names, or the only one."""
    index = folder / INDEX_FILE
    if not index.is_file():
        if (folder / WEIGHTS_FILE).is_file():
            return [folder / WEIGHTS_FILE]
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLE_SUFFIXES)
        hint = (
            f"; {pickles[0]} is a pickle, which is never loaded: see `schedlab convert`"
            if pickles
            else ""
        )
        raise InputError(f"model {str(folder)!r}: {WEIGHTS_FILE} is missing{hint}")
    data = read_json(index)
    found = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise InputError(f"{index}: must hold a weight_map from tensor names to file names")
    names = sorted(set(found.values()))
    for name in names:
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(
                f"{index}: {json.dumps(name)[:60]} is not the name of a safetensors file beside it"
            )
        if not (folder / name).is_file():
            raise InputError(f"{index}: {name} is missing")
    return [folder / name for name in names]


def write(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as one safetensors file, which is replaced as a whole."""
    data = safetensors.torch.save(dict(state), metadata={"format": "pt"})
    write_atomic(folder / WEIGHTS_FILE, data)
