"""Signals of tokens that allocation policies read: larger means, keep this token.

Legend: B sequences, L positions, N positions with a prediction, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.classifiers import Classifier
from schedlab.errors import InputError
from schedlab.plan.guidance import Guidance
from schedlab.sampling.guidance import Pull, ablation_drop, soft_embeddings, targets_of
from schedlab.sampling.noise import SequenceIds

At = tuple[Tensor, Tensor]


@dataclass
class Signals:
    """What may be read of a step; `previous_BLV` is kept for `change` alone."""

    guidance: Guidance | None
    guides: Mapping[str, Classifier]
    previous_BLV: Tensor | None = None

    def of_step(
        self,
        kind: str,
        logits_NV: Tensor,
        at: At,
        tokens_BL: Tensor,
        ids: SequenceIds,
        t: float,
        pull: Pull | None,
    ) -> Tensor:
        """A signal at every position, float64 (B, L), zeros where there is none.

        Args:
            kind: see `Allocation.signal`.
            logits_NV, at: the prediction, after guidance.
            tokens_BL: tokens where there is no prediction.
            ids: the sequences.
            t: common noise level.
            pull: of this step's guidance, if it is guided.
        """
        empty_BL = torch.zeros(tokens_BL.shape, dtype=torch.float64, device=tokens_BL.device)
        if kind == "none":
            return empty_BL
        if kind == "gradient":
            return empty_BL if pull is None else pull.norm_BL
        p_NV = logits_NV.softmax(-1)
        if kind == "ablation":
            return self._ablation(p_NV, at, tokens_BL, ids, t)
        empty_BL[at] = self._of_predictions(kind, p_NV, at, tokens_BL.shape)
        return empty_BL

    def _of_predictions(self, kind: str, p_NV: Tensor, at: At, shape: torch.Size) -> Tensor:
        if kind == "entropy":
            return torch.special.entr(p_NV).sum(-1).neg().double()
        if kind == "margin":
            top_N2 = p_NV.topk(2, dim=-1).values
            return (top_N2[:, 0] - top_N2[:, 1]).double()
        if self.previous_BLV is None:
            self.previous_BLV = torch.zeros((*shape, p_NV.shape[1]), device=p_NV.device)
            self.previous_BLV[at] = p_NV
            return torch.zeros(len(p_NV), dtype=torch.float64, device=p_NV.device)
        moved_N = (p_NV - self.previous_BLV[at]).abs_().sum(-1) / 2
        self.previous_BLV[at] = p_NV
        return moved_N.neg().double()

    def _ablation(
        self, p_NV: Tensor, at: At, tokens_BL: Tensor, ids: SequenceIds, t: float
    ) -> Tensor:
        assert self.guidance is not None, "checked by `check_signal`"
        total_BL = torch.zeros(tokens_BL.shape, dtype=torch.float64, device=tokens_BL.device)
        attributes = self.guidance.attributes
        targets = targets_of(attributes, self.guides, ids)
        for attribute, target_B in zip(attributes, targets, strict=True):
            guide = self.guides[attribute.classifier]
            e_BLD = soft_embeddings(guide, p_NV, at, tokens_BL)
            total_BL += attribute.weight * ablation_drop(guide, e_BLD, target_B, t)
        return total_BL


def check_signal(kind: str, guidance: Guidance | None, *, say: Callable[[str], str]) -> None:
    """Refuse a signal that comes of guidance where there is none.

    Args:
        kind: of the signal.
        guidance: of the plan.
        say: what the message begins with, from the problem.
    """
    if kind in ("gradient", "ablation") and guidance is None:
        raise InputError(
            say(f"signal {kind!r} comes of guidance; add a guidance table, or another signal")
        )
    if kind == "gradient" and guidance is not None and guidance.iterations == 0:
        raise InputError(
            say("signal 'gradient' needs guidance.iterations of at least 1; a scale of 0 takes"
                " gradients and moves nothing")
        )  # fmt: skip
