"""How an early swap of heavy for light spreads: coupled samplers with common noise.

For every segment, a sampler that runs light in that segment and heavy elsewhere is coupled with
the all-heavy sampler: same reveal times, same token noise. What is counted: generated positions
whose final token differs, and KL of heavy's next prediction on the all-heavy state against that on
the swapped state, just after the segment. Where a swap changed no token the rest of the two
trajectories is one and the same and is not run again.

Legend: S sequences, B batch, L positions, P prefix positions, J segments, R rows, N positions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schedlab.importance.divergences import kl_divergence, log_probs, row_chunks
from schedlab.importance.panel import Panel, features_of
from schedlab.importance.sums import FloatArray
from schedlab.plan import ModelSchedule, Plan, segment_bounds
from schedlab.processes import time_grid
from schedlab.sampling import SequenceIds, State, advance, start


@dataclass(frozen=True)
class SwapSums:
    """What swaps of heavy for one light did, per sequence and segment.

    Args:
        changed_SJ: generated positions whose final token differs.
        kl_next_SJ: KL of heavy's next predictions summed over the masked positions, nats.
        masked_SJ: how many positions that is: 0 after the last segment.
        num_free: generated positions of a sequence.
        t_J1: noise levels of the segments' bounds.
    """

    changed_SJ: FloatArray
    kl_next_SJ: FloatArray
    masked_SJ: FloatArray
    num_free: int
    t_J1: FloatArray


@torch.inference_mode()
def swap_sums(
    panel: Panel,
    ids: SequenceIds,
    *,
    num_steps: int,
    num_segments: int,
    length: int,
    prefix_SP: Tensor | None = None,
    max_batch_tokens: int = 4_096,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SwapSums]:
    """Swap heavy for every light in every segment, on the same trajectories.

    Args:
        panel: the denoisers; its second heavy one takes no part.
        ids: which trajectories, length S.
        num_steps: T steps of the uniform grid.
        num_segments: (nearly) equal segments J.
        length: positions L, prefix included.
        prefix_SP: given tokens, int64.
        max_batch_tokens: positions per forward.
        progress: called with (swaps done, in all).

    Returns:
        By light role.
    """
    plan = Plan(length=length, model_schedule=ModelSchedule.constant(panel.heavy, num_steps))
    bounds = segment_bounds(num_segments, num_steps)
    rows = max(1, max_batch_tokens // length)
    starts = range(0, len(ids), rows)
    total, done = len(starts) * len(panel.lights) * num_segments, 0
    columns: dict[str, list[list[Tensor]]] = {light: [] for light in panel.lights}
    for first in starts:
        batch_B = torch.arange(first, min(first + rows, len(ids)), device=ids.seed_B.device)
        prefix_BP = None if prefix_SP is None else prefix_SP[batch_B]
        state = start(plan, panel.process, ids.pick(batch_B), prefix_BP)
        base = _all_heavy(panel, plan, state, bounds)
        for light in panel.lights:
            swaps = []
            for segment in range(num_segments):
                swaps.append(_swap(panel, plan, base, bounds, light, segment))
                done += 1
                if progress is not None:
                    progress(done, total)
            columns[light].append([torch.stack(parts, -1) for parts in zip(*swaps, strict=True)])
    t_J1 = time_grid(plan.time_grid, num_steps)[bounds].numpy()
    num_free = length - (0 if prefix_SP is None else prefix_SP.shape[1])
    return {light: _swap_sums(batches, num_free, t_J1) for light, batches in columns.items()}


def _swap_sums(batches: list[list[Tensor]], num_free: int, t_J1: FloatArray) -> SwapSums:
    changed_SJ, kl_next_SJ, masked_SJ = (
        torch.cat(parts).double().cpu().numpy() for parts in zip(*batches, strict=True)
    )
    return SwapSums(changed_SJ, kl_next_SJ, masked_SJ, num_free, t_J1)


def _all_heavy(panel: Panel, plan: Plan, state: State, bounds: list[int]) -> list[State]:
    """The all-heavy trajectory at every segment bound."""
    states = [state]
    heavy = panel.denoisers[panel.heavy]
    for k_from, k_to in itertools.pairwise(bounds):
        states.append(advance(states[-1], plan, panel.process, heavy, panel.heavy, k_from, k_to))
    return states


def _swap(
    panel: Panel, plan: Plan, base: list[State], bounds: list[int], light: str, segment: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Changed final tokens, KL of the next prediction, masked positions; each (B,)."""
    k_from, k_to = bounds[segment], bounds[segment + 1]
    swapped = advance(
        base[segment], plan, panel.process, panel.denoisers[light], light, k_from, k_to
    )
    heavy_z_BL = base[segment + 1].z_BL
    rows_R = (swapped.z_BL != heavy_z_BL).any(-1).nonzero().squeeze(-1)
    masked_B = (heavy_z_BL == panel.process.mask_id).sum(-1)
    changed_B, kl_B = torch.zeros_like(masked_B), torch.zeros_like(masked_B, dtype=torch.float64)
    if len(rows_R):
        t = time_grid(plan.time_grid, plan.num_steps)[k_to].item()
        kl_B[rows_R] = _next_prediction_kl(panel, heavy_z_BL[rows_R], swapped.z_BL[rows_R], t)
        heavy = panel.denoisers[panel.heavy]
        final = advance(
            _rows(swapped, rows_R), plan, panel.process, heavy, panel.heavy, k_to, plan.num_steps
        )
        changed_B[rows_R] = (final.z_BL != base[-1].z_BL[rows_R]).sum(-1)
    return changed_B, kl_B, masked_B


def _next_prediction_kl(
    panel: Panel, heavy_z_RL: Tensor, swapped_z_RL: Tensor, t: float
) -> Tensor:
    """KL(p_heavy(. | all-heavy state) || p_heavy(. | swapped state)), summed over masks, (R,)."""
    heavy, process = panel.denoisers[panel.heavy], panel.process
    t_R = torch.full((len(heavy_z_RL),), t, dtype=torch.float64, device=heavy_z_RL.device)
    features = [features_of(heavy, z_RL, t_R) for z_RL in (heavy_z_RL, swapped_z_RL)]
    # Reveal times are common, so the masked positions are too.
    row_N, position_N = (heavy_z_RL == process.mask_id).nonzero(as_tuple=True)
    kl_R = torch.zeros_like(t_R)
    for chunk in row_chunks(
        len(row_N),
        vocab_size=process.vocab_size,
        num_denoisers=2,
        budget_bytes=panel.head_budget_bytes,
    ):
        row_C, position_C = row_N[chunk], position_N[chunk]
        log_p, log_q = (
            log_probs(heavy.logits(features_RLD[row_C, position_C]), process)
            for features_RLD in features
        )
        kl_R.index_add_(0, row_C, kl_divergence(log_p, log_q).double())
    return kl_R


def _rows(state: State, rows_R: Tensor) -> State:
    """Some of a state's sequences, with what they used so far left out."""
    return replace(
        state,
        z_BL=state.z_BL[rows_R],
        reveal_uniform_BL=state.reveal_uniform_BL[rows_R],
        free_BL=state.free_BL[rows_R],
        ids=state.ids.pick(rows_R),
        usage={},
    )
