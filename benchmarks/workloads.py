"""What several benchmarks run: networks of any size, and plans through the event sampler.

Legend: N plans, S sequences, L positions.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from schedlab.denoisers.base import Denoiser, DenoiserSpec
from schedlab.denoisers.cost import block_flops, head_flops
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, Work, sample_events


@dataclass(frozen=True)
class Run:
    """What one timed run gave.

    Args:
        seconds: wall time.
        flops: of the matrix products that were needed: blocks of the forwards made, head where a
            token was read; rows that only fill up a call are left out.
        forwards: rows that a denoiser ran, by role.
        calls: calls that they took, by role.
        tokens_NSL: the texts, int32; empty where none are compared.
    """

    seconds: float
    flops: float
    forwards: Mapping[str, int]
    calls: Mapping[str, int]
    tokens_NSL: np.ndarray


def random_network(
    *, vocab_size: int, length: int, hidden_size: int, num_blocks: int, precision: str
) -> Transformer:
    """Random weights, heads of 32; what one plan costs does not depend on the weights."""
    config = TransformerConfig(
        vocab_size=vocab_size,
        mask_id=vocab_size - 1,
        num_blocks=num_blocks,
        hidden_size=hidden_size,
        num_heads=hidden_size // 32,
        max_length=length,
    )
    model = Transformer(config)
    model.init_weights(torch.Generator().manual_seed(0))
    model = model.to(getattr(torch, precision)).eval().requires_grad_(False)
    model.keep_float32_head()  # as `checkpoint.load` does
    return model


def sampling_flops(spec: DenoiserSpec, length: int, positions: float) -> float:
    """FLOPs of a forward that is read at some positions.

    There alone run the last block's MLP and the head, and at them and their neighbours the last
    block's projection.
    """
    projection = 2 * spec.hidden_size**2
    mlp = 2 * (spec.block_weights or 12 * spec.hidden_size**2) - 4 * projection
    trunk = block_flops(spec, length) - length * (projection + mlp)
    return trunk + positions * (3 * projection + mlp + head_flops(spec))


def process_of(denoiser: Denoiser) -> MaskedProcess:
    """The process over a denoiser's vocabulary."""
    return MaskedProcess(denoiser.spec.vocab_size, denoiser.spec.mask_id)


def all_heavy(length: int, num_steps: int) -> Plan:
    """One denoiser at every step."""
    return Plan(length=length, model_schedule=ModelSchedule.constant("H", num_steps))


def first_ids(num: int) -> SequenceIds:
    """The first sequences of seed 0."""
    return SequenceIds.of([SeedBlock(0, 0, num)])


def run_events(plans: Sequence[Plan], denoisers: Mapping[str, Denoiser], num: int) -> Run:
    """All plans on the first `num` sequences, timed."""
    ids, work = first_ids(num), Work()
    process = process_of(next(iter(denoisers.values())))
    tokens_NSL = np.zeros((len(plans), num, plans[0].length), dtype=np.int32)
    asked, read = dict.fromkeys(denoisers, 0), dict.fromkeys(denoisers, 0)
    begin = time.perf_counter()
    for found in sample_events(plans, denoisers, process, ids, work=work):
        tokens_NSL[list(found.plans), found.sequence] = found.tokens_UL[found.text_N]
        for role in found.forwards:
            asked[role] += int(found.forwards[role].sum())
            read[role] += int(found.head_positions[role].sum())
    seconds = time.perf_counter() - begin
    flops = 0.0
    for role, made in work.forwards.items():
        spec = denoisers[role].spec
        # Head positions per forward: exact for one plan; of several, which share forwards, the
        # mean over plans instead of over the forwards made.
        per_forward = read[role] / asked[role]
        flops += made * sampling_flops(spec, plans[0].length, per_forward)
    return Run(seconds, flops, work.forwards, work.calls, tokens_NSL)
