"""When every position is revealed: known before the first forward.

In the masked process the reveal does not depend on the prediction (METHODS: "which positions are
revealed does not depend on the prediction"; arXiv 2406.07524, Eq. 6), so a sequence's whole
timetable follows from its reveal uniforms and the policy. An *event* is a step at which a sequence
reveals something; only events need a forward.

Legend: B sequences, L positions, E events of a sequence, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.plan import Plan
from schedlab.policies import StepView, timestep_policy
from schedlab.processes import MaskedProcess, alpha, time_grid
from schedlab.sampling.sampler import State


@dataclass(frozen=True)
class Events:
    """The events of one sequence, in order.

    Args:
        step_E: denoising step of every event, int64.
        positions: what each event reveals, int64, E arrays.
    """

    step_E: NDArray[np.int64]
    positions: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.step_E)


def reveal_steps(plan: Plan, process: MaskedProcess, state: State) -> NDArray[np.int64]:
    """The step at which every position of `state` is revealed, (B, L); T where it is already."""
    policy = timestep_policy(plan.policy.name, plan.policy.parameters)
    alpha_fn = alpha(plan.noise_schedule)
    grid_T1 = time_grid(plan.time_grid, plan.num_steps)
    masked_BL = state.z_BL == process.mask_id
    step_BL = torch.full_like(state.z_BL, plan.num_steps)
    for k in range(plan.num_steps):
        s = grid_T1[k + 1].item()
        view = StepView(k, plan.num_steps, s, state.reveal_uniform_BL, state.free_BL)
        due_BL = masked_BL & (state.reveal_uniform_BL < alpha_fn(policy.next_clocks(view)))
        step_BL[due_BL] = k
        masked_BL &= ~due_BL
    return step_BL.cpu().numpy()


def events_of(step_L: NDArray[np.int64], num_steps: int) -> Events:
    """A sequence's events from the reveal steps of its positions."""
    order_N = np.argsort(step_L, kind="stable")[: int((step_L < num_steps).sum())]
    step_E, first_E = np.unique(step_L[order_N], return_index=True)
    return Events(step_E, tuple(np.split(order_N, first_E[1:])) if len(step_E) else ())
