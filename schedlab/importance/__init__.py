"""Which denoising steps need the large model: curves, additive bounds, error propagation."""

from schedlab.importance.analyze import ImportanceResult, analyze
from schedlab.importance.forward_states import forward_sums
from schedlab.importance.heavy_states import heavy_sampler_sums
from schedlab.importance.levels import NoiseLevels
from schedlab.importance.panel import Panel
from schedlab.importance.propagation import SwapSums, swap_sums
from schedlab.importance.sums import SequenceSums

__all__ = [
    "ImportanceResult",
    "NoiseLevels",
    "Panel",
    "SequenceSums",
    "SwapSums",
    "analyze",
    "forward_sums",
    "heavy_sampler_sums",
    "swap_sums",
]
