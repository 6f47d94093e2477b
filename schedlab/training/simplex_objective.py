"""What simplex denoisers are trained on: cross-entropy at generated positions, at random levels.

All noise is a function of (seed, step, row).

Legend: B rows, L positions, V vocabulary, S held-out rows.

References: Karimi Mahabadi et al., TESS (2305.08379); TTA (2510.26200), whose progressive step
reduction is the same loss on a coarser grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schedlab.denoisers import loading
from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.network import Network
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.processes import SimplexProcess, alpha
from schedlab.results import Estimate
from schedlab.training.distributed import Workers
from schedlab.training.document_rows import DocumentRows
from schedlab.training.job import SimplexJob
from schedlab.training.objective import Objective
from schedlab.training.objectives import mean_with_interval

_NOISE, _HELD_OUT = 5, 6  # purposes of their own: see `batches`
_CHUNK = 32


@dataclass(frozen=True)
class SimplexObjective(Objective):
    """Mean cross-entropy in nats per token over levels k / N, k = 0 ... N."""

    job: SimplexJob
    rows: DocumentRows
    workers: Workers
    function: Callable[..., Tensor]
    seed: int

    @property
    def unit(self) -> str:
        """Of the loss."""
        return "nats per token, mean over noise levels"

    def loss(self, model: Network, step: int, part: int = 0) -> Tensor:
        """A share of the step's loss."""
        assert isinstance(model, SimplexTransformer)
        job, settings, workers = self.job, self.job.simplex, self.workers
        size = job.optimization.batch_size
        tokens_BL = self.rows.of_step(step, batch_size=size, seed=job.seed)
        rng = np.random.default_rng([job.seed, _NOISE, step])
        t_BL = levels(size, tokens_BL.shape[1], settings.grid_steps, rng)
        if settings.time_input == "token":
            below_BL = on_grid(t_BL * rng.random(t_BL.shape), settings.grid_steps)
            t_BL = np.where(rng.random((size, 1)) < 0.5, below_BL, t_BL)
        prefix_B = np.where(
            rng.random(size) < settings.prefix_share,
            rng.integers(0, tokens_BL.shape[1] // 2 + 1, size),
            0,
        )
        conditioned = settings.self_condition != "none" and (
            rng.random() < settings.self_condition_share
        )
        mine = workers.rows(part, job.optimization.accumulate)
        noise_BLV = row_noise(
            [job.seed, _NOISE, step], range(size)[mine], model.spec, tokens_BL.shape[1],
            workers.device,
        )  # fmt: skip
        x_BL, time_BL = (torch.from_numpy(a[mine]).to(workers.device) for a in (tokens_BL, t_BL))
        position_L = torch.arange(x_BL.shape[1], device=workers.device)
        generated_BL = position_L >= torch.from_numpy(prefix_B[mine]).to(workers.device)[:, None]
        X_BLV = noised(model.spec, x_BL, time_BL, noise_BLV)
        t_B = time_BL if settings.time_input == "token" else time_BL[:, 0]
        previous_BLV = None
        if settings.self_condition != "none":
            previous_BLV = torch.zeros_like(X_BLV)
            if conditioned:
                with torch.no_grad():
                    features = model.features(
                        X_BLV, t_B, given_BL=x_BL, generated_BL=generated_BL,
                        previous_BLV=previous_BLV,
                    )  # fmt: skip
                    previous_BLV = model.logits(features).float()
        # Over all processes: shares add up to the mean.
        weight = 1.0 / float((tokens_BL.shape[1] - prefix_B).sum())
        return weight * self.function(model, X_BLV, t_B, x_BL, generated_BL, previous_BLV)

    @torch.inference_mode()
    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """Loss on held-out rows, without and with self-conditioning, on the same noise."""
        assert isinstance(model, SimplexTransformer)
        rows_SL, num = self.rows.held_out_SL, self.job.reporting.held_out_levels
        conditioned = self.job.simplex.self_condition != "none"
        losses_2S = np.zeros((2, len(rows_SL)))
        for level in range(num):
            rng = np.random.default_rng([self.seed, _HELD_OUT, level])
            t_S = on_grid((level + rng.random(len(rows_SL))) / num, self.job.simplex.grid_steps)
            for start in range(0, len(rows_SL), _CHUNK):
                part = slice(start, start + _CHUNK)
                found = self._held_out_part(
                    model, rows_SL[part], t_S[part], [self.seed, _HELD_OUT, level], start
                )
                losses_2S[:, part] += found / num
        first = mean_with_interval(losses_2S[0])
        if not conditioned:
            return first, {}
        return mean_with_interval(losses_2S[1]), {"without_self_conditioning": first}

    def _held_out_part(
        self, model: SimplexTransformer, rows_SL: np.ndarray, t_S: np.ndarray, key: list[int],
        start: int,
    ) -> np.ndarray:  # fmt: skip
        device = next(model.parameters()).device
        rows = range(start, start + len(rows_SL))
        noise = row_noise(key, rows, model.spec, rows_SL.shape[1], device)
        x_BL = torch.from_numpy(rows_SL.astype(np.int64)).to(device)
        t_B = torch.from_numpy(t_S).to(device)
        X_BLV = noised(model.spec, x_BL, t_B[:, None].expand(x_BL.shape), noise)
        found, previous_BLV = [], None
        for _ in range(2):
            logits_BLV = model.logits(model.features(X_BLV, t_B, previous_BLV=previous_BLV))
            nats_BL = F.cross_entropy(logits_BLV.float().transpose(1, 2), x_BL, reduction="none")
            found.append(nats_BL.double().mean(1).cpu().numpy())
            previous_BLV = logits_BLV.float()
        return np.stack(found)

    def __str__(self) -> str:
        return str(self.rows)


def simplex_network(
    job: SimplexJob, vocab_size: int, generator: torch.Generator
) -> SimplexTransformer:
    """The network before the first step: as the one that it begins as, or random.

    Raises:
        InputError: it cannot begin as that.
    """
    settings, sizes = job.simplex, job.model
    model = SimplexTransformer(
        SimplexTransformerConfig(
            vocab_size=vocab_size,
            num_blocks=sizes.num_blocks,
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            max_length=sizes.length,
            mlp_ratio=sizes.mlp_ratio,
            self_condition=settings.self_condition,
            time_input=settings.time_input,
            value=settings.value,
        )
    )
    model.init_weights(generator)
    if settings.begin is not None:
        model.begin_as(loading.load(settings.begin), where=f"simplex.begin: {settings.begin}")
    return model


def simplex_loss(
    model: Network,
    X_BLV: Tensor,
    t_B: Tensor,
    x_BL: Tensor,
    generated_BL: Tensor,
    previous_BLV: Tensor | None,
) -> Tensor:
    """Sum of the cross-entropy at generated positions, nats."""
    assert isinstance(model, SimplexTransformer)
    features_BLD = model.features(
        X_BLV, t_B, given_BL=x_BL, generated_BL=generated_BL, previous_BLV=previous_BLV
    )
    logits_BLV = model.logits(features_BLD).float()
    nats_BL = F.cross_entropy(logits_BLV.transpose(1, 2), x_BL, reduction="none")
    return (nats_BL * generated_BL).sum()


def levels(num_rows: int, length: int, grid_steps: int, rng: np.random.Generator) -> np.ndarray:
    """One level k / N a row, the same at all positions, one in each of B equal parts of [0, 1],
    in any order, float32 (B, L)."""
    t_B = (np.arange(num_rows) + rng.random(num_rows)) / num_rows
    return np.repeat(on_grid(rng.permutation(t_B), grid_steps)[:, None], length, axis=1)


def on_grid(t: np.ndarray, grid_steps: int) -> np.ndarray:
    """Levels in [0, 1) on k / N with k = 0 ... N, all equally likely for uniform ones, float32."""
    return (np.floor(t * (grid_steps + 1)) / grid_steps).astype(np.float32)


def row_noise(
    key: list[int],
    rows: Iterable[int],
    spec: DenoiserSpec,
    length: int,
    device: torch.device,
) -> Tensor:
    """Standard normals of some rows, (B, L, V): each row's are its own, whoever computes it."""
    places = list(rows)
    shape = (len(places), length, spec.vocab_size)
    noise_BLV = torch.empty(shape, device=device)
    for place, row in enumerate(places):
        seed = int(np.random.SeedSequence([*key, row]).generate_state(1, np.uint64)[0] >> 1)
        noise_BLV[place].normal_(generator=torch.Generator(device).manual_seed(seed))
    return noise_BLV


def noised(spec: DenoiserSpec, x_BL: Tensor, t_BL: Tensor, noise_BLV: Tensor) -> Tensor:
    """X_t of tokens; the noise is overwritten."""
    process = SimplexProcess(spec.vocab_size, spec.simplex_value)
    alpha_BL = alpha(spec.noise_schedule)(t_BL.double())
    return process.noised(x_BL, alpha_BL, noise_BLV)
