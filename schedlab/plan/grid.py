"""Time grids with free points: what a search over them chooses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schedlab.errors import InputError
from schedlab.plan.plan import TimeGrid

GRID_POLICIES = ("ancestral", "psi")
"""Policies whose steps lie where a time grid says."""

_DIGITS = 6


def spread_grid(increments: Sequence[float], num_steps: int) -> TimeGrid:
    """Levels of a plan's `time_grid` from how far t falls in every part of the run [O].

    Falling for any positive increments, and equal ones give the uniform grid: a monotone
    parametrisation. Within a part t falls evenly.

    Args:
        increments: one for each of equal parts of the steps; their sum does not matter.
        num_steps: T.

    Returns:
        T levels from 1 on, rounded, all above 0; `uniform` for equal increments.

    Raises:
        InputError: no increments, or one that is not positive.
    """
    if not increments or min(increments) <= 0 or num_steps < 1:
        raise InputError(f"increments must be some and positive, got {list(increments)}")
    if len(set(increments)) == 1:
        return "uniform"
    fallen = np.concatenate(([0.0], np.cumsum(increments))) / np.sum(increments)
    place = np.arange(num_steps) / num_steps
    levels = 1.0 - np.interp(place, np.linspace(0.0, 1.0, len(fallen)), fallen)
    return [max(round(float(t), _DIGITS), 10.0**-_DIGITS) for t in levels]
