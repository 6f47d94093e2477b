"""What denoisers of the uniform-state process are trained on: the bound of their process, which
leads to a leave-one-out prediction, or plain cross-entropy, which leads to a posterior.

All noise is a function of (seed, step).

Legend: B rows, L positions, N = B L, V vocabulary.

References: Schiff et al., UDLM (2412.10193); Sahoo et al., DUO (2506.10892).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schedlab.denoisers import loading
from schedlab.denoisers.base import features_at
from schedlab.denoisers.network import Network
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.metrics.nelbo import uniform_rate_nats
from schedlab.processes import UniformProcess
from schedlab.processes.noise_schedule import LOG_LINEAR_EPS, log_linear
from schedlab.results import Estimate
from schedlab.training.batches import rounded_up
from schedlab.training.distributed import Workers
from schedlab.training.job import RefineJob, UniformJob
from schedlab.training.objective import NoisyRows, Objective
from schedlab.training.objectives import in_parts, mean_with_interval
from schedlab.training.optimizers import largest_noise_level
from schedlab.training.rows import Rows

_NOISE, _HELD_OUT = 9, 10  # purposes of their own: see `batches`
_CHUNK = 32


@dataclass(frozen=True)
class UniformObjective(Objective):
    """Nats per token: the bound's density in t, or the mean cross-entropy over t."""

    job: UniformJob | RefineJob
    rows: Rows
    workers: Workers
    function: Callable[..., Tensor]
    seed: int

    @property
    def unit(self) -> str:
        """Of the loss."""
        return "nats per token"

    def loss(self, model: Network, step: int, part: int = 0) -> Tensor:
        """A share of the step's loss."""
        noisy, t_BL = self._noised(model, step, part)
        summed = self.function(model, noisy.x_BL, noisy.z_BL, noisy.t_B, t_BL)
        size = self.job.optimization.batch_size * noisy.x_BL.shape[1]
        return summed / size  # of all shares, which add up to the mean

    def noisy(self, model: Network, step: int, part: int = 0) -> NoisyRows:
        """Rows of a share of a step, as for its loss."""
        return self._noised(model, step, part)[0]

    def _noised(self, model: Network, step: int, part: int) -> tuple[NoisyRows, Tensor]:
        """And the levels of all positions."""
        job, workers = self.job, self.workers
        by_token = model.spec.time_input == "token"
        x_BL = self.rows.of_step(step, batch_size=job.optimization.batch_size, seed=job.seed)
        rng = np.random.default_rng([job.seed, _NOISE, step])
        grid_steps = job.grid_steps_at(step)
        smallest_t = job.optimization.smallest_t if grid_steps is None else 0.0
        largest_t = largest_noise_level(step, job.optimization)
        t_BL = levels(*x_BL.shape, smallest_t=smallest_t, largest_t=largest_t, rng=rng)
        if by_token:
            # Half of the rows: levels of their own, below that of the row [O].
            below_BL = np.maximum(t_BL * rng.random(x_BL.shape), smallest_t)
            t_BL = np.where(rng.random((len(x_BL), 1)) < 0.5, below_BL, t_BL)
        t_BL = rounded_up(t_BL, grid_steps)
        u_2BL = rng.random((2, *x_BL.shape))
        mine = workers.rows(part, job.optimization.accumulate)
        arrays = (x_BL[mine], t_BL[mine], u_2BL[0, mine], u_2BL[1, mine])
        x, t, u, token_u = (torch.from_numpy(array).to(workers.device) for array in arrays)
        z = UniformProcess(model.spec.vocab_size).forward(x, log_linear(t), u, token_u)
        t_B = (t if by_token else t[:, 0]).float()
        everywhere = torch.ones_like(z, dtype=torch.bool)
        return NoisyRows(x, z, t_B, everywhere), t.float()

    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """The bound on held-out rows; of posteriors their cross-entropy first."""
        losses_2S = held_out_losses(
            model, self.rows.held_out_SL, levels=self.job.reporting.held_out_levels, seed=self.seed
        )
        bound, own = (mean_with_interval(losses_S) for losses_S in losses_2S)
        if model.spec.prediction == "leave_one_out":
            return bound, {}
        return own, {"bound": bound}

    def __str__(self) -> str:
        return str(self.rows)


def levels(
    num_rows: int,
    length: int,
    *,
    smallest_t: float,
    rng: np.random.Generator,
    largest_t: float = 1.0,
) -> np.ndarray:
    """One level a row, the same at all positions, one in each of B equal parts of
    [smallest_t, largest_t], float64 (B, L)."""
    place_B = (np.arange(num_rows) + rng.random(num_rows)) / num_rows
    t_B = smallest_t + (largest_t - smallest_t) * place_B
    return np.repeat(t_B[:, None], length, axis=1)


def uniform_loss(model: Network, x_BL: Tensor, z_BL: Tensor, t_B: Tensor, t_BL: Tensor) -> Tensor:
    """Sum over positions, a scalar in nats.

    Args:
        model: its `spec.prediction` says which loss.
        x_BL, z_BL: clean and noisy tokens.
        t_B: noise levels as the model reads them.
        t_BL: those of all positions, float32.
    """
    features_ND = features_at(model, z_BL, t_B).flatten(0, 1)
    x_N, z_N, alpha_N = x_BL.flatten(), z_BL.flatten(), log_linear(t_BL.flatten())

    def part(at: slice) -> Tensor:
        logits_NV = model.logits(features_ND[at]).float()
        if model.spec.prediction == "posterior":
            return F.cross_entropy(logits_NV, x_N[at], reduction="none")
        return _rate_nats(logits_NV, z_N[at], x_N[at], alpha_N[at])

    return in_parts(part, len(x_N), model.spec.vocab_size).sum()


def _rate_nats(logits_NV: Tensor, z_N: Tensor, x_N: Tensor, alpha_N: Tensor) -> Tensor:
    """The bound's density in t of a leave-one-out prediction, (N,), at `log_linear` levels."""
    slope_N = torch.full_like(alpha_N, -(1.0 - LOG_LINEAR_EPS))
    return uniform_rate_nats(logits_NV.log_softmax(-1), z_N, x_N, alpha_N, slope_N)


@torch.inference_mode()
def held_out_losses(
    model: Network, tokens_SL: np.ndarray, *, levels: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The bound and the cross-entropy of every held-out row, (S,) float64 in nats per token.

    Every row has one level in each of `levels` equal parts; noise follows from the seed and is the
    same for every model.
    """
    device, process = next(model.parameters()).device, UniformProcess(model.spec.vocab_size)
    S, L = tokens_SL.shape
    losses_2S = np.zeros((2, S))
    for level in range(levels):
        rng = np.random.default_rng([seed, _HELD_OUT, level])
        place_S: np.ndarray = (level + rng.random((S,))) / levels
        t_S = LOG_LINEAR_EPS + (1.0 - LOG_LINEAR_EPS) * place_S
        u_2SL = rng.random((2, S, L))
        for start in range(0, S, _CHUNK):
            rows = slice(start, start + _CHUNK)
            x, t, u, token_u = (
                torch.from_numpy(array).to(device)
                for array in (tokens_SL[rows].astype(np.int64), t_S[rows], *u_2SL[:, rows])
            )
            t_BL = t[:, None].expand(x.shape)
            z = process.forward(x, log_linear(t_BL), u, token_u)
            t_B = (t_BL if model.spec.time_input == "token" else t).float()
            features_ND = features_at(model, z, t_B).flatten(0, 1)
            x_N, z_N, alpha_N = x.flatten(), z.flatten(), log_linear(t_BL.flatten())

            def part(
                at: slice,
                features_ND: Tensor = features_ND,
                x_N: Tensor = x_N,
                z_N: Tensor = z_N,
                alpha_N: Tensor = alpha_N,
            ) -> Tensor:
                logits_NV = model.logits(features_ND[at]).double()
                own_N = F.cross_entropy(logits_NV, x_N[at], reduction="none")
                if model.spec.prediction == "posterior":
                    logits_NV = process.leave_one_out(logits_NV, z_N[at], alpha_N[at])
                return torch.stack(
                    (_rate_nats(logits_NV, z_N[at], x_N[at], alpha_N[at]), own_N), 1
                )

            nats_N2 = in_parts(part, len(x_N), model.spec.vocab_size)
            losses_2S[:, rows] += nats_N2.view(*x.shape, 2).mean(1).T.cpu().numpy() / levels
    return losses_2S[0], losses_2S[1]


def uniform_network(job: UniformJob, vocab_size: int, generator: torch.Generator) -> Transformer:
    """The network before the first step: as the one that it begins as, or random.

    Raises:
        InputError: it cannot begin as that.
    """
    settings, sizes = job.uniform, job.model
    model = Transformer(
        TransformerConfig(
            vocab_size=vocab_size,
            mask_id=None,
            num_blocks=sizes.num_blocks,
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            max_length=sizes.length,
            mlp_ratio=sizes.mlp_ratio,
            learned_positions=sizes.learned_positions,
            process="uniform",
            prediction="leave_one_out" if settings.loss == "bound" else "posterior",
            time_input=settings.time_input,
        )
    )
    model.init_weights(generator)
    if settings.begin is not None:
        model.begin_as(loading.load(settings.begin), where=f"uniform.begin: {settings.begin}")
    return model
