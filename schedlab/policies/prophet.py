"""Prophet's early commit (Li et al., 2508.19982) [P]: once the answer is clear, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from schedlab.policies.commit import (
    CommitPolicy,
    CommitView,
    Decision,
    Statistic,
    best,
    even_reads,
    even_share,
)


@dataclass(frozen=True)
class Prophet(CommitPolicy):
    """Commits LLaDA's even share, and the whole block as soon as the mean difference of the two
    largest logits at its masks passes a threshold: `early`, `middle` or `late`, by thirds of the
    block's calls."""

    block_length: int = 0
    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5
    needs: ClassVar[tuple[Statistic, ...]] = ("gap",)
    by_share: ClassVar[bool] = False

    def reads(self, masks: int, num_calls: int) -> list[int]:
        """At most those of the even share."""
        return even_reads(masks, num_calls)

    def commit(self, view: CommitView) -> Decision:
        """The even share, or everything."""
        assert view.gap_BK is not None
        masked_BK = view.masked_BK
        mean_B = (view.gap_BK * masked_BK).sum(dim=-1) / masked_BK.sum(dim=-1)
        third_B = (3 * view.call_B // view.num_calls).clamp(max=2)
        threshold_3 = torch.tensor(
            (self.early, self.middle, self.late), dtype=torch.float64, device=mean_B.device
        )
        clear_B1 = (mean_B >= threshold_3[third_B])[:, None]
        share_BK = best(view.confidence_BK, masked_BK, even_share(view))
        return Decision(masked_BK & (clear_B1 | share_BK), {})
