"""WINO (Hong et al., 2507.18578) [P]: wide in, narrow out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.policies.commit import (
    CommitPolicy,
    CommitView,
    Decision,
    History,
    best,
    with_best,
)


@dataclass(frozen=True)
class Wino(CommitPolicy):
    """Commits tokens of confidence above a low `threshold`, and takes committed ones back whose
    shadow, which does not see them, gives them less than `keep`.

    A call takes back fewer tokens than the call before it committed, the least probable first, so
    a block of K tokens takes K calls at most: committed minus taken back, summed over calls, is at
    least their number. Nothing is taken back where a single token is committed [C].

    Args:
        threshold: tau_1.
        keep: tau_2.
        share, fewest, most: a call commits at most `share` of the masks, but `fewest` whatever
            they are, and never more than `most` [C].
    """

    threshold: float = 0.6
    keep: float = 0.9
    share: float = 0.7
    fewest: int = 5
    most: int = 20
    revises: ClassVar[bool] = True
    shadowed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.fewest <= self.most:
            raise InputError(
                f"fewest must be at least 1 and at most most, got {self.fewest} and {self.most}"
            )

    def start(self, masked_BK: Tensor) -> History:
        """Nothing accepted yet."""
        B = len(masked_BK)
        return {"accepted": torch.zeros(B, dtype=torch.int64, device=masked_BK.device)}

    def commit(self, view: CommitView) -> Decision:
        """The confident ones go in, those that do not hold go out."""
        confidence_BK = view.confidence_BK
        room_B = (self.share * view.masked_BK.sum(dim=-1)).long().clamp(self.fewest, self.most)
        wide_BK = with_best(confidence_BK > self.threshold, view)
        commit_BK = best(confidence_BK, wide_BK, room_B)
        accepted_B = commit_BK.sum(dim=-1)
        back_B = torch.where(accepted_B > 1, view.history["accepted"] - 1, 0)
        weak_BK = view.judged_BK & ~view.masked_BK & (confidence_BK < self.keep)
        remask_BK = best(-confidence_BK, weak_BK, back_B)
        return Decision(commit_BK, {"accepted": accepted_B}, remask_BK=remask_BK)
