"""KLASS (Kim et al., 2511.05664) [P]: confident and stable."""

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
    Statistic,
    best,
    even_share,
)


@dataclass(frozen=True)
class Klass(CommitPolicy):
    """Commits tokens of confidence above `threshold` whose prediction has moved by less than
    `epsilon` nats in each of the last `stable_calls` calls; where there are none, the even share
    of the most confident."""

    threshold: float = 0.9
    epsilon: float = 0.01
    stable_calls: int = 2
    needs: ClassVar[tuple[Statistic, ...]] = ("divergence",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stable_calls < 1:
            raise InputError(f"stable_calls must be positive, got {self.stable_calls}")

    def start(self, masked_BK: Tensor) -> History:
        """No stable calls yet."""
        return {"stable": torch.zeros_like(masked_BK, dtype=torch.int64)}

    def commit(self, view: CommitView) -> Decision:
        """The confident and stable ones."""
        assert view.divergence_BK is not None
        still_BK = view.divergence_BK < self.epsilon
        stable_BK = torch.where(still_BK, view.history["stable"] + 1, 0)
        chosen_BK = (
            view.masked_BK
            & (view.confidence_BK > self.threshold)
            & (stable_BK >= self.stable_calls)
        )
        none_B = ~chosen_BK.any(dim=-1)
        count_B = torch.where(none_B, even_share(view).clamp(min=1), 0)
        others_BK = best(view.confidence_BK, view.masked_BK, count_B)
        return Decision(chosen_BK | others_BK, {"stable": stable_BK})
