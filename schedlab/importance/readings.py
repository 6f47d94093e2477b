"""What an analysis compares of two denoisers, by process.

Masked: the predictions at masked positions. A step reveals a position with probability r_k, so
r_k times their divergence, summed over steps and positions, is that of the two samplers' paths.

Uniform state: the posteriors q(z_s | z_t, p) of a step at all generated positions, from which
tokens are drawn: their divergences sum to that of the paths as they are. The loss is the
divergence from the true token's posterior, the T-step bound's term. [O]: it is what the chain rule
gives; where the posterior does not read a prediction, a difference counts for nothing.

Legend: B sequences, L positions, N positions, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.importance.divergences import LOG_PROB_FLOOR, kl_divergence, log_probs
from schedlab.processes import MaskedProcess, Process, UniformProcess


@dataclass(frozen=True)
class Step:
    """Noisy tokens, and alpha before and after the step that starts there, (N,) each."""

    z_N: Tensor
    alpha_t_N: Tensor
    alpha_s_N: Tensor

    def posterior(self, process: UniformProcess, p_NV: Tensor) -> Tensor:
        """q(z_s | z_t, p), (N, V)."""
        return process.posterior(self.z_N, p_NV, self.alpha_t_N, self.alpha_s_N)


class Reading(Protocol):
    """How states of a process are read."""

    @property
    def process(self) -> MaskedProcess | UniformProcess:
        """Whose states."""
        ...

    def positions(self, z_BL: Tensor, given: int) -> Tensor:
        """Which positions are compared, bool (B, L), behind `given` ones."""
        ...

    def log_prediction(self, denoiser: Denoiser, features_ND: Tensor) -> Tensor:
        """Logs of a denoiser's prediction, (N, V), floored at `LOG_PROB_FLOOR`."""
        ...

    def log_law(self, denoiser: Denoiser, features_ND: Tensor, at: Step) -> Tensor:
        """Logs of what is compared, (N, V), floored at `LOG_PROB_FLOOR`."""
        ...

    def losses(self, log_law_NV: Mapping[str, Tensor], x_N: Tensor, at: Step) -> dict[str, Tensor]:
        """Of every role with the true tokens, float64 (N,)."""
        ...

    def weight(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """Share of a compared position in the bound of a step from t to s."""
        ...


@dataclass(frozen=True)
class MaskedReading:
    """Predictions at masks."""

    process: MaskedProcess

    def positions(self, z_BL: Tensor, given: int) -> Tensor:
        """Masks."""
        return z_BL == self.process.mask_id

    def log_prediction(self, denoiser: Denoiser, features_ND: Tensor) -> Tensor:
        """log p(x | z_t)."""
        return log_probs(denoiser.logits(features_ND), self.process)

    def log_law(self, denoiser: Denoiser, features_ND: Tensor, at: Step) -> Tensor:
        """The prediction."""
        return self.log_prediction(denoiser, features_ND)

    def losses(self, log_law_NV: Mapping[str, Tensor], x_N: Tensor, at: Step) -> dict[str, Tensor]:
        """Cross-entropy."""
        return {
            role: -log_NV.gather(-1, x_N[:, None])[:, 0].double()
            for role, log_NV in log_law_NV.items()
        }

    def weight(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """The reveal probability r_k."""
        return (alpha_s - alpha_t) / (1.0 - alpha_t)


@dataclass(frozen=True)
class UniformReading:
    """Posteriors of the step at all positions."""

    process: UniformProcess

    def positions(self, z_BL: Tensor, given: int) -> Tensor:
        """All that are generated."""
        return (torch.arange(z_BL.shape[1], device=z_BL.device) >= given).expand(z_BL.shape)

    def log_prediction(self, denoiser: Denoiser, features_ND: Tensor) -> Tensor:
        """As it is, leave-one-out or not."""
        return denoiser.logits(features_ND).double().log_softmax(-1).clamp_(min=LOG_PROB_FLOOR)

    def log_law(self, denoiser: Denoiser, features_ND: Tensor, at: Step) -> Tensor:
        """log q(z_s | z_t, p)."""
        logits_NV = denoiser.logits(features_ND).double()
        if denoiser.spec.prediction == "posterior":
            logits_NV = self.process.leave_one_out(logits_NV, at.z_N, at.alpha_t_N)
        law_NV = at.posterior(self.process, logits_NV.softmax(-1))
        return law_NV.log().clamp_(min=LOG_PROB_FLOOR)

    def losses(self, log_law_NV: Mapping[str, Tensor], x_N: Tensor, at: Step) -> dict[str, Tensor]:
        """KL(q(z_s | z_t, x) || q(z_s | z_t, p))."""
        x_NV = torch.nn.functional.one_hot(x_N, self.process.vocab_size).double()
        true_NV = at.posterior(self.process, x_NV)
        log_true_NV = true_NV.log().clamp_(min=LOG_PROB_FLOOR)
        return {role: kl_divergence(log_true_NV, log_NV) for role, log_NV in log_law_NV.items()}

    def weight(self, alpha_t: Tensor, alpha_s: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(alpha_t)


def reading_of(process: Process) -> Reading:
    """The reading of a process.

    Raises:
        InputError: the simplex process, whose steps have no finite divergence.
    """
    if isinstance(process, MaskedProcess):
        return MaskedReading(process)
    if isinstance(process, UniformProcess):
        return UniformReading(process)
    raise InputError(
        "curves of step importance are for denoisers of the masked and the uniform-state process;"
        " these are of the simplex one"
    )
