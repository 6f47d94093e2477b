"""How many threads the networks of this process should use: measured, not assumed.

Networks as narrow as the bundled ones lose more to synchronising threads than they gain, all the
more on cores that others use too: with two threads on two busy cores a step was 10 times slower.
"""

from __future__ import annotations

import time

import torch

from schedlab.denoisers.base import Denoiser

MIN_GAIN = 1.15
_REPEATS = 3


def choose_threads(denoiser: Denoiser, length: int, *, batch_size: int = 32) -> int:
    """Set and return the number of threads: all of them if that is clearly faster, else one."""
    most = torch.get_num_threads()
    if most == 1:
        return 1
    z_BL = torch.zeros((batch_size, length), dtype=torch.int64)
    seconds = {}
    for threads in (most, 1):
        torch.set_num_threads(threads)
        seconds[threads] = _fastest_forward(denoiser, z_BL)
    if seconds[1] > MIN_GAIN * seconds[most]:
        torch.set_num_threads(most)
    return torch.get_num_threads()


@torch.inference_mode()
def _fastest_forward(denoiser: Denoiser, z_BL: torch.Tensor) -> float:
    denoiser.features(z_BL)
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        denoiser.features(z_BL)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
