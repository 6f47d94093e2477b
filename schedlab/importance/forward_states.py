"""Metrics on held-out text, noised by the forward process.

All denoisers see the same z_t. Noise is addressed by (seed, sequence, position, level), so results
depend neither on the batch size nor on which denoisers are compared.

Legend: S sequences, L positions, P prefix positions, K levels, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from schedlab.importance.levels import NoiseLevels
from schedlab.importance.panel import Panel
from schedlab.importance.sums import SequenceSums, with_relative_kl
from schedlab.processes import UniformProcess, alpha
from schedlab.sampling import Purpose, SequenceIds, uniforms


@torch.inference_mode()
def forward_sums(
    panel: Panel,
    x_SL: Tensor,
    ids: SequenceIds,
    levels: NoiseLevels,
    *,
    prefix_length: int = 0,
    max_batch_tokens: int = 4_096,
    progress: Callable[[int, int], None] | None = None,
) -> SequenceSums:
    """Noise every sequence at every level once and sum all metrics over the positions compared.

    Args:
        panel: the denoisers.
        x_SL: held-out text, int64, no masks in it.
        ids: addresses of the sequences, length S.
        levels: where to measure.
        prefix_length: leading positions that stay clean and are not counted.
        max_batch_tokens: positions per forward.
        progress: called with (sequence-levels done, in all).
    """
    alpha_fn = alpha("linear")
    length = x_SL.shape[1]
    position_L = torch.arange(length, device=x_SL.device)
    given_L = position_L < prefix_length
    t_SK, at_step_SK = levels.draw(ids)
    s_SK = (t_SK - 1.0 / levels.num_steps).clamp(min=0.0)
    weight_SK = panel.reading.weight(alpha_fn(t_SK), alpha_fn(s_SK)) * at_step_SK
    total = t_SK.numel()
    rows = max(1, max_batch_tokens // length)
    parts: list[dict[str, Tensor]] = []
    for first in range(0, total, rows):
        flat_B = torch.arange(first, min(first + rows, total), device=x_SL.device)
        sequence_B, level_B = flat_B // levels.num_levels, flat_B % levels.num_levels
        t_B, x_BL = t_SK.flatten()[flat_B], x_SL[sequence_B]
        own, visit_B1 = ids.pick(sequence_B), level_B[:, None]
        u_BL = uniforms(own, Purpose.FORWARD, position_L, visit_B1)
        if isinstance(panel.process, UniformProcess):
            token_BL = uniforms(own, Purpose.NOISE_TOKEN, position_L, visit_B1)
            noisy_BL = panel.process.forward(x_BL, alpha_fn(t_B)[:, None], u_BL, token_BL)
        else:
            noisy_BL = panel.process.forward(x_BL, alpha_fn(t_B)[:, None], u_BL)
        z_BL = torch.where(given_L, x_BL, noisy_BL)
        compared_B = panel.reading.positions(z_BL, prefix_length).sum(-1)
        sums = panel.sums(z_BL, t_B, x_BL, s_B=s_SK.flatten()[flat_B], given=prefix_length)
        parts.append(sums | {_COMPARED: compared_B.double()})
        if progress is not None:
            progress(first + len(flat_B), total)
    metrics = {
        name: torch.cat([part[name] for part in parts]).reshape(t_SK.shape).cpu().numpy()
        for name in parts[0]
    }
    masked_SK = metrics.pop(_COMPARED)
    return SequenceSums(
        metrics=with_relative_kl(
            metrics, heavy=panel.heavy, lights=panel.lights, heavy_b=panel.heavy_b
        ),
        masked_SK=masked_SK,
        weight_SK=weight_SK.cpu().numpy(),
        t_K=levels.mean_t_K.numpy(),
        level_of_step_T=levels.level_of_step_T.numpy(),
        num_free=length - prefix_length,
    )


_COMPARED = "masked"
