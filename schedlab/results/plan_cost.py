"""What a plan costs before it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PlanCost:
    """Cost of one sequence under a plan, known before running.

    Args:
        forwards: expected forwards per role; a step that reveals nothing in a sequence needs none.
        block_forwards: expected transformer blocks run, over all roles.
        flops_blocks: expected FLOPs of the blocks.
        flops_total: expected FLOPs of blocks and heads, the head at revealed positions only.
        nominal_forwards: steps per role, the paper's convention (a forward at every step).
        nominal_block_forwards: transformer blocks run by that convention.
        nominal_flops_blocks: FLOPs of the blocks by that convention.
        nominal_flops_total: those and the head at every position of every step, as samplers do
            that neither skip idle steps nor restrict the head.
    """

    forwards: Mapping[str, float]
    block_forwards: float
    flops_blocks: float
    flops_total: float
    nominal_forwards: Mapping[str, int]
    nominal_block_forwards: int
    nominal_flops_blocks: int
    nominal_flops_total: int

    def saved(self, reference: PlanCost, measure: str) -> float:
        """Share saved against `reference` in one of the measures, such as `flops_total`."""
        whole = getattr(reference, measure)
        return 1.0 - getattr(self, measure) / whole if whole else 0.0
