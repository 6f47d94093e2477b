"""The entropy-bounded sampler EB (Ben-Hamu et al., 2505.24857) [P]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from schedlab.policies.commit import (
    CommitPolicy,
    CommitView,
    Decision,
    Statistic,
    sorted_prefix,
    with_best,
)


@dataclass(frozen=True)
class EntropyBound(CommitPolicy):
    """Commits the largest run of surest tokens whose entropies, the largest left out, add up to at
    most `gamma`: that bounds what committing them together costs."""

    gamma: float = 0.1
    needs: ClassVar[tuple[Statistic, ...]] = ("entropy",)

    def commit(self, view: CommitView) -> Decision:
        """The largest run."""
        assert view.entropy_BK is not None
        entropy_BK = view.entropy_BK.masked_fill(~view.masked_BK, torch.inf)
        sorted_BK, order_BK = entropy_BK.sort(dim=-1, stable=True)
        # Sorted, so the largest of a run is its last: the sum of those before it.
        before_BK = F.pad(sorted_BK.cumsum(dim=-1)[:, :-1], (1, 0))
        return Decision(with_best(sorted_prefix(before_BK <= self.gamma, order_BK), view), {})
