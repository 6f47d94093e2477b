"""Noising processes, noise schedules and time grids."""

from schedlab.processes.masked import MaskedProcess
from schedlab.processes.noise_schedule import NOISE_SCHEDULES, alpha
from schedlab.processes.time_grid import TIME_GRIDS, reveal_probs, time_grid, uniform_grid

__all__ = [
    "NOISE_SCHEDULES",
    "TIME_GRIDS",
    "MaskedProcess",
    "alpha",
    "reveal_probs",
    "time_grid",
    "uniform_grid",
]
