"""Noising processes, noise schedules and time grids."""

from schedlab.errors import InputError
from schedlab.processes.masked import MaskedProcess
from schedlab.processes.noise_schedule import NOISE_SCHEDULES, alpha, level
from schedlab.processes.simplex import SimplexProcess
from schedlab.processes.time_grid import TIME_GRIDS, reveal_probs, time_grid, uniform_grid
from schedlab.processes.uniform import UniformProcess

Process = MaskedProcess | SimplexProcess | UniformProcess


def only_masked(process: Process, what: str) -> MaskedProcess:
    """The masked process, for what is made for it alone.

    Raises:
        InputError: another one.
    """
    if isinstance(process, MaskedProcess):
        return process
    raise InputError(f"{what} are for denoisers of the masked process; these are of another one")


__all__ = [
    "NOISE_SCHEDULES",
    "TIME_GRIDS",
    "MaskedProcess",
    "Process",
    "SimplexProcess",
    "UniformProcess",
    "alpha",
    "level",
    "only_masked",
    "reveal_probs",
    "time_grid",
    "uniform_grid",
]
