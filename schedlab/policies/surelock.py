"""SureLock (Oba et al., 2602.06412) [P]: tokens that stand still are computed no more.

A locked token's keys and values stay as they were last computed, for the others to read; it is no
query any more. The rule is the paper's. Ours [O], where its text leaves a choice: LLaDA's even
share beneath it; uncertainty is 1 minus the present probability of the token that stands there;
the least uncertain are counted among the committed tokens of the active block that are not locked
yet, rounded up. Locked tokens stay locked when their block is finished; those that are not, the
prompt and later blocks are computed at every call. Where another denoiser takes over it computes
everything once and locks remain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from schedlab.errors import InputError
from schedlab.policies.commit import CommitView, Decision, Statistic, best
from schedlab.policies.low_confidence import LowConfidence


@dataclass(frozen=True)
class SureLock(LowConfidence):
    """Commits as `low_confidence` does, and locks committed tokens whose prediction moved by at
    most `epsilon` nats since the call before (0 locks nothing), if they are among the `share`
    least uncertain ones."""

    epsilon: float = 5e-3
    share: float = 0.2
    needs: ClassVar[tuple[Statistic, ...]] = ("divergence",)
    locks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise InputError(f"epsilon must not be negative, got {self.epsilon}")
        if not 0 <= self.share <= 1:
            raise InputError(f"share must lie in [0, 1], got {self.share}")

    def reads(self, masks: int, num_calls: int) -> list[int]:
        """At most the whole block at every call."""
        return [masks] * len(super().reads(masks, num_calls))

    def commit(self, view: CommitView) -> Decision:
        """The even share, and the locks."""
        assert view.divergence_BK is not None
        committed_BK = view.judged_BK & ~view.masked_BK
        # Rounded up, but not 0.2 * 35, which is 7.000000000000001.
        count_B = (committed_BK.sum(dim=-1).double() * self.share - 1e-9).ceil().long()
        sure_BK = best(view.confidence_BK, committed_BK, count_B)
        still_BK = view.divergence_BK <= (self.epsilon or -torch.inf)
        return replace(super().commit(view), lock_BK=sure_BK & still_BK)
