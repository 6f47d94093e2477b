"""The start of a light denoiser: some blocks of a heavy one, with its embeddings and head.

Legend: S held-out windows, L positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from schedlab import hub
from schedlab.denoisers import loading
from schedlab.denoisers.checkpoint import json_text
from schedlab.denoisers.families import Family
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.files import Record, read_json, validate, write_atomic
from schedlab.results import Estimate
from schedlab.training.distributed import Workers
from schedlab.training.job import Derivation
from schedlab.training.objectives import held_out_losses, mean_with_interval
from schedlab.training.progress import Say
from schedlab.training.rows import Rows

CHOICE_FILE = "blocks.json"
LossOf = Callable[[Sequence[int]], float]


class Dropped(Record):
    """A block that an ablation dropped.

    Args:
        block: its number in the heavy network.
        held_out: the loss without it and those dropped before, in nats per token.
    """

    block: int
    held_out: float


class Choice(Record):
    """The blocks that a light denoiser starts from.

    Args:
        derive: what was asked for.
        heavy_fingerprint: of whom.
        blocks: their numbers in the heavy network, ascending unless they were given.
        dropped: what an ablation dropped, in order; empty for other rules.
    """

    derive: Derivation
    heavy_fingerprint: str
    blocks: list[int]
    dropped: list[Dropped] = []


@dataclass(frozen=True)
class Heavy:
    """The denoiser that a light one is made from.

    Args:
        location: where it was loaded from, hub names with their commit.
        network: ready for inference.
        family: whose layout it has; None is our own.
    """

    location: str
    network: Network
    family: Family | None

    @classmethod
    def load(
        cls,
        location: str,
        *,
        device: str,
        precision: str,
        where: str = "derive.heavy",
        processes: Sequence[str] = ("masked",),
    ) -> Heavy:
        """Load it, and refuse what cannot be a heavy denoiser here.

        Raises:
            InputError: see `loading.load`; or it is autoregressive or of another process.
        """
        network = loading.load(location, device=device, precision=precision)
        if getattr(network.config, "causal", False):
            raise InputError(f"{where}: {location} is autoregressive; name a denoiser")
        if network.spec.process not in processes:
            raise InputError(
                f"{where}: {location} is of the {network.spec.process} process; name a denoiser of"
                f" the {' or '.join(processes)} one"
            )
        found = loading.published(location)
        return cls(hub.pinned(location), network, found[1] if found else None)


@dataclass
class Parent:
    """What a derived model's run knows of the heavy one.

    Args:
        heavy: the denoiser.
        choice: the blocks taken.
        losses_S: its loss on every held-out window, once measured.
        measured: comparisons of the light one with it, in nats per token.
    """

    heavy: Heavy
    choice: Choice
    losses_S: np.ndarray | None = None
    measured: dict[str, Estimate] = field(default_factory=dict)

    def measure(
        self,
        light: Network,
        light_S: np.ndarray,
        rows: Rows,
        *,
        levels: int,
        seed: int,
    ) -> None:
        """Set the light denoiser against the heavy one on the same windows and masks."""
        network = self.heavy.network

        def losses(model: Network, heavy: Network | None = None) -> np.ndarray:
            return held_out_losses(
                model, rows.held_out_SL, levels=levels, seed=seed, heavy=heavy, given=rows.given
            )

        if self.losses_S is None:
            self.losses_S = losses(network)
        kl_S = losses(light, network)
        self.measured = {
            "heavy_held_out": mean_with_interval(self.losses_S),
            "minus_heavy": mean_with_interval(light_S - self.losses_S),
            "kl_from_heavy": mean_with_interval(kl_S),
        }

    def card(self) -> dict[str, Any]:
        """What the light model's card says of its origin."""
        return {
            "heavy": self.heavy.location,
            "heavy_fingerprint": self.heavy.network.fingerprint,
            "blocks": self.choice.blocks,
            "dropped": [one.model_dump() for one in self.choice.dropped],
            **{name: value.model_dump() for name, value in self.measured.items()},
        }


def choose(
    settings: Derivation,
    heavy: Heavy,
    rows: Rows,
    *,
    seed: int,
    folder: Path,
    workers: Workers,
    say: Say,
) -> Choice:
    """The choice noted in the folder, or a new one, which is noted there.

    The first process chooses for all: near-ties of an ablation must not fall differently.

    Raises:
        InputError: see `check_blocks`, in every process.
    """
    total = heavy.network.spec.num_blocks
    check_blocks(settings, total)
    choice = None
    if workers.is_first:
        choice = _noted(folder / CHOICE_FILE, settings, heavy.network.fingerprint)
        if choice is None:
            windows_SL = rows.held_out_SL[: settings.ablation_windows]
            network, levels = heavy.network, settings.ablation_levels

            def loss_of(blocks: Sequence[int]) -> float:
                light = loading.with_blocks(network, blocks)
                losses_S = held_out_losses(
                    light, windows_SL, levels=levels, seed=seed, given=rows.given
                )
                return float(losses_S.mean())

            blocks, dropped = chosen(settings, total, loss_of, say)
            choice = Choice(
                derive=settings,
                heavy_fingerprint=network.fingerprint,
                blocks=blocks,
                dropped=dropped,
            )
            write_atomic(folder / CHOICE_FILE, json_text(choice.model_dump()))
        say(f"starts from {heavy.location}#blocks={','.join(map(str, choice.blocks))}")
    shared = workers.share(choice)
    assert shared is not None, "of the first process"
    return shared


def _noted(file: Path, settings: Derivation, fingerprint: str) -> Choice | None:
    if not file.is_file():
        return None
    choice = validate(Choice, read_json(file), where=str(file))
    same = choice.derive == settings and choice.heavy_fingerprint == fingerprint
    return choice if same else None


def check_blocks(settings: Derivation, total: int) -> None:
    """Refuse what cannot be chosen from a network of `total` blocks.

    Raises:
        InputError: more blocks than there are, numbers of blocks that are not there or twice.
    """
    rule = settings.blocks
    if isinstance(rule, list):
        if not rule or not all(0 <= number < total for number in rule):
            raise InputError(
                f"derive.blocks: must be numbers between 0 and {total - 1}, got {rule}"
            )
        if len(set(rule)) < len(rule):
            raise InputError(f"derive.blocks: must differ, got {rule}")
    elif settings.num_blocks is not None and settings.num_blocks > total:
        raise InputError(
            f"derive.num_blocks: the heavy one has {total} blocks, got {settings.num_blocks}"
        )


def chosen(
    settings: Derivation, total: int, loss_of: LossOf, say: Say
) -> tuple[list[int], list[Dropped]]:
    """Apply a rule: the blocks, ascending unless they are numbered, and what an ablation dropped.

    Args:
        settings: the rule, see `check_blocks`.
        total: blocks of the heavy network.
        loss_of: held-out loss of a network of some of its blocks; asked by ablations only.
        say: receives a line for every block that an ablation drops.
    """
    rule, num = settings.blocks, settings.num_blocks
    if isinstance(rule, list):
        return rule, []
    assert num is not None, "a rule comes with a number"
    if rule == "ablation":
        return ablated(range(total), num, loss_of, say)
    if rule == "spaced":
        return [round(place) for place in np.linspace(0, total - 1, num)], []
    return list(range(num) if rule == "first" else range(total - num, total)), []


def ablated(
    blocks: Sequence[int], num_blocks: int, loss_of: LossOf, say: Say
) -> tuple[list[int], list[Dropped]]:
    """Drop block after block, always the one without which the loss is lowest.

    Blocks depend on each other, so the effect of each is measured anew after every drop: n blocks
    cost (n (n + 1) - num_blocks (num_blocks + 1)) / 2 losses.

    Returns:
        The blocks that are left, and those dropped, in order.
    """
    kept, dropped = list(blocks), list[Dropped]()
    while len(kept) > num_blocks:
        losses = [loss_of([b for b in kept if b != block]) for block in kept]
        least = int(np.argmin(losses))
        dropped.append(Dropped(block=kept.pop(least), held_out=losses[least]))
        say(f"without block {dropped[-1].block}: held-out loss {losses[least]:.3f} nats per token")
    return kept, dropped
