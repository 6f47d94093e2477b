"""Time grids: the noise levels 1 = t_0 > t_1 > ... > t_T = 0 that a sampler visits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from schedlab.errors import InputError
from schedlab.processes.noise_schedule import AlphaFn


def uniform_grid(num_steps: int) -> Tensor:
    """t_k = 1 - k / T, float64 (T + 1,), ending at exactly 0."""
    if num_steps < 1:
        raise InputError(f"number of steps must be >= 1, got {num_steps}")
    return 1.0 - torch.arange(num_steps + 1, dtype=torch.float64) / num_steps


def tess_grid(num_steps: int) -> Tensor:
    """(T - 1 - k) / T and 0 again, float64 (T + 1,): the denoiser is called at (T - 1)/T, ..., 0.

    The grid of TESS's and TTA's code [C], for the simplex process: the noise of the prior is taken
    for level (T - 1)/T, and the last call reads what the one before drew, without noise.
    """
    if num_steps < 1:
        raise InputError(f"number of steps must be >= 1, got {num_steps}")
    levels_T1 = torch.arange(num_steps - 1, -2, -1, dtype=torch.float64) / num_steps
    return levels_T1.clamp(min=0.0)


def plateau_grid(
    num_steps: int, level: float, *, high_share: float, middle_share: float, last: float = 1e-5
) -> list[float]:
    """Levels that fall from 1 to `level` over a share of the steps, stay there over the next, and
    fall to `last` over the rest: for `time_grid` of a plan.

    The profile `linear-constant-linear` of psi samplers [C, DUO, chapter II], where `level` of
    `-inv` is the t at which alpha_t is the number in its name.
    """
    if not 0 < last <= level <= 1 or num_steps < 1:
        raise InputError(
            f"a plateau must lie in [{last}, 1] and have a step, got {level} and {num_steps}"
        )
    high, middle = round(high_share * num_steps), round(middle_share * num_steps)
    low = num_steps - high - middle
    if min(high, middle, low) < 0:
        raise InputError(f"shares must not exceed 1, got {high_share} and {middle_share}")

    def line(first: float, end: float, num: int) -> list[float]:
        return [first + (end - first) * k / max(1, num - 1) for k in range(num)]

    return [*line(1.0, level, high), *[level] * middle, *line(level, last, low)]


TIME_GRIDS: dict[str, Callable[[int], Tensor]] = {"uniform": uniform_grid, "tess": tess_grid}


def time_grid(grid: str | Sequence[float], num_steps: int) -> Tensor:
    """The grid of that name with `num_steps` steps, or of these levels and 0, float64 (T + 1,)."""
    if not isinstance(grid, str):
        if len(grid) != num_steps:
            raise InputError(
                f"a time grid of {num_steps} steps has as many levels, not {len(grid)}"
            )
        return torch.tensor([*grid, 0.0], dtype=torch.float64)
    if grid not in TIME_GRIDS:
        raise InputError(f"time grid {grid!r} is unknown; known: {sorted(TIME_GRIDS)}")
    return TIME_GRIDS[grid](num_steps)


def reveal_probs(alpha: AlphaFn, grid_T1: Tensor) -> Tensor:
    """Probability r_k that step k reveals a position which is still masked, float64 (T,).

    r_k = (alpha_s - alpha_t) / (1 - alpha_t), t = t_k, s = t_{k+1} (MDLM, arXiv 2406.07524, Eq.
    6).
    """
    alpha_T1 = alpha(grid_T1)
    return (alpha_T1[1:] - alpha_T1[:-1]) / (1.0 - alpha_T1[:-1])
