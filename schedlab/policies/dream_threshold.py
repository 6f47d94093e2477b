"""Fast-dLLM's confidence threshold as it has it for Dream (Wu et al., 2505.22618) [C]."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from schedlab.policies.commit import CommitPolicy, CommitView, Decision, best, with_best


@dataclass(frozen=True)
class DreamThreshold(CommitPolicy):
    """Commits the even share of the most confident, of which those below `threshold` wait; the
    most confident is always committed.

    What waited is added to the share of the next call, and calls go on behind the last one of the
    plan's steps until nothing is left: after c calls all that is due is the sum of c even shares.
    Shares that do not divide the masks have their remainder in the first calls [O]: the released
    code refuses them.
    """

    block_length: int = 0
    threshold: float = 0.9
    tempered: ClassVar[bool] = True

    def commit(self, view: CommitView) -> Decision:
        """Those of the share that reach the threshold."""
        calls_B = (view.call_B + 1).clamp(max=view.num_calls)
        share, more = view.masks_B // view.num_calls, view.masks_B % view.num_calls
        due_B = calls_B * share + calls_B.minimum(more)
        done_B = view.masks_B - view.masked_BK.sum(dim=-1)
        chosen_BK = best(view.confidence_BK, view.masked_BK, due_B - done_B)
        return Decision(with_best(chosen_BK & (view.confidence_BK >= self.threshold), view), {})
