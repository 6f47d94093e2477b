"""What a family of published checkpoints is: how its configuration and tensors are named.

A family is one file beside this one and one line in `FAMILIES`. Nothing in a checkpoint is run:
its `config.json` is data, its weights are safetensors, `auto_map` and the like are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from schedlab.denoisers.network import Network
from schedlab.errors import InputError


@dataclass(frozen=True)
class Family:
    """How to read and write checkpoints of one published layout.

    Args:
        name: as `schedlab inspect` prints it.
        model_type: what `config.json` calls it.
        build: from the configuration, the network without weights (whatever device is in force).
        published_name: of a tensor of the network.
        published_config: `config.json` of a network.
        derived: published tensors that follow from the configuration, by name: written, never
            read.
        unusual: what a reader should know of such a checkpoint, in lines.
    """

    name: str
    model_type: str
    build: Callable[[PublishedConfig], Network]
    published_name: Callable[[str], str]
    published_config: Callable[[Any], dict[str, Any]]
    derived: Callable[[Any], Mapping[str, Tensor]] = field(default=lambda network: {})
    unusual: Callable[[Any], tuple[str, ...]] = field(default=lambda network: ())


def names_by_part(
    outside: Mapping[str, str], blocks: str, in_block: Mapping[str, str]
) -> Callable[[str], str]:
    """`published_name` of a network whose parts have other names.

    Args:
        outside: published names of parts outside of blocks, by ours.
        blocks: what published blocks are numbered behind.
        in_block: published names of parts of a block, by ours.
    """

    def published_name(name: str) -> str:
        block = re.fullmatch(r"blocks\.(\d+)\.(\w+)\.(\w+)", name)
        if block:
            number, part, kind = block.groups()
            return f"{blocks}.{number}.{in_block[part]}.{kind}"
        part, kind = name.split(".")
        return f"{outside[part]}.{kind}"

    return published_name


@dataclass(frozen=True)
class PublishedConfig:
    """A published `config.json`: values by name, every problem one line.

    Args:
        values: the JSON object.
        where: its path.
        family: the name of the family that it was taken for.
    """

    values: Mapping[str, Any]
    where: str
    family: str

    def whole(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self._wrong(name, "a positive whole number")
        return value

    def token(self, name: str) -> int:
        """A token id."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._wrong(name, "a token id")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        """A positive number."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self._wrong(name, "a positive number")
        return float(value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        """True or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, "true or false")
        return value

    def expect(self, name: str, *allowed: object) -> None:
        """Refuse a variant that is not implemented; what is absent is the first of the allowed."""
        value = self.values.get(name, allowed[0])
        if value not in allowed or (isinstance(value, bool) and value not in allowed):
            raise InputError(
                f"{self.where}: {name} = {str(value)[:40]!r} is a variant of {self.family} that"
                f" is not implemented; known: {', '.join(map(repr, allowed))}"
            )

    def _wrong(self, name: str, what: str) -> InputError:
        value = self.values.get(name)
        got = "nothing" if value is None else repr(value)[:40]
        return InputError(
            f"{self.where}: {name} must be {what}, got {got}; is this a checkpoint of"
            f" {self.family}?"
        )
