"""How many threads the networks of this process should use: measured, not assumed.

Networks as narrow as the bundled ones lose more to synchronising threads than they gain, all the
more on cores that others use too: with two threads on two busy cores a step was 10 times slower.
"""

from __future__ import annotations

import time

import torch

from schedlab.denoisers.base import Denoiser, features_at
from schedlab.sampling.forwards import call_rows

MIN_GAIN = 1.15
_REPEATS = 3


def choose_threads(denoiser: Denoiser, length: int) -> int:
    """Set and return the number of threads: all of them if that is clearly faster, else one."""
    most = torch.get_num_threads()
    if most == 1:
        return 1
    z = _some_state(denoiser, length)
    seconds = {}
    for threads in (most, 1):
        torch.set_num_threads(threads)
        seconds[threads] = _fastest_forward(denoiser, z)
    if seconds[1] > MIN_GAIN * seconds[most]:
        torch.set_num_threads(most)
    return torch.get_num_threads()


def _some_state(denoiser: Denoiser, length: int) -> torch.Tensor:
    """States of as many sequences as a call has: tokens (B, L), or a point of the simplex for each
    of them, (B, L, V)."""
    shape = (call_rows(length, torch.device("cpu")), length)
    if denoiser.spec.process == "simplex":
        return torch.zeros((*shape, denoiser.spec.vocab_size))
    return torch.zeros(shape, dtype=torch.int64)


@torch.inference_mode()
def _fastest_forward(denoiser: Denoiser, z: torch.Tensor) -> float:
    t_B = torch.ones(len(z))
    features_at(denoiser, z, t_B)
    seconds = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        features_at(denoiser, z, t_B)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)
