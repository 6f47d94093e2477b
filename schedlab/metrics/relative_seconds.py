"""Seconds of a plan relative to an autoregressive model of the same size.

The model is a causal transformer with as many blocks, as wide, with as many weights in a block and
the same vocabulary as the denoiser that the plan makes most requests to; it draws every token by
itself, keys and values kept, from sequences of the same length in batches of the same size. Its
weights are random: time does not depend on them. Plan and model run in turns on the same machine,
and the interval is over turns. [O] What "seconds relative to AR" is relative to is not said in
papers; that of a serving engine may be faster than this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from schedlab.classifiers import Classifier
from schedlab.denoisers.base import Denoiser, DenoiserSpec
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.plan import Plan
from schedlab.processes import Process
from schedlab.results import SeedBlock
from schedlab.results.bootstrap import bootstrap_ratio
from schedlab.results.estimate import Estimate
from schedlab.sampling.autoregressive import sample_autoregressive
from schedlab.sampling.forwards import call_rows
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.plans import sample_plans

_HEAD_SIZE = 64


def relative_seconds(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: Process,
    *,
    guides: Mapping[str, Classifier] | None = None,
    device: str = "cpu",
    precision: str = "float32",
    turns: int = 5,
) -> Estimate:
    """Seconds of a sequence by the plan over those by an autoregressive model of the same size.

    Args:
        plan: without prompts.
        denoisers, process, guides: as for `sample_plans`.
        device, precision: where the denoisers are, and of their weights.
        turns: how often each is timed, at least 2, after a turn that is not.

    Returns:
        The ratio of mean seconds, with a bootstrap interval over turns.

    Raises:
        InputError: fewer than 2 turns.
    """
    if turns < 2:
        raise InputError(f"turns must be at least 2, got {turns}")
    place = torch.device(device)
    rows = call_rows(plan.length, place)
    roles = plan.model_schedule.roles
    busiest = max(roles, key=plan.model_schedule.count)
    with place:
        network = Transformer(autoregressive_config(denoisers[busiest].spec, plan.length))
    network.init_weights(torch.Generator(place).manual_seed(0))
    network.requires_grad_(False).to(getattr(torch, precision))
    first_B = torch.zeros(rows, dtype=torch.int64, device=place)
    generator = torch.Generator(place).manual_seed(0)

    def by_plan(turn: int) -> None:
        ids = SequenceIds.of([SeedBlock(0, turn * rows, rows)], device=place)
        for _ in sample_plans([plan], denoisers, process, ids, guides=guides):
            pass

    def by_model(turn: int) -> None:
        sample_autoregressive(network, first_B, plan.length, generator)

    seconds = [
        (_seconds(by_plan, turn, place), _seconds(by_model, turn, place))
        for turn in range(turns + 1)
    ]
    own, other = zip(*seconds[1:], strict=True)  # the first one warms up
    return bootstrap_ratio(own, other).estimate()


def autoregressive_config(spec: DenoiserSpec, length: int) -> TransformerConfig:
    """Sizes of the causal transformer that is nearest to a denoiser."""
    square = spec.hidden_size**2
    weights = (spec.block_weights or 12 * square) / square  # 4 of attention, the rest of the MLP
    num_heads = max(1, spec.hidden_size // _HEAD_SIZE)
    while spec.hidden_size % num_heads or (spec.hidden_size // num_heads) % 2:
        num_heads -= 1
    return TransformerConfig(
        vocab_size=spec.vocab_size,
        mask_id=0,
        num_blocks=spec.num_blocks,
        hidden_size=spec.hidden_size,
        num_heads=num_heads,
        max_length=length,
        mlp_ratio=max(1, round((weights - 4) / 2)),
        causal=True,
    )


def _seconds(run: Callable[[int], None], turn: int, place: torch.device) -> float:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    begin = time.perf_counter()
    run(turn)
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    return time.perf_counter() - begin
