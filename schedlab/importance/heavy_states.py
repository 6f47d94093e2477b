"""Metrics on the states that the heavy sampler visits.

Weighted by the reveal probability and summed over steps, KL(heavy || light) on these states is an
unbiased estimate of the KL between the two samplers' trajectories (docs/concepts.md); states from
the forward process give the same only for a heavy denoiser that is exact.

Legend: S sequences, B batch, L positions, P prefix positions, T steps, R rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser, DenoiserSpec
from schedlab.importance.panel import Panel
from schedlab.importance.sums import SequenceSums, with_relative_kl
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import UniformProcess, alpha, time_grid
from schedlab.sampling import SequenceIds
from schedlab.sampling.forwards import features_of
from schedlab.sampling.states import first_state, next_state


@torch.inference_mode()
def heavy_sampler_sums(
    panel: Panel,
    ids: SequenceIds,
    *,
    num_steps: int,
    length: int,
    prefix_SP: Tensor | None = None,
    max_batch_tokens: int = 4_096,
    progress: Callable[[int, int], None] | None = None,
) -> SequenceSums:
    """Sample with heavy alone; sum all metrics over the positions compared of every visited state.

    Args:
        panel: the denoisers.
        ids: which trajectories, length S.
        num_steps: T steps of the uniform grid; there is one level per step.
        length: positions L, prefix included.
        prefix_SP: given tokens, int64.
        max_batch_tokens: positions per forward.
        progress: called with (steps of sequences done, in all).
    """
    plan = heavy_plan(panel, length, num_steps)
    rows = max(1, max_batch_tokens // length)
    batches: list[dict[str, np.ndarray]] = []
    for first in range(0, len(ids), rows):
        batch_B = torch.arange(first, min(first + rows, len(ids)), device=ids.seed_B.device)
        prefix_BP = None if prefix_SP is None else prefix_SP[batch_B]

        def report(step: int, first: int = first, size: int = len(batch_B)) -> None:
            if progress is not None:
                progress(first * num_steps + step * size, len(ids) * num_steps)

        batches.append(_visit(panel, plan, ids.pick(batch_B), prefix_BP, report))
    metrics = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    masked_SK = metrics.pop(_COMPARED)
    grid_T1 = time_grid(plan.time_grid, num_steps)
    alpha_T1 = alpha(plan.noise_schedule)(grid_T1)
    weight_T = panel.reading.weight(alpha_T1[:-1], alpha_T1[1:]).numpy()
    return SequenceSums(
        metrics=with_relative_kl(
            metrics, heavy=panel.heavy, lights=panel.lights, heavy_b=panel.heavy_b
        ),
        masked_SK=masked_SK,
        weight_SK=np.broadcast_to(weight_T, masked_SK.shape),
        t_K=grid_T1[:-1].numpy(),
        level_of_step_T=np.arange(num_steps),
        num_free=length - (0 if prefix_SP is None else prefix_SP.shape[1]),
    )


_COMPARED = "masked"


def heavy_plan(panel: Panel, length: int, num_steps: int) -> Plan:
    """Heavy alone, by the plain sampler on the uniform grid."""
    uniform = isinstance(panel.process, UniformProcess)
    return Plan(
        length=length,
        model_schedule=ModelSchedule.constant(panel.heavy, num_steps),
        process="uniform" if uniform else "masked",
    )


def _visit(
    panel: Panel,
    plan: Plan,
    ids: SequenceIds,
    prefix_BP: Tensor | None,
    report: Callable[[int], None],
) -> dict[str, np.ndarray]:
    """One batch of trajectories: every metric and the number of positions compared before each
    step, (B, T)."""
    remembered = RememberedRows(panel.denoisers[panel.heavy])
    panel = panel.with_denoiser(panel.heavy, remembered)
    reads_time = any(panel.denoisers[role].spec.time_input != "none" for role in panel.roles)
    grid_T1 = time_grid(plan.time_grid, plan.num_steps)
    given = 0 if prefix_BP is None else prefix_BP.shape[1]
    moves = isinstance(panel.process, UniformProcess)  # what a step does hangs on its levels
    state = first_state(plan, panel.process, ids, prefix_BP)
    changed_B = torch.ones_like(ids.seed_B, dtype=torch.bool)
    latest: dict[str, Tensor] = {}  # sums of each row's present state
    visited: dict[str, list[Tensor]] = {}
    for k in range(plan.num_steps):
        masked_B = panel.reading.positions(state.z_BL, given).sum(-1)
        # A state that did not change gives the same predictions, unless they depend on the time.
        rows_R = ((changed_B | reads_time | moves) & (masked_B > 0)).nonzero().squeeze(-1)
        if len(rows_R):
            t_R, s_R = (
                level.expand(len(rows_R)).to(state.z_BL.device) for level in grid_T1[k : k + 2]
            )
            sums = panel.sums(state.z_BL[rows_R], t_R, s_B=s_R, given=given)
            for name, sum_R in sums.items():
                latest.setdefault(name, sum_R.new_zeros(len(ids)))[rows_R] = sum_R
        for name, sum_B in (latest | {_COMPARED: masked_B.double()}).items():
            visited.setdefault(name, []).append(torch.where(masked_B > 0, sum_B, 0.0))
        before_BL = state.z_BL
        state = next_state(state, plan, panel.process, remembered, panel.heavy, k, k + 1)
        changed_B = (state.z_BL != before_BL).any(-1)
        remembered.keep_only(state.z_BL[~changed_B])
        report(k + 1)
    return {name: torch.stack(sums, dim=1).cpu().numpy() for name, sums in visited.items()}


class RememberedRows:
    """A denoiser that computes the features of a sequence it has seen once only.

    The sampler asks heavy for the very states that were just measured: without this every one of
    them would cost two forwards.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self._features: dict[tuple[bytes, float | None], Tensor] = {}

    @property
    def spec(self) -> DenoiserSpec:
        """That of the denoiser."""
        return self.denoiser.spec

    @property
    def fingerprint(self) -> str:
        """That of the denoiser."""
        return self.denoiser.fingerprint

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of every position, (B, L, D)."""
        keys = _keys(z_BL, t_B)
        new = {key: row for row, key in enumerate(keys) if key not in self._features}
        if new:
            rows_R = torch.tensor(list(new.values()), device=z_BL.device)
            t_R = None if t_B is None else t_B[rows_R]
            features_RLD = features_of(self.denoiser, z_BL[rows_R], t_R)
            for key, features_LD in zip(new, features_RLD, strict=True):
                self._features[key] = features_LD.clone()  # a view would keep the batch alive
        return torch.stack([self._features[key] for key in keys])

    def logits(self, features_ND: Tensor) -> Tensor:
        """Logits at picked positions, (N, V)."""
        return self.denoiser.logits(features_ND)

    def keep_only(self, z_BL: Tensor) -> None:
        """Forget all sequences but these."""
        kept = {z for z, _ in _keys(z_BL, None)}
        self._features = {
            key: features_LD for key, features_LD in self._features.items() if key[0] in kept
        }


def _keys(z_BL: Tensor, t_B: Tensor | None) -> list[tuple[bytes, float | None]]:
    times = [None] * len(z_BL) if t_B is None else t_B.tolist()
    rows = z_BL.cpu().contiguous().numpy()
    return [(row.tobytes(), t) for row, t in zip(rows, times, strict=True)]
