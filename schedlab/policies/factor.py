"""Fast-dLLM's factor rule (Wu et al., 2505.22618) [C]."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from schedlab.policies.commit import (
    CommitPolicy,
    CommitView,
    Decision,
    sorted_prefix,
    with_best,
)


@dataclass(frozen=True)
class Factor(CommitPolicy):
    """Commits the longest run of most confident tokens that all have (n + 1)(1 - c_n) <= `factor`,
    n the place in the run."""

    factor: float = 1.0

    def commit(self, view: CommitView) -> Decision:
        """The longest run."""
        sorted_BK, order_BK = view.confidence_BK.sort(dim=-1, descending=True, stable=True)
        n_K = torch.arange(1, sorted_BK.shape[1] + 1, device=sorted_BK.device)
        kept_BK = (n_K + 1) * (1.0 - sorted_BK) <= self.factor
        return Decision(with_best(sorted_prefix(kept_BK, order_BK), view), {})
