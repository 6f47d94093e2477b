"""Noise schedules: alpha_t, the share of the clean token that is left at noise level t.

In the masked process it is the probability that a token is still clean, in the simplex process
the squared share of the signal (the papers' abar_t). alpha(0) = 1, alpha(1) = 0. Masked samplers
and bounds use the linear schedule; `log_linear` reproduces the published convention of MDLM (arXiv
2406.07524), whose prior is not quite all masks; `cosine` is that of the simplex models.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from schedlab.errors import InputError

AlphaFn = Callable[[Tensor], Tensor]

LOG_LINEAR_EPS = 1e-3
COSINE_OFFSET = 1e-4


def linear(t: Tensor) -> Tensor:
    """alpha_t = 1 - t."""
    return 1.0 - t


def log_linear(t: Tensor) -> Tensor:
    """alpha_t = 1 - (1 - eps) t with eps = 1e-3 [C, MDLM]."""
    return 1.0 - (1.0 - LOG_LINEAR_EPS) * t


def cosine(t: Tensor) -> Tensor:
    """f(t) / f(0) with f(t) = cos^2((t + 1e-4) / (1 + 1e-4) * pi / 2) [C, SSD-LM, TESS, TTA]."""
    return _squared_cosine(t) / math.cos(COSINE_OFFSET / (1 + COSINE_OFFSET) * math.pi / 2) ** 2


def _squared_cosine(t: Tensor) -> Tensor:
    angle = (t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * (math.pi / 2)
    return angle.cos().square()


def linear_level(share: Tensor) -> Tensor:
    """The t at which `linear` is `share`."""
    return 1.0 - share


def log_linear_level(share: Tensor) -> Tensor:
    """The t at which `log_linear` is `share`, at most 1."""
    return ((1.0 - share) / (1.0 - LOG_LINEAR_EPS)).clamp(max=1.0)


def cosine_level(share: Tensor) -> Tensor:
    """The t at which `cosine` is `share`."""
    first = math.cos(COSINE_OFFSET / (1 + COSINE_OFFSET) * math.pi / 2)
    angle = (share.sqrt() * first).clamp(-1.0, 1.0).arccos()
    return (angle * (2 / math.pi) * (1 + COSINE_OFFSET) - COSINE_OFFSET).clamp(0.0, 1.0)


NOISE_SCHEDULES: dict[str, AlphaFn] = {
    "linear": linear,
    "log_linear": log_linear,
    "cosine": cosine,
}


LEVELS: dict[str, AlphaFn] = {
    "linear": linear_level,
    "log_linear": log_linear_level,
    "cosine": cosine_level,
}
"""The inverse of every noise schedule."""


def level(name: str) -> AlphaFn:
    """The inverse of the noise schedule of that name, alpha -> t."""
    alpha(name)  # its error is the same
    return LEVELS[name]


def alpha(name: str) -> AlphaFn:
    """The noise schedule of that name, as a function t -> alpha_t of float64 tensors."""
    if name not in NOISE_SCHEDULES:
        raise InputError(f"noise schedule {name!r} is unknown; known: {sorted(NOISE_SCHEDULES)}")
    return NOISE_SCHEDULES[name]
