"""The sampling loop and its addressed randomness."""

from schedlab.sampling.decode import decode
from schedlab.sampling.dense import DenseStep, check_dense, sample_dense
from schedlab.sampling.events import Work, sample_events
from schedlab.sampling.lanes import Sampled
from schedlab.sampling.noise import Purpose, SequenceIds, gumbels, uniforms
from schedlab.sampling.plans import sample_plans
from schedlab.sampling.sampler import State, Usage, advance, check_roles, sample, start

__all__ = [
    "DenseStep",
    "Purpose",
    "Sampled",
    "SequenceIds",
    "State",
    "Usage",
    "Work",
    "advance",
    "check_dense",
    "check_roles",
    "decode",
    "gumbels",
    "sample",
    "sample_dense",
    "sample_events",
    "sample_plans",
    "start",
    "uniforms",
]
