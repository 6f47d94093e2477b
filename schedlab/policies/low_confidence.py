"""LLaDA's low-confidence remasking (Nie et al., 2502.09992) [C]: the most confident are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schedlab.policies.commit import (
    CommitPolicy,
    CommitView,
    Decision,
    best,
    even_reads,
    even_share,
)


@dataclass(frozen=True)
class LowConfidence(CommitPolicy):
    """Every call commits its even share of the block, the most confident tokens first."""

    by_share: ClassVar[bool] = False

    def reads(self, masks: int, num_calls: int) -> list[int]:
        """Known: as many calls as there are masks need at most."""
        return even_reads(masks, num_calls)

    def commit(self, view: CommitView) -> Decision:
        """The most confident ones."""
        return Decision(best(view.confidence_BK, view.masked_BK, even_share(view)), {})
