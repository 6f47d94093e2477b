"""The loop for policies that take tokens back (ReMDM): common clocks, two probabilities a step.

A forward runs only for sequences in which a step reveals something, its head only there, as in the
plain loop. Noise is addressed by the step, since a position may be revealed several times.

Legend: B sequences, L positions, R rows that run, N revealed positions, T steps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.plan import Plan
from schedlab.policies import remask_policy
from schedlab.policies.remdm import RemaskView
from schedlab.processes import MaskedProcess, time_grid
from schedlab.sampling.draw import draw, head_chunks
from schedlab.sampling.events import Work
from schedlab.sampling.forwards import call_rows, logits_of, trunk_of
from schedlab.sampling.noise import Purpose, SequenceIds, uniforms
from schedlab.sampling.sampler import State, Usage, check_roles, start


@torch.inference_mode()
def remask(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
    *,
    work: Work | None = None,
) -> State:
    """Run a plan whose policy takes tokens back; the final state holds no mask.

    Args:
        plan, denoisers, process, ids, prefix_BP: as for `sampler.sample`.
        work: counts what is done.
    """
    check_roles(plan, denoisers)
    policy = remask_policy(plan.policy.name, plan.policy.parameters)
    state = start(plan, process, ids, prefix_BP)
    z_BL, free_BL, device = state.z_BL.clone(), state.free_BL, state.z_BL.device
    confidence_BL = torch.ones(z_BL.shape, dtype=torch.float64, device=device)
    grid_T1 = time_grid(plan.time_grid, plan.num_steps)
    position_L = torch.arange(plan.length, device=device)
    nothing = torch.zeros_like(ids.seed_B)
    usage = {role: Usage(nothing.clone(), nothing.clone()) for role in plan.model_schedule.roles}
    for k, role in enumerate(plan.model_schedule.steps):
        masked_BL = z_BL == process.mask_id
        view = RemaskView(
            t=grid_T1[k].item(),
            s=grid_T1[k + 1].item(),
            masked_BL=masked_BL,
            confidence_BL=confidence_BL,
            free_BL=free_BL,
        )
        chances = policy.chances(view)
        u_BL = uniforms(ids, Purpose.REMASK, position_L, k)
        reveal_BL = masked_BL & (u_BL < chances.reveal.to(device))
        back_BL = ~masked_BL & free_BL & (u_BL < chances.remask.to(device))
        rows_R = reveal_BL.any(dim=-1).nonzero().squeeze(-1)
        if rows_R.numel():
            begin = time.perf_counter()
            t_R = grid_T1[k].expand(rows_R.shape[0]).to(device)
            trunk = trunk_of(denoisers[role], z_BL[rows_R], t_R)
            row_N, position_N = reveal_BL[rows_R].nonzero(as_tuple=True)
            for row_C, position_C in head_chunks(row_N, position_N, process, device):
                logits_CV = logits_of(denoisers[role], trunk, row_C, position_C)
                at = rows_R[row_C], position_C
                token_C = draw(
                    logits_CV, ids.pick(at[0]), position_C, plan.decoding, process, role, k + 1
                )
                z_BL[at] = token_C
                if policy.reads_confidence:
                    log_p_CV = process.log_p_x(logits_CV)
                    confidence_BL[at] = log_p_CV.gather(1, token_C[:, None])[:, 0].exp()
            usage[role].forwards_B[rows_R] += 1
            usage[role].head_positions_B[:] += reveal_BL.sum(dim=-1)
            if work is not None:
                calls = -(-len(rows_R) // call_rows(plan.length, device))
                work.add(role, len(rows_R), calls, time.perf_counter() - begin)
        z_BL[back_BL] = process.mask_id
    return replace(state, z_BL=z_BL, usage=usage)
