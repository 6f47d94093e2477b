"""The drift field of TokenDrift (arXiv 2605.19470), after Generative Modeling via Drifting
(2602.04770): where features of generated texts should move to be told less from real ones.

Every query h is attracted by real features u and repelled by generated ones v, all normalised
jointly: affinities -|h - x|^2 / tau over [real | generated] go through softmaxes over rows and
over columns, of which A is the geometric mean, and

    V(h) = sum_u W+ u - sum_v W- v,    W+ = A+ sum_v A-,    W- = A- sum_u A+.

Swapping real and generated features reverses the raw field; it is 0 where both are equal, and does
not change when all features are shifted together. Where queries are generated features themselves
(own ones are excluded from their repulsion) and after the division by the root mean square, the
first two hold no more.

Legend: N queries, R real and G generated features, C = R + G, D numbers of a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TAUS = (0.02, 0.05, 0.2)
_EPSILON = 1e-8


@dataclass(frozen=True)
class DriftField:
    """A field, with the parts that an ablation changes.

    Args:
        taus: bandwidths; the field is the mean over them, each divided by its root mean square.
        attraction, repulsion: factors of the two sums; the method's are equal.
    """

    taus: Sequence[float] = TAUS
    attraction: float = 1.0
    repulsion: float = 1.0

    @torch.no_grad()
    def __call__(
        self, h_ND: Tensor, real_RD: Tensor, generated_GD: Tensor, own_N: Tensor | None = None
    ) -> Tensor:
        """Where every query should move, (N, D), in the dtype of the queries.

        Args:
            h_ND: queries.
            real_RD: real features.
            generated_GD: generated features.
            own_N: number of the generated feature that each query is itself, int64; it does not
                repel. None for queries from elsewhere.
        """
        # Differences of sums that nearly cancel, so float64: in bfloat16, or in the short products
        # that GPUs may give for float32, little of them would be left.
        sets = h_ND.double(), real_RD.double(), generated_GD.double()
        squared_NC = _squared_distances(*sets)
        total_ND = torch.zeros_like(sets[0])
        for tau in self.taus:
            field_ND = self._raw(*sets[1:], affinities(squared_NC, tau, own_N, len(real_RD)))
            total_ND += field_ND / (field_ND.square().mean().sqrt() + _EPSILON)
        return (total_ND / len(self.taus)).to(h_ND.dtype)

    @torch.no_grad()
    def raw(
        self,
        h_ND: Tensor,
        real_RD: Tensor,
        generated_GD: Tensor,
        tau: float,
        own_N: Tensor | None = None,
    ) -> Tensor:
        """The field of one bandwidth before it is divided by its root mean square, (N, D)."""
        squared_NC = _squared_distances(h_ND, real_RD, generated_GD)
        A_NC = affinities(squared_NC, tau, own_N, len(real_RD))
        return self._raw(real_RD, generated_GD, A_NC)

    def _raw(self, real_RD: Tensor, generated_GD: Tensor, A_NC: Tensor) -> Tensor:
        """The field from affinities, (N, D)."""
        plus_NR, minus_NG = A_NC.split((len(real_RD), len(generated_GD)), dim=1)
        attracted_ND = (plus_NR @ real_RD) * minus_NG.sum(1, keepdim=True)
        repelled_ND = (minus_NG @ generated_GD) * plus_NR.sum(1, keepdim=True)
        return self.attraction * attracted_ND - self.repulsion * repelled_ND


def _squared_distances(h_ND: Tensor, real_RD: Tensor, generated_GD: Tensor) -> Tensor:
    x_CD = torch.cat((real_RD, generated_GD))
    return torch.cdist(h_ND, x_CD, compute_mode="donot_use_mm_for_euclid_dist").square()


def affinities(squared_NC: Tensor, tau: float, own_N: Tensor | None, num_real: int) -> Tensor:
    """A, (N, C): the geometric mean of softmaxes of -|h - x|^2 / tau over rows and columns."""
    logits_NC = -squared_NC / tau
    if own_N is not None:
        row_N = torch.arange(len(squared_NC), device=squared_NC.device)
        logits_NC[row_N, num_real + own_N] = -torch.inf
    log_A_NC = (_log_softmax(logits_NC, 1) + _log_softmax(logits_NC, 0)) / 2
    return log_A_NC.exp()


def _log_softmax(logits_NC: Tensor, dim: int) -> Tensor:
    """-inf where there is nothing to normalise: a feature that the only query is itself."""
    return logits_NC.log_softmax(dim).nan_to_num(nan=-torch.inf, neginf=-torch.inf)
