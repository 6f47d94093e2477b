"""TokenDrift: move what a denoiser predicts in one call until its features cannot be told from
those of real texts. No rollout, and no denoising loss beside it unless one is asked for.

The prediction enters the frozen starting network softly (`softmax(logits) E`); the mean-pooled
last two hidden layers are its feature, and `DriftField` says where each should go.

[O] Where the method's text is silent: features are taken before the last norm, a time-conditioned
starting network reads them as clean text (t = 0), queries are the rows of a step.

Legend: B rows, L positions, N predicted positions, D width, F = 2 D numbers of a feature, Q rows
kept, V vocabulary.

Reference: TokenDrift (2605.19470).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schedlab.denoisers.base import SoftDenoiser, features_at
from schedlab.denoisers.network import Network
from schedlab.processes import UniformProcess
from schedlab.processes.noise_schedule import log_linear
from schedlab.results import Estimate
from schedlab.training.distributed import Workers
from schedlab.training.drift import DriftField
from schedlab.training.job import RefineJob
from schedlab.training.objective import NoisyRows, Objective
from schedlab.training.objectives import in_parts, log_predictions
from schedlab.training.token_objective import TokenObjective
from schedlab.training.uniform_objective import UniformObjective

_DRAWS = 11  # a purpose of its own: see `batches`


def drawn(p_NV: Tensor, u_N: Tensor) -> Tensor:
    """The first token whose cumulative share is above u in [0, 1), int64 (N,); rows of `p_NV` need
    not sum to 1."""
    cumulative_NV = p_NV.double().cumsum(-1)
    # A share of the sum, which rounding leaves beside 1: no token of probability 0 is drawn.
    return (cumulative_NV <= u_N[:, None] * cumulative_NV[:, -1:]).sum(-1)


def pooled_features(
    start: Network, e_BLD: Tensor, features: Literal["hidden", "logits"] = "hidden"
) -> Tensor:
    """Of what a soft denoiser reads, each of length 1, float32 (B, F): its last two hidden layers,
    or its logits, averaged over positions; with a noise level, as of clean text."""
    reader = cast(SoftDenoiser, start)
    clean_B = None
    if start.spec.time_input != "none":
        clean_B = torch.zeros(len(e_BLD), device=e_BLD.device)
    outputs = reader.block_outputs(e_BLD, clean_B)
    if features == "logits":
        pooled_BF = start.logits(reader.output_features(outputs[-1], clean_B)).mean(1)
    else:
        pooled_BF = torch.cat([one.mean(1) for one in outputs[-2:]], dim=-1)
    return F.normalize(pooled_BF.float(), dim=-1)


def posterior(model: Network, log_p_NV: Tensor, z_N: Tensor, t_N: Tensor) -> Tensor:
    """Probabilities of clean tokens given all of z_t, (N, V), from log-predictions (N, V), the
    tokens that stand there and their noise levels, (N,).

    A leave-one-out prediction leaves out the token that stands at its own position, and texts
    drawn from it would lose what they hold.
    """
    if model.spec.prediction == "leave_one_out":
        process = UniformProcess(model.spec.vocab_size)
        log_p_NV = process.all_in(log_p_NV, z_N, log_linear(t_N)).log_softmax(-1)
    return log_p_NV.exp()


@dataclass
class DriftObjective(Objective):
    """1 / (2 B) sum |h - sg(h + V(h))|^2 over the rows of a step.

    Args:
        job: what to train.
        ordinary: noises rows, measures held-out ones, and is what `base_weight` weighs.
        start: the network that training began with, frozen.
        workers: the processes of the run.
        read: `features_at`, or the same compiled.
        pooled: `pooled_features`, or the same compiled.
        queues: features of earlier steps, `real` and `generated`, (Q, F).
    """

    job: RefineJob
    ordinary: TokenObjective | UniformObjective
    start: Network
    workers: Workers
    read: Callable[..., Tensor] = features_at
    pooled: Callable[..., Tensor] = pooled_features
    queues: dict[str, Tensor] = field(default_factory=dict)
    _targets: tuple[int, Tensor] | None = None

    @property
    def unit(self) -> str:
        """Of the held-out loss; the drift's own loss has none."""
        return self.ordinary.unit

    @property
    def memory(self) -> dict[str, Tensor]:
        """The queues."""
        return self.queues

    def loss(self, model: Network, step: int, part: int = 0) -> Tensor:
        """A share of the step's loss. In several parts all features come first, without
        gradients: where a feature should go hangs on all of them."""
        settings, parts = self.job.refine.drift, self.job.optimization.accumulate
        noisy = self.ordinary.noisy(model, step, part)
        h_BF = self._features(model, noisy, self._draws(step, part))
        if self._targets is None or self._targets[0] != step:
            self._targets = (step, self._set_targets(model, step, noisy, h_BF.detach()))
        target_BF = self._targets[1].chunk(parts)[part]
        loss = (h_BF - target_BF).square().sum() / (2 * self.job.optimization.batch_size)
        if settings.base_weight > 0:
            loss = loss + settings.base_weight * self.ordinary.loss(model, step, part)
        return loss

    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """The ordinary loss on held-out rows."""
        return self.ordinary.held_out(model)

    def __str__(self) -> str:
        return str(self.ordinary)

    @torch.no_grad()
    def _set_targets(
        self, model: Network, step: int, first: NoisyRows, first_BF: Tensor
    ) -> Tensor:
        """Where this process's rows of the step should go, part after part, the first of which is
        there already; the queues take the rows of all processes up."""
        settings, workers = self.job.refine.drift, self.workers
        parts = range(self.job.optimization.accumulate)
        noisy = [first, *(self.ordinary.noisy(model, step, part) for part in parts[1:])]
        rest = zip(noisy[1:], parts[1:], strict=True)
        own_BF = torch.cat(
            [first_BF]
            + [self._features(model, rows, self._draws(step, part)) for rows, part in rest]
        )
        real_BF = torch.cat([self._pooled(self._embedded(rows.x_BL)) for rows in noisy])
        # Rows in the order of the step, however many processes and parts there are.
        row_B = torch.arange(self.job.optimization.batch_size, device=own_BF.device)
        mine_B = torch.cat([row_B[workers.rows(part, len(parts))] for part in parts])
        order_B = workers.gather(mine_B)
        generated_GF, real_RF = (
            torch.empty_like(all_BF).index_copy_(0, order_B, all_BF)
            for all_BF in (workers.gather(own_BF), workers.gather(real_BF))
        )
        known = {"real": real_RF, "generated": generated_GF}
        for name, queue in self.queues.items():
            known[name] = torch.cat((known[name], queue))
        field = DriftField(settings.taus, settings.attraction, settings.repulsion)
        V_GF = field(generated_GF, known["real"], known["generated"], row_B)
        for name, rows_QF in known.items():
            self.queues[name] = rows_QF[: settings.queue].clone()
        return own_BF + settings.step * V_GF[mine_B]

    def _draws(self, step: int, part: int) -> Tensor | None:
        """Numbers in [0, 1) that say which tokens are drawn, (B, L), float64."""
        if self.job.refine.drift.lift != "sampled":
            return None
        size, workers = self.job.optimization.batch_size, self.workers
        length = self.ordinary.rows.held_out_SL.shape[1]
        u_BL = np.random.default_rng([self.job.seed, _DRAWS, step]).random((size, length))
        mine_BL = u_BL[workers.rows(part, self.job.optimization.accumulate)]
        return torch.from_numpy(mine_BL).to(workers.device)

    def _features(self, model: Network, noisy: NoisyRows, u_BL: Tensor | None = None) -> Tensor:
        """Of predictions, with gradients to the model, (B, F)."""
        where_BL = noisy.predicted_BL
        read_NF = self.read(model, noisy.z_BL, noisy.t_B)[where_BL]
        t_BL = noisy.t_B if noisy.t_B.ndim == 2 else noisy.t_B[:, None].expand_as(noisy.z_BL)
        z_N, t_N = noisy.z_BL[where_BL], t_BL[where_BL]
        u_N = None if u_BL is None else u_BL[where_BL]

        def lifted(at: slice) -> Tensor:
            log_p_NV = log_predictions(model, read_NF[at])
            if u_N is None:
                return self._lifted(log_p_NV.exp(), None)
            return self._lifted(posterior(model, log_p_NV, z_N[at], t_N[at]), u_N[at])

        soft_ND = in_parts(lifted, len(read_NF), model.spec.vocab_size)
        e_BLD = self._embedded(noisy.z_BL)
        return self._pooled(e_BLD.masked_scatter(where_BL[..., None], soft_ND))

    def _lifted(self, p_NV: Tensor, u_N: Tensor | None) -> Tensor:
        """What the frozen network reads in place of predicted tokens, (N, D), in the dtype of its
        embeddings: real texts must not be told apart by rounding."""
        E_VD = cast(SoftDenoiser, self.start).token_embeddings
        soft_ND = (p_NV.to(E_VD.dtype) @ E_VD).to(E_VD.dtype)
        if self.job.refine.drift.lift == "soft":
            return soft_ND
        token_N = p_NV.argmax(-1) if u_N is None else drawn(p_NV.detach(), u_N)
        return E_VD[token_N] + soft_ND - soft_ND.detach()

    def _embedded(self, x_BL: Tensor) -> Tensor:
        return cast(SoftDenoiser, self.start).token_embeddings[x_BL]

    def _pooled(self, e_BLD: Tensor) -> Tensor:
        """Features of inputs, of length 1."""
        return self.pooled(self.start, e_BLD, self.job.refine.drift.features)
