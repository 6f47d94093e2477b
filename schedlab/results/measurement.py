"""Measurements: what evaluating a plan gave, merged over seed blocks, with intervals.

Legend: S sequences, L positions, P prefix positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedlab.errors import InputError
from schedlab.plan import Plan
from schedlab.results.bootstrap import (
    FloatArray,
    bootstrap_mean,
    bootstrap_ratio,
)
from schedlab.results.estimate import Estimate
from schedlab.results.record import BlockRecord
from schedlab.results.seed_block import SeedBlock

IntArray = NDArray[np.int64]

NLL, SCORED_TOKENS = "nll", "scored_tokens"
DUEL_NATS, DUEL_TOKENS = "duel_nats", "duel_tokens"

# Estimate to the columns whose sums it is the ratio of.
_RATIOS = {"log_gen_ppl": (NLL, SCORED_TOKENS), "duel_nll": (DUEL_NATS, DUEL_TOKENS)}


@dataclass(frozen=True)
class Measurement:
    """One plan on several seed blocks.

    Args:
        plan: what was evaluated.
        blocks: the sequences, in the order of all arrays.
        prefix_length: given tokens P at the start of every sequence.
        tokens_SL: final tokens, prefix included, int32.
        scores: per-sequence values by metric name, float64 (S,); NaN where a metric is undefined.
        forwards, head_positions: requests per role, int64 (S,).
        block_forwards_S: transformer blocks run, counted over all denoisers.
        flops_blocks_S, flops_total_S: FLOPs of the blocks; of blocks and heads.
        seconds_S: wall time charged to each sequence.
        estimates: by name, with 95 % intervals over sequences. `gen_ppl` and `log_gen_ppl` (sum
            NLL / sum tokens; lower is better); means per sequence: `entropy` (nats), `distinct_1`,
            `distinct_2`, `distinct_3`, `self_bleu` (0 to 100, lower is more diverse), `forwards`,
            `block_forwards`, `flops_blocks`, `flops_total`, `seconds`; `accuracy` of answers to a
            task; of held-out texts instead of all that is of samples `duel_nll`, their negative
            log-likelihood in nats per token. What was not measured is not there.
    """

    plan: Plan
    blocks: tuple[SeedBlock, ...]
    prefix_length: int
    tokens_SL: NDArray[np.int32]
    scores: Mapping[str, FloatArray]
    forwards: Mapping[str, IntArray]
    head_positions: Mapping[str, IntArray]
    block_forwards_S: IntArray
    flops_blocks_S: FloatArray
    flops_total_S: FloatArray
    seconds_S: FloatArray
    estimates: Mapping[str, Estimate]

    @property
    def num_sequences(self) -> int:
        """Number of sequences S."""
        return len(self.tokens_SL)

    @property
    def nll_S(self) -> FloatArray:
        """Negative log-likelihood of the generated text under the scorer, nats per sequence."""
        return self.scores[NLL]

    @property
    def scored_tokens_S(self) -> FloatArray:
        """Tokens of the scorer that `nll_S` sums over."""
        return self.scores[SCORED_TOKENS]

    @property
    def entropy_S(self) -> FloatArray:
        """Unigram entropy of every sample, nats."""
        return self.scores["entropy"]

    def first_blocks(self, count: int) -> Measurement:
        """The same on the first `count` blocks only."""
        if count == len(self.blocks):
            return self
        num = sum(block.size for block in self.blocks[:count])
        scores = {name: column_S[:num] for name, column_S in self.scores.items()}
        forwards = {role: column_S[:num] for role, column_S in self.forwards.items()}
        costs_S = {
            "forwards": sum(forwards.values(), np.zeros(num, dtype=np.int64)),
            "block_forwards": self.block_forwards_S[:num],
            "flops_blocks": self.flops_blocks_S[:num],
            "flops_total": self.flops_total_S[:num],
            "seconds": self.seconds_S[:num],
        }
        return Measurement(
            plan=self.plan,
            blocks=self.blocks[:count],
            prefix_length=self.prefix_length,
            tokens_SL=self.tokens_SL[:num],
            scores=scores,
            forwards=forwards,
            head_positions={role: found_S[:num] for role, found_S in self.head_positions.items()},
            block_forwards_S=self.block_forwards_S[:num],
            flops_blocks_S=self.flops_blocks_S[:num],
            flops_total_S=self.flops_total_S[:num],
            seconds_S=self.seconds_S[:num],
            estimates=_estimates(scores, costs_S),
        )


def merge(records: Sequence[BlockRecord]) -> Measurement:
    """Merge a plan's records, in the order given, into one measurement.

    Raises:
        InputError: no record, records that differ in more than the seed block, or a block twice.
    """
    _check(records)
    first = records[0]
    scores = {
        # None becomes NaN.
        name: np.concatenate([np.array(record.scores[name], dtype=float) for record in records])
        for name in first.scores
    }
    # A denoiser whose steps revealed nothing in a whole block may be absent from its usage.
    roles = dict.fromkeys(role for record in records for role in record.usage)
    forwards = {role: _requests(records, role, "forwards") for role in roles}
    head_positions = {role: _requests(records, role, "head_positions") for role in roles}
    costs = first.costs
    zero_S = np.zeros(sum(len(record.tokens) for record in records), dtype=np.int64)
    block_forwards_S = zero_S.copy()
    flops_blocks_S, flops_total_S = zero_S.astype(np.float64), zero_S.astype(np.float64)
    for role in roles:
        block_forwards_S += costs[role].num_blocks * forwards[role]
        flops_blocks_S += float(costs[role].block_flops) * _share_computed(records, role)
        flops_total_S += float(costs[role].head_flops) * head_positions[role]
    flops_total_S += flops_blocks_S
    seconds_S = np.concatenate([np.array(record.seconds, dtype=float) for record in records])
    costs_S = {
        "forwards": sum(forwards.values(), zero_S),
        "block_forwards": block_forwards_S,
        "flops_blocks": flops_blocks_S,
        "flops_total": flops_total_S,
        "seconds": seconds_S,
    }
    return Measurement(
        plan=first.identity.plan,
        blocks=tuple(record.identity.block for record in records),
        prefix_length=first.prefix_length,
        tokens_SL=np.concatenate([np.array(record.tokens, dtype=np.int32) for record in records]),
        scores=scores,
        forwards=forwards,
        head_positions=head_positions,
        block_forwards_S=block_forwards_S,
        flops_blocks_S=flops_blocks_S,
        flops_total_S=flops_total_S,
        seconds_S=seconds_S,
        estimates=_estimates(scores, costs_S),
    )


def _estimates(
    scores: Mapping[str, FloatArray], costs_S: Mapping[str, NDArray]
) -> dict[str, Estimate]:
    estimates: dict[str, Estimate] = {}
    summed = {name for pair in _RATIOS.values() for name in pair}
    for name, (nats, tokens) in _RATIOS.items():
        if nats in scores:
            ratio = bootstrap_ratio(scores[nats], scores[tokens])
            if name == "log_gen_ppl":
                # The interval is made on the log scale, where the statistic is closest to normal.
                estimates["gen_ppl"] = ratio.map(np.exp).estimate()
            estimates[name] = ratio.estimate()
    columns = {name: column for name, column in scores.items() if name not in summed}
    columns |= costs_S
    whole = [name for name, column in columns.items() if np.isfinite(column).all()]
    intervals = bootstrap_mean(np.stack([columns[name] for name in whole], axis=1))
    estimates |= {name: intervals.estimate(j) for j, name in enumerate(whole)}
    for name in columns.keys() - set(whole):
        defined_S = columns[name][np.isfinite(columns[name])]
        if len(defined_S) >= 2:  # else the metric is not measured: left out
            estimates[name] = bootstrap_mean(defined_S).estimate()
    return estimates


def _requests(records: Sequence[BlockRecord], role: str, kind: str) -> IntArray:
    """One column of usage over all blocks, zero where the denoiser did not run."""
    parts = []
    for record in records:
        usage = record.usage.get(role)
        column = getattr(usage, kind) if usage else [0] * len(record.tokens)
        parts.append(np.array(column, dtype=np.int64))
    return np.concatenate(parts)


def _share_computed(records: Sequence[BlockRecord], role: str) -> FloatArray:
    """Forwards, those that compute some positions only by their share: FLOPs of blocks are in
    proportion, as queries still read the keys of all positions."""
    parts = []
    for record in records:
        usage = record.usage.get(role)
        if usage is None or usage.positions is None:
            parts.append(_requests([record], role, "forwards").astype(np.float64))
        else:
            length = record.identity.plan.length
            parts.append(np.array(usage.positions, dtype=np.float64) / length)
    return np.concatenate(parts)


def _check(records: Sequence[BlockRecord]) -> None:
    if not records:
        raise InputError("a measurement needs at least one stored block, got none")
    blocks = [record.identity.block for record in records]
    if len(set(blocks)) != len(blocks):
        raise InputError("a measurement must hold every seed block once, got one twice")
    # A block's prompts are its own, as its seeds are; their length is common.
    own = {"block", "prompts"}
    common = records[0].identity.model_dump(exclude=own), records[0].prefix_length
    for record in records[1:]:
        if (record.identity.model_dump(exclude=own), record.prefix_length) != common:
            raise InputError("a measurement merges seed blocks of one plan in one setting only")
