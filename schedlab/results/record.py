"""The stored unit of evaluation: one plan on one seed block.

A record is self-contained: what was evaluated (its identity, whose digest is the store's key), the
tokens, per-sequence scores, what each denoiser was asked for and what a request costs.
Measurements are merged from records without any network at hand.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field

from schedlab.files import Record, canonical_json, sha256_text
from schedlab.plan import Plan
from schedlab.results.seed_block import SeedBlock

Count = Annotated[int, Field(ge=0)]


class RoleUsage(Record):
    """What one denoiser was asked for, per sequence of the block.

    Args:
        forwards: calls.
        head_positions: positions that the head read.
        positions: positions that its blocks computed; None where every call computes all.
    """

    forwards: list[Count]
    head_positions: list[Count]
    positions: list[Count] | None = None


class RoleCost(Record):
    """What a request to one denoiser costs.

    Args:
        num_blocks: transformer blocks of one forward.
        block_flops: FLOPs of all blocks in one forward of one sequence of the plan's length, and
            of its shadows where the policy has any.
        head_flops: FLOPs of the LM head at one position.
    """

    num_blocks: Count
    block_flops: Count
    head_flops: Count


class Identity(Record):
    """Everything that determines a record's tokens and scores; the batch size does not.

    Args:
        plan: the plan.
        block: the sequences.
        denoisers: fingerprint of every denoiser that the plan uses, by role.
        tokenizer, scorer: fingerprints.
        prompts: digest of the block's given prefixes; None for unconditional samples.
        precision: dtype of the networks.
        device: what rounds, such as `cpu`, `cuda` or `cpu compiled`.
        engine: version of the sampling engine.
        metrics: version of every per-sequence metric.
        classifiers: fingerprints of the classifiers that guide the plan and of the judges.
    """

    plan: Plan
    block: SeedBlock
    denoisers: dict[str, str]
    tokenizer: str
    scorer: str
    prompts: str | None
    precision: str
    device: str
    engine: int
    metrics: dict[str, int]
    classifiers: dict[str, str] = {}

    @pydantic.model_serializer(mode="wrap")
    def _described(self, handler: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without classifiers where there are none: keys stay as they were before there were."""
        found: dict[str, Any] = handler(self)
        if not self.classifiers:
            found.pop("classifiers", None)
        return found

    @cached_property
    def key(self) -> str:
        """SHA-256 of the canonical JSON: the name of the record in the store."""
        return sha256_text(canonical_json(self.model_dump(mode="json")))


class BlockRecord(Record):
    """What evaluating one plan on one seed block gave.

    Args:
        identity: what was evaluated.
        prefix_length: given tokens P at the start of every sequence.
        tokens: the final tokens, prefix included, one list of L per sequence.
        scores: per-sequence values by metric name; None where a metric is undefined.
        usage: requests to each denoiser that ran.
        costs: price of a request to each denoiser of the plan.
        seconds: wall time of each sequence (see `schedlab.evaluation.evaluate`).
    """

    format: Literal["schedlab.block"] = "schedlab.block"
    version: Literal[1] = 1
    identity: Identity
    prefix_length: Count
    tokens: list[list[Count]]
    scores: dict[str, list[float | None]]
    usage: dict[str, RoleUsage]
    costs: dict[str, RoleCost]
    seconds: list[Annotated[float, Field(ge=0)]]

    @property
    def key(self) -> str:
        """Name of the record in the store."""
        return self.identity.key

    @pydantic.model_validator(mode="after")
    def _one_entry_per_sequence(self) -> Self:
        size, length = self.identity.block.size, self.identity.plan.length
        columns: dict[str, list[Any]] = {"tokens": self.tokens, "seconds": self.seconds}
        columns |= {f"scores.{name}": column for name, column in self.scores.items()}
        for role, usage in self.usage.items():
            columns[f"usage.{role}.forwards"] = usage.forwards
            columns[f"usage.{role}.head_positions"] = usage.head_positions
            if usage.positions is not None:
                columns[f"usage.{role}.positions"] = usage.positions
        for name, column in columns.items():
            if len(column) != size:
                raise ValueError(f"{name} must hold {size} sequences, got {len(column)}")
        if any(len(row) != length for row in self.tokens):
            raise ValueError(f"every sequence must hold the plan's {length} tokens")
        if self.prefix_length >= length:
            raise ValueError(f"prefix_length must be below {length}, got {self.prefix_length}")
        if unpriced := sorted(set(self.usage) - set(self.costs)):
            raise ValueError(f"costs must name every denoiser that ran, not {unpriced[0]!r}")
        return self
