"""The sampling loop and its addressed randomness."""

from schedlab.sampling.noise import Purpose, SequenceIds, gumbels, uniforms
from schedlab.sampling.sampler import State, Usage, advance, check_roles, sample, start

__all__ = [
    "Purpose",
    "SequenceIds",
    "State",
    "Usage",
    "advance",
    "check_roles",
    "gumbels",
    "sample",
    "start",
    "uniforms",
]
