"""What a pass over noisy states leaves: metrics summed per sequence and noise level.

Everything reported is a ratio of means over sequences of these sums, so that intervals come from
resampling sequences.

Legend: S sequences, K levels, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class SequenceSums:
    """Sums over the positions that are compared (see `readings`), per sequence and level; names
    are those of the masked process.

    Args:
        metrics: nats, (S, K), by `metric/roles`; see `divergences.position_stats`.
        masked_SK: how many positions they were summed over.
        weight_SK: share of a position in the bound of the step that starts at the level, in the
            masked process the reveal probability r_k; 0 if no step does.
        t_K: noise level of each column, falling.
        level_of_step_T: the column that speaks for each step.
        num_free: positions of a sequence that are generated (not given as prefix).
    """

    metrics: dict[str, FloatArray]
    masked_SK: FloatArray
    weight_SK: FloatArray
    t_K: FloatArray
    level_of_step_T: NDArray[np.int64]
    num_free: int

    def per_step(self, name: str) -> FloatArray:
        """A metric's share in the bound: r_k times its sum, nats per generated token, (S, T)."""
        weighted_SK = self.weight_SK * self.metrics[name]
        return weighted_SK[:, self.level_of_step_T] / self.num_free

    def arrays(self, prefix: str) -> dict[str, FloatArray]:
        """All arrays by `prefix/name`, for storage."""
        named = {f"{prefix}/{name}": array for name, array in self.metrics.items()}
        return named | {
            f"{prefix}/masked": self.masked_SK,
            f"{prefix}/reveal_prob": self.weight_SK,
            f"{prefix}/t": self.t_K,
        }


def with_relative_kl(
    metrics: dict[str, FloatArray], *, heavy: str, lights: tuple[str, ...], heavy_b: str | None
) -> dict[str, FloatArray]:
    """Add KL(heavy || light) minus KL(heavy || heavy_b), on the same states, where both are."""
    if heavy_b is None:
        return metrics
    floor_SK = metrics[f"kl_heavy_light/{heavy}/{heavy_b}"]
    relative = {
        f"relative_kl/{heavy}/{light}": metrics[f"kl_heavy_light/{heavy}/{light}"] - floor_SK
        for light in lights
    }
    return metrics | relative
