"""How an early swap of heavy for light spreads: coupled samplers with common noise.

For every segment, a sampler that runs light in that segment and heavy elsewhere is coupled with
the all-heavy sampler: same reveal times, same token noise. What is counted: generated positions
whose final token differs; how many differ just after the segment; and KL of heavy's next
prediction on the all-heavy state against that on the swapped state, just after the segment. Where
a swap changed no token the rest of the two trajectories is the same and is not run again.

What differs in the end but not just after the segment propagated: in the masked process heavy
revealed it later on a changed state, and a revealed token stays. In the uniform-state process
heavy also repairs, so that less may differ in the end.

Legend: S sequences, B batch, L positions, P prefix positions, A lights, J segments, R branches,
N positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from schedlab.denoisers.base import features_at
from schedlab.importance.divergences import kl_divergence, row_chunks
from schedlab.importance.heavy_states import heavy_plan
from schedlab.importance.panel import Panel
from schedlab.importance.sums import FloatArray
from schedlab.plan import Plan, segment_bounds
from schedlab.processes import time_grid
from schedlab.sampling import SequenceIds, State
from schedlab.sampling.states import first_state, next_state


@dataclass(frozen=True)
class SwapSums:
    """What swaps of heavy for one light did, per sequence and segment.

    Args:
        changed_SJ: generated positions whose final token differs.
        own_SJ: positions that differ just after the swapped segment.
        kl_next_SJ: KL of heavy's next predictions summed over the positions compared, nats.
        masked_SJ: how many positions that is: 0 after the last segment.
        num_free: generated positions of a sequence.
        t_J1: noise levels of the segments' bounds.
    """

    changed_SJ: FloatArray
    own_SJ: FloatArray
    kl_next_SJ: FloatArray
    masked_SJ: FloatArray
    num_free: int
    t_J1: FloatArray


@torch.inference_mode()
def swap_sums(
    panel: Panel,
    ids: SequenceIds,
    *,
    lights: Sequence[str],
    num_steps: int,
    num_segments: int,
    length: int,
    prefix_SP: Tensor | None = None,
    max_batch_tokens: int = 4_096,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SwapSums]:
    """Swap heavy for each light in each segment, on the same trajectories.

    Args:
        panel: the denoisers.
        ids: which trajectories, length S.
        lights: roles of the panel to swap in.
        num_steps: T steps of the uniform grid.
        num_segments: (nearly) equal segments J.
        length: positions L, prefix included.
        prefix_SP: given tokens, int64.
        max_batch_tokens: positions per forward.
        progress: called with (steps of sequences done, in all).

    Returns:
        By light role.
    """
    plan = heavy_plan(panel, length, num_steps)
    given = 0 if prefix_SP is None else prefix_SP.shape[1]
    bounds = segment_bounds(num_segments, num_steps)
    rows = max(1, max_batch_tokens // length)
    parts = []
    for first in range(0, len(ids), rows):
        batch_B = torch.arange(first, min(first + rows, len(ids)), device=ids.seed_B.device)
        prefix_BP = None if prefix_SP is None else prefix_SP[batch_B]

        def report(step: int, first: int = first, size: int = len(batch_B)) -> None:
            if progress is not None:
                progress(first * num_steps + step * size, len(ids) * num_steps)

        state = first_state(plan, panel.process, ids.pick(batch_B), prefix_BP)
        coupling = _Coupling(panel, tuple(lights), plan, bounds, rows, given)
        parts.append(coupling.run(state, report))
    found_4ASJ = torch.cat(parts, dim=2).cpu().numpy()
    return {
        light: SwapSums(
            changed_SJ=found_4ASJ[0, a],
            own_SJ=found_4ASJ[3, a],
            kl_next_SJ=found_4ASJ[1, a],
            masked_SJ=found_4ASJ[2, a],
            num_free=length - given,
            t_J1=time_grid(plan.time_grid, num_steps)[bounds].numpy(),
        )
        for a, light in enumerate(lights)
    }


@dataclass(frozen=True)
class _Branches:
    """Trajectories that left the all-heavy one: by which light, in which segment, of which row."""

    state: State
    light_R: Tensor
    segment_R: Tensor
    row_R: Tensor


@dataclass(frozen=True)
class _Coupling:
    """One batch: the all-heavy trajectories and all that branches off them.

    Segment by segment heavy carries on the all-heavy trajectories and every branch so far, all in
    one batch as far as `rows` allows, and each light adds the branches of this segment.
    """

    panel: Panel
    lights: tuple[str, ...]
    plan: Plan
    bounds: list[int]
    rows: int
    given: int

    def run(self, state: State, report: Callable[[int], None]) -> Tensor:
        """Changed final tokens, next KL, positions compared, own changes; (4, A, B, J)."""
        num_segments = len(self.bounds) - 1
        shape = (4, len(self.lights), len(state.ids), num_segments)
        found = torch.zeros(shape, dtype=torch.float64, device=state.z_BL.device)
        branches: list[_Branches] = []
        for j in range(num_segments):
            after, branches = self._carry_on(state, branches, j)
            if j < num_segments - 1:
                compared_BL = self.panel.reading.positions(after.z_BL, self.given)
                found[2, :, :, j] = compared_BL.sum(-1)
            for a in range(len(self.lights)):
                new = self._branch_off(state, after, a, j)
                if len(new.row_R):
                    if j < num_segments - 1:
                        found[1, a, new.row_R, j] = self._next_prediction_kl(after, new, j)
                    found[3, a, new.row_R, j] = _num_different(new.state, after, new.row_R)
                    branches.append(new)
            state = after
            report(self.bounds[j + 1])
        for some in branches:
            changed_R = _num_different(some.state, state, some.row_R)
            found[0, some.light_R, some.row_R, some.segment_R] = changed_R
        return found

    def _carry_on(
        self, state: State, branches: list[_Branches], segment: int
    ) -> tuple[State, list[_Branches]]:
        """The all-heavy trajectories and all branches after another segment of heavy."""
        sizes = [len(state.ids), *(len(some.row_R) for some in branches)]
        everything = _joined([state, *(some.state for some in branches)])
        advanced = _joined(
            [
                self._advance(_rows(everything, rows_R), self.panel.heavy, segment)
                for rows_R in torch.arange(sum(sizes), device=state.z_BL.device).split(self.rows)
            ]
        )
        indices = torch.arange(sum(sizes), device=state.z_BL.device).split(sizes)
        after, *states = (_rows(advanced, rows_R) for rows_R in indices)
        return after, [
            replace(some, state=moved) for some, moved in zip(branches, states, strict=True)
        ]

    def _branch_off(self, before: State, after: State, light: int, segment: int) -> _Branches:
        """The trajectories that a light changes in a segment, and how."""
        swapped = self._advance(before, self.lights[light], segment)
        row_R = (swapped.z_BL != after.z_BL).any(-1).nonzero().squeeze(-1)
        return _Branches(
            state=_rows(swapped, row_R),
            light_R=torch.full_like(row_R, light),
            segment_R=torch.full_like(row_R, segment),
            row_R=row_R,
        )

    def _advance(self, state: State, role: str, segment: int) -> State:
        k_from, k_to = self.bounds[segment], self.bounds[segment + 1]
        return next_state(
            state, self.plan, self.panel.process, self.panel.denoisers[role], role, k_from, k_to
        )

    def _next_prediction_kl(self, after: State, new: _Branches, segment: int) -> Tensor:
        """KL(p_heavy(. | all-heavy state) || p_heavy(. | branch)), summed over the positions
        compared, (R,)."""
        heavy, reading = self.panel.denoisers[self.panel.heavy], self.panel.reading
        heavy_z_RL, branch_z_RL = after.z_BL[new.row_R], new.state.z_BL
        t = time_grid(self.plan.time_grid, self.plan.num_steps)[self.bounds[segment + 1]]
        t_R = t.expand(len(heavy_z_RL)).to(heavy_z_RL.device)
        features = [features_at(heavy, z_RL, t_R) for z_RL in (heavy_z_RL, branch_z_RL)]
        # Reveal times are common, so the masked positions are too.
        row_N, position_N = reading.positions(heavy_z_RL, self.given).nonzero(as_tuple=True)
        kl_R = torch.zeros_like(t_R)
        for chunk in row_chunks(
            len(row_N),
            vocab_size=reading.process.vocab_size,
            num_denoisers=2,
            budget_bytes=self.panel.head_budget_bytes,
        ):
            row_C, position_C = row_N[chunk], position_N[chunk]
            log_p, log_q = (
                reading.log_prediction(heavy, features_RLD[row_C, position_C])
                for features_RLD in features
            )
            kl_R.index_add_(0, row_C, kl_divergence(log_p, log_q).double())
        return kl_R


def _num_different(branch: State, heavy: State, row_R: Tensor) -> Tensor:
    """Positions where branches differ from the all-heavy rows that they left, (R,)."""
    return (branch.z_BL != heavy.z_BL[row_R]).sum(-1).double()


def _rows(state: State, rows_R: Tensor) -> State:
    """Some of a state's sequences; what they used so far is left out."""
    return State(
        z_BL=state.z_BL[rows_R],
        reveal_uniform_BL=state.reveal_uniform_BL[rows_R],
        free_BL=state.free_BL[rows_R],
        ids=state.ids.pick(rows_R),
    )


def _joined(states: list[State]) -> State:
    """States at the same step as one batch; what they used so far is left out."""
    return State(
        z_BL=torch.cat([state.z_BL for state in states]),
        reveal_uniform_BL=torch.cat([state.reveal_uniform_BL for state in states]),
        free_BL=torch.cat([state.free_BL for state in states]),
        ids=SequenceIds(
            torch.cat([state.ids.seed_B for state in states]),
            torch.cat([state.ids.index_B for state in states]),
        ),
    )
