"""Sequences between two steps of a plan, in any process of tokens, for whoever looks at them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.plan import Plan
from schedlab.processes import MaskedProcess, UniformProcess, time_grid
from schedlab.sampling.chains import UniformChain, begin
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.sampler import State, advance, start


def first_state(
    plan: Plan,
    process: MaskedProcess | UniformProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
) -> State:
    """The state before step 0, see `sampler.start`."""
    if isinstance(process, MaskedProcess):
        return start(plan, process, ids, prefix_BP)
    chain = begin(plan, process, ids, prefix_BP)
    none_B0 = torch.empty((len(ids), 0), device=ids.seed_B.device)
    return State(chain.tokens_BL, none_B0, chain.free_BL, ids)


def next_state(
    state: State,
    plan: Plan,
    process: MaskedProcess | UniformProcess,
    denoiser: Denoiser,
    role: str,
    k_from: int,
    k_to: int,
) -> State:
    """Steps k_from .. k_to - 1 of the plain sampler with one denoiser, see `sampler.advance`."""
    if isinstance(process, MaskedProcess):
        return advance(state, plan, process, denoiser, role, k_from, k_to)
    grid = time_grid(plan.time_grid, plan.num_steps).tolist()

    def clock(k: int) -> Tensor:
        shape, device = state.z_BL.shape, state.z_BL.device
        return torch.full(shape, grid[k], dtype=torch.float64, device=device)

    chain = UniformChain(
        plan, state.ids, state.z_BL.clone(), state.free_BL, process, clock_BL=clock(k_from)
    )
    for k in range(k_from, k_to):
        logits_NV, at = chain.predict(denoiser, grid[k], None)
        if k == plan.num_steps - 1:
            chain.finish(logits_NV, at, role)
        else:
            chain.move(logits_NV, at, clock(k + 1), k, role)
    return replace(state, z_BL=chain.tokens_BL)
