"""When every position is revealed: known before the first forward.

In the masked process which positions are revealed does not depend on the prediction (arXiv
2406.07524, Eq. 6), so a sequence's whole timetable follows from its reveal uniforms and the
policy. An *event* is a step at which a sequence reveals something; only events need a forward.

`first_hitting` is the continuous-time chain (arXiv 2409.02908): position i is revealed alone, at
the time t_i with alpha(t_i) = u_i. These are the reveal times of all grids as T grows, so plans of
both kinds share their noise; in the order of time they are the paper's tau u^(1 / n) at a
uniformly chosen position. The model schedule's T steps are T equal spans of time.

Legend: B sequences, L positions, E events of a sequence, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.plan import Plan
from schedlab.policies import FIRST_HITTING, StepView, check_policy, timestep_policy
from schedlab.processes import MaskedProcess, alpha, time_grid
from schedlab.sampling.sampler import State


@dataclass(frozen=True)
class Events:
    """The events of one sequence, in order.

    Args:
        step_E: denoising step of every event, int64: which denoiser runs.
        t_E: noise level that the denoiser is told, float64.
        positions: what each event reveals, int64, E arrays.
    """

    step_E: NDArray[np.int64]
    t_E: NDArray[np.float64]
    positions: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.step_E)


def timetables(plan: Plan, process: MaskedProcess, state: State) -> list[Events]:
    """The events of every sequence of a state before step 0."""
    if plan.policy.name == FIRST_HITTING:
        check_policy(plan.policy)
        masked_BL = (state.z_BL == process.mask_id).cpu().numpy()
        uniform_BL = state.reveal_uniform_BL.cpu().numpy()
        return [
            _one_by_one(uniform_L, masked_L, plan.num_steps)
            for uniform_L, masked_L in zip(uniform_BL, masked_BL, strict=True)
        ]
    grid_T1 = time_grid(plan.time_grid, plan.num_steps).numpy()
    return [_by_step(step_L, grid_T1) for step_L in reveal_steps(plan, process, state)]


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


def _by_step(step_L: NDArray[np.int64], grid_T1: NDArray[np.float64]) -> Events:
    order_N = np.argsort(step_L, kind="stable")[: int((step_L < len(grid_T1) - 1).sum())]
    step_E, first_E = np.unique(step_L[order_N], return_index=True)
    positions = tuple(np.split(order_N, first_E[1:])) if len(step_E) else ()
    return Events(step_E, grid_T1[step_E], positions)


def _one_by_one(
    uniform_L: NDArray[np.float64], masked_L: NDArray[np.bool_], num_steps: int
) -> Events:
    """alpha_t = 1 - t, so u_i = alpha(t_i) at t_i = 1 - u_i; the smallest u_i comes first."""
    order_E = np.argsort(np.where(masked_L, uniform_L, np.inf), kind="stable")[: masked_L.sum()]
    u_E = uniform_L[order_E]
    step_E = np.minimum((u_E * num_steps).astype(np.int64), num_steps - 1)
    return Events(step_E, 1.0 - u_E, tuple(order_E[:, None]))
