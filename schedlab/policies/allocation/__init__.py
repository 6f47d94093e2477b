"""Token timestep allocation (TTA, arXiv 2510.26200): a noise level for every token at every step.

Rules and modifiers are [C] where their description does not say [O].
"""

from schedlab.policies.allocation.adaptive import Adaptive, Scaled
from schedlab.policies.allocation.base import Allocation, AllocationView
from schedlab.policies.allocation.by_place import BackwardLinear, Constant, Fixed, Linear, Random
from schedlab.policies.allocation.psi import Psi
from schedlab.policies.allocation.selected import CumulativeShare, Softmax, Threshold, TopK

__all__ = [
    "Adaptive",
    "Allocation",
    "AllocationView",
    "BackwardLinear",
    "Constant",
    "CumulativeShare",
    "Fixed",
    "Linear",
    "Psi",
    "Random",
    "Scaled",
    "Softmax",
    "Threshold",
    "TopK",
]
