"""At which noise levels held-out text is noised, and which step each level speaks for.

With at least as many levels as steps every step k has its own level t_k (and further levels lie
between, for the curves). With fewer, the steps are cut into strata of neighbours; every sequence
draws one step of each stratum, so that sums over a stratum are estimated without bias and its
steps share one score.

Legend: S sequences, K levels, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from schedlab.plan import segment_bounds
from schedlab.processes import uniform_grid
from schedlab.sampling import Purpose, SequenceIds, uniforms


@dataclass(frozen=True)
class NoiseLevels:
    """`num_levels` levels (or strata) for `num_steps` steps of the uniform grid.

    `num_levels` is at most `num_steps`, or a multiple of it.
    """

    num_steps: int
    num_levels: int

    @cached_property
    def _refinement(self) -> int:
        """Cells per step on the grid that all levels lie on."""
        return max(1, self.num_levels // self.num_steps)

    @cached_property
    def _bounds_K1(self) -> Tensor:
        return torch.tensor(segment_bounds(self.num_levels, self.num_steps * self._refinement))

    def draw(self, ids: SequenceIds) -> tuple[Tensor, Tensor]:
        """Noise level for every sequence and level, and where a step starts.

        Returns:
            t_SK: float64 (S, K), falling along K.
            at_step_SK: bool (S, K).
        """
        device = ids.seed_B.device
        bounds_K1 = self._bounds_K1.to(device)
        level_K = torch.arange(self.num_levels, device=device)
        u_SK = uniforms(ids, Purpose.LEVEL, level_K)
        cell_SK = bounds_K1[:-1] + (u_SK * bounds_K1.diff()).long()
        grid_F1 = uniform_grid(self.num_steps * self._refinement).to(device)
        return grid_F1[cell_SK], cell_SK % self._refinement == 0

    @cached_property
    def mean_t_K(self) -> Tensor:
        """Where on a curve each level stands: the mean over its stratum, float64 (K,)."""
        grid_F = uniform_grid(self.num_steps * self._refinement)[:-1]
        pairs = zip(self._bounds_K1[:-1].tolist(), self._bounds_K1[1:].tolist(), strict=True)
        return torch.stack([grid_F[first:last].mean() for first, last in pairs])

    @cached_property
    def level_of_step_T(self) -> Tensor:
        """Index of the level that speaks for each step, int64 (T,)."""
        cell_T = torch.arange(self.num_steps) * self._refinement
        return torch.searchsorted(self._bounds_K1, cell_T, right=True) - 1
