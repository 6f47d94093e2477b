"""Path planning P2, self-planning (Peng et al., 2502.03540) [P]: the best of all tokens stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schedlab.errors import InputError
from schedlab.policies.commit import CommitPolicy, CommitView, Decision, best


@dataclass(frozen=True)
class P2(CommitPolicy):
    """After every call the kappa best tokens of the block stand, kappa growing evenly over the
    calls; the others are masked (again). Scores: `eta` times the confidence of what would be
    committed, and the probability of what is, by the same prediction."""

    eta: float = 1.0
    by_share: ClassVar[bool] = False
    revises: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta < 0:
            raise InputError(f"eta must not be negative, got {self.eta}")

    def reads(self, masks: int, num_calls: int) -> list[int]:
        """All of the block, until kappa is all of it."""
        return [masks] * (num_calls - (num_calls - 1) // masks)

    def commit(self, view: CommitView) -> Decision:
        """The best of all, masked or not."""
        score_BK = view.confidence_BK.clone()
        score_BK[view.masked_BK] *= self.eta
        done_B = (view.call_B + 1).clamp(max=view.num_calls)
        kappa_B = -(-view.masks_B * done_B // view.num_calls)  # rounded up
        kept_BK = best(score_BK, view.judged_BK, kappa_B)
        return Decision(kept_BK & view.masked_BK, {}, remask_BK=~kept_BK & ~view.masked_BK)
