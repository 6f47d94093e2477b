"""Noise schedules: alpha_t, the probability that a token is still clean at noise level t.

alpha(0) = 1, alpha(1) = 0. Samplers and bounds use the linear schedule; `log_linear` reproduces
the published convention of MDLM (arXiv 2406.07524), whose prior is not quite all masks.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from schedlab.errors import InputError

AlphaFn = Callable[[Tensor], Tensor]

LOG_LINEAR_EPS = 1e-3


def linear(t: Tensor) -> Tensor:
    """alpha_t = 1 - t."""
    return 1.0 - t


def log_linear(t: Tensor) -> Tensor:
    """alpha_t = 1 - (1 - eps) t with eps = 1e-3 [C, MDLM]."""
    return 1.0 - (1.0 - LOG_LINEAR_EPS) * t


NOISE_SCHEDULES: dict[str, AlphaFn] = {"linear": linear, "log_linear": log_linear}


def alpha(name: str) -> AlphaFn:
    """The noise schedule of that name, as a function t -> alpha_t of float64 tensors."""
    if name not in NOISE_SCHEDULES:
        raise InputError(f"noise schedule {name!r} is unknown; known: {sorted(NOISE_SCHEDULES)}")
    return NOISE_SCHEDULES[name]
