"""Fast-dLLM's confidence threshold (Wu et al., 2505.22618) [C]."""

from __future__ import annotations

from dataclasses import dataclass

from schedlab.policies.commit import CommitPolicy, CommitView, Decision, with_best


@dataclass(frozen=True)
class Threshold(CommitPolicy):
    """Commits every token of confidence at least `threshold`, and always the most confident."""

    threshold: float = 0.9

    def commit(self, view: CommitView) -> Decision:
        """Those above the threshold."""
        return Decision(with_best(view.confidence_BK >= self.threshold, view), {})
