"""Measure a plan file on a task, or by a judge: whether what was exported does what was measured.

Items and random numbers are the caller's to choose, so that none need be those of the search.
"""

from __future__ import annotations

import os

from schedlab.classifiers import load as load_classifier
from schedlab.deploy.runtime import Player
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import NO_SCORER, Lab
from schedlab.evaluation.prompts import Prompts
from schedlab.metrics.relative_seconds import relative_seconds
from schedlab.metrics.samples import Scorer
from schedlab.metrics.scorers import load_scorer
from schedlab.plan.task_config import TaskConfig
from schedlab.results import Estimate, Measurement, SeedBlock, Store
from schedlab.tasks import load_task
from schedlab.tasks.rows import encode_prompts


def measure_plan(
    player: Player,
    task: TaskConfig,
    n: int,
    *,
    store: str | os.PathLike[str],
    first: int = 0,
    seed: int = 0,
) -> Measurement:
    """Accuracy and cost of a plan on items `first` to `first + n` of a task.

    Args:
        player: the plan, loaded.
        task: what is asked and how answers are judged.
        n: items, at least 2.
        store: folder for what was evaluated.
        first: number of the first item.
        seed: of the random numbers.

    Raises:
        InputError: see `load_task`; prompts that leave no room.
    """
    if n < 2 or first < 0:
        raise InputError(f"items must be at least 2 from a place on, got {n} from {first}")
    asked = load_task(task, first + n)
    # As long as those that the plan was measured with: blocks lie where they lay then.
    prefix = int(str(player.file.provenance.get("prefix_length", 0))) or None
    where = f"task {asked.name}"
    tokens = encode_prompts(asked.items, player.tokenizer, length=prefix, where=where)
    lab = Lab(
        denoisers=player.denoisers,
        process=player.process,
        tokenizer=player.tokenizer,
        scorer=None,
        precision=player.file.precision,
        device=player.device,
        guides=player.guides,
    )
    (found,) = evaluate(
        [player.plan],
        [SeedBlock(seed, first, n)],
        lab=lab,
        store=Store(store),
        prompts=Prompts.of(tokens.tokens_NP, asked, tokens.padding_N),
    )
    return found


def measure_control(
    player: Player,
    judge: str,
    n: int,
    *,
    store: str | os.PathLike[str],
    first: int = 0,
    seed: int = 0,
) -> Measurement:
    """Control accuracy, Gen-PPL, diversity and cost of a guided plan, without prompts.

    Args:
        player: the plan, loaded.
        judge: location of a classifier that does not guide it.
        n: sequences, at least 2.
        store: folder for what was evaluated.
        first, seed: which sequences.

    Raises:
        InputError: a plan without guidance, a judge that guides or that knows none of the labels
            asked for.
    """
    if n < 2 or first < 0:
        raise InputError(f"sequences must be at least 2 from a place on, got {n} from {first}")
    if player.plan.guidance is None:
        raise InputError("a judge judges guided plans; this one has no guidance")
    lab = Lab(
        denoisers=player.denoisers,
        process=player.process,
        tokenizer=player.tokenizer,
        scorer=_scorer(player),
        precision=player.file.precision,
        device=player.device,
        guides=player.guides,
        judges={"judge": load_classifier(judge, device=player.device)},
    )
    (found,) = evaluate([player.plan], [SeedBlock(seed, first, n)], lab=lab, store=Store(store))
    if "control_judge" not in found.estimates:
        raise InputError(f"judge {judge!r} knows none of the labels that the plan asks for")
    return found


def measure_against_autoregressive(player: Player) -> Estimate:
    """Seconds of a plan over those of an autoregressive model of the same size, see
    `relative_seconds`.
    """
    return relative_seconds(
        player.plan,
        player.denoisers,
        player.process,
        guides=player.guides,
        device=player.device,
        precision=player.file.precision,
    )


def _scorer(player: Player) -> Scorer | None:
    """The scorer that the plan was measured with; None where it had none."""
    name = str(player.file.provenance.get("scorer", NO_SCORER))
    if name in ("", NO_SCORER):
        return None
    return load_scorer(name, tokenizer=player.tokenizer, device=player.device)
