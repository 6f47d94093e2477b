"""What a policy sees that decides by predictions, and what it decides.

The loop calls the denoiser, predicts the masked positions of every sequence's active block and
asks which of them are committed with the token that was drawn for them. Blocks are finished from
left to right; a block as long as the text is no block at all. A policy is a frozen dataclass whose
fields are its parameters; what it remembers of a block goes in and comes out as tensors.

Policies know neither processes nor denoisers.

Legend: B sequences, K positions of the active block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from schedlab.errors import InputError

Statistic = Literal["margin", "gap", "entropy", "divergence", "products"]
History = Mapping[str, Tensor]
"""What a policy remembers of the active block, by name, (B, ...); new blocks start anew."""


@dataclass(frozen=True)
class CommitView:
    """Predictions of one call, at the masked positions of the active block.

    Args:
        masked_BK: which positions are masked.
        judged_BK: which positions were predicted: the masked ones, for policies that revise the
            committed ones of the block, and for those that lock the ones not locked; the rest of
            the fields mean something there only.
        token_BK: the token that the confidence is of.
        confidence_BK: probability of the token that would be committed, or of the likeliest one,
            as the policy says; of committed tokens that of the token itself; float64, -inf
            elsewhere.
        margin_BK: difference of the two largest probabilities, where it was asked for.
        gap_BK: the same of the two largest logits, where it was asked for.
        entropy_BK: of the prediction, in nats, where it was asked for.
        divergence_BK: KL of the prediction from that of the call before, in nats, infinite at the
            first call of a block, where it was asked for.
        products_BKK: inner products of the predicted probabilities at pairs of positions, 0 where
            either was not predicted, where they were asked for.
        call_B: calls that the block had before this one.
        num_calls: calls that a block is to be finished in, by the plan's steps.
        masks_B: masks that it had at its first call.
        history: what the policy returned at the call before.
    """

    masked_BK: Tensor
    judged_BK: Tensor
    token_BK: Tensor
    confidence_BK: Tensor
    margin_BK: Tensor | None
    gap_BK: Tensor | None
    entropy_BK: Tensor | None
    divergence_BK: Tensor | None
    products_BKK: Tensor | None
    call_B: Tensor
    num_calls: int
    masks_B: Tensor
    history: History


@dataclass(frozen=True)
class Decision:
    """What is committed, bool (B, K), what is remembered of the block, what is taken back, and
    which committed tokens are computed no more."""

    commit_BK: Tensor
    history: History
    remask_BK: Tensor | None = None
    lock_BK: Tensor | None = None


@dataclass(frozen=True)
class CommitPolicy:
    """Base of commit policies: what all of them are told. Fields are the policy's parameters.

    Args:
        block_length: K; 0 is the whole text.
        guidance: scale w of classifier-free guidance as LLaDA has it [C]: logits are
            u + (w + 1) (c - u), where u is predicted with the prompt masked; 0 is none, anything
            else costs a second forward a call.
        confidence: of which token: "drawn" is the one that would be committed, as the published
            samplers have it [C]; "likeliest" makes positions independent of what is drawn, so
            that texts have an exact likelihood (`schedlab.metrics.duel`). At temperature 0 the
            same.
        stop_at_end: whether a sequence is finished once its text, without a mask before it, has
            come to an end-of-text token: the masks behind are filled with that token. Tokens that
            a policy may still take back do not count. What has an end is what the tokenizer says.
        cache: what the first call of a block, which computes everything, is kept for by the
            others, as Fast-dLLM has it (2505.22618) [C]: "prefix" is what stands before the
            block, "dual" all but the block.

    Attributes:
        needs: statistics beside the confidence.
        by_share: the model schedule's steps are equal shares of the tokens instead of calls: for
            policies whose calls are not known beforehand.
        tempered: whether statistics are of the prediction after temperature and top-p.
        revises: whether committed tokens of the block are predicted too, and may be taken back.
        shadowed: whether they are predicted by shadows, K mask tokens more in every call, which do
            not see them (`schedlab.denoisers.shadows`).
        locks: whether they are predicted too, and may be locked: computed no more.
    """

    block_length: int = 32
    guidance: float = 0.0
    confidence: str = "drawn"
    stop_at_end: bool = False
    cache: str = "none"
    needs: ClassVar[tuple[Statistic, ...]] = ()
    by_share: ClassVar[bool] = True
    tempered: ClassVar[bool] = False
    revises: ClassVar[bool] = False
    shadowed: ClassVar[bool] = False
    locks: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("block_length", "guidance"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.confidence not in ("drawn", "likeliest"):
            raise InputError(f"confidence must be 'drawn' or 'likeliest', got {self.confidence!r}")
        if self.cache not in ("none", "prefix", "dual"):
            raise InputError(f"cache must be 'none', 'prefix' or 'dual', got {self.cache!r}")

        if self.shadowed and self.keeps:
            raise InputError(f"cache {self.cache!r}: shadows are computed anew at every call")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """`needs`, where they do not hang on parameters."""
        return self.needs

    @property
    def keeps(self) -> bool:
        """Whether calls compute some positions only, with what is kept of the others."""
        return self.locks or self.cache != "none"

    def block_size(self, free: int) -> int:
        """K of a text with so many free positions."""
        return min(self.block_length or free, free)

    def check_steps(self, num_steps: int, num_blocks: int) -> None:
        """Refuse steps that cannot be spread evenly over the blocks, where steps are calls."""
        if not self.by_share and num_steps % num_blocks:
            raise InputError(
                f"num_steps must be a multiple of the {num_blocks} blocks that the text has with"
                f" block_length {self.block_length}, got {num_steps}"
            )

    def reads(self, masks: int, num_calls: int) -> list[int]:
        """Positions that every call of a block reads, where steps are calls; at most."""
        raise NotImplementedError

    def start(self, masked_BK: Tensor) -> History:
        """What is remembered of a block before its first call."""
        return {}

    def commit(self, view: CommitView) -> Decision:
        """Which masked positions are committed; every sequence that has any must get on."""
        raise NotImplementedError


def best(score_BK: Tensor, masked_BK: Tensor, count_B: Tensor) -> Tensor:
    """The `count_B` masked positions of largest score, earlier ones first among equals."""
    score_BK = score_BK.masked_fill(~masked_BK, -torch.inf)
    order_BK = score_BK.argsort(dim=-1, descending=True, stable=True)
    rank_BK = order_BK.argsort(dim=-1)
    return masked_BK & (rank_BK < count_B[:, None])


def with_best(commit_BK: Tensor, view: CommitView) -> Tensor:
    """What is chosen, and the most confident position where nothing is."""
    none_B = ~(commit_BK & view.masked_BK).any(dim=-1)
    return (commit_BK & view.masked_BK) | best(view.confidence_BK, view.masked_BK, none_B.long())


def even_share(view: CommitView) -> Tensor:
    """How many to commit so that a block is finished in its calls, the remainder in the first
    ones [C, LLaDA]; (B,)."""
    more_B = view.call_B < view.masks_B % view.num_calls
    return view.masks_B // view.num_calls + more_B.long()


def even_reads(masks: int, num_calls: int) -> list[int]:
    """Positions that the calls of `even_share` read."""
    reads, left = list[int](), masks
    for call in range(min(num_calls, masks)):
        reads.append(left)
        left -= masks // num_calls + (call < masks % num_calls)
    return reads


def sorted_prefix(kept_BK: Tensor, order_BK: Tensor) -> Tensor:
    """Positions before the first that is not kept, in the given order; (B, K) by position."""
    prefix_BK = kept_BK.long().cumprod(dim=-1).bool()
    return torch.zeros_like(prefix_BK).scatter(-1, order_BK, prefix_BK)
