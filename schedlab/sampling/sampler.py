"""The one sampling loop.

A step asks the policy for the next clocks, lets the process say which positions they reveal, and
runs the denoiser only on the sequences in which something is revealed, its head only at the
revealed positions. That is exact: in the masked process the reveal does not depend on the
prediction, and a prediction that nobody reads need not be made.

States are values: `advance` never changes its input, so a prefix tree of schedules can branch from
any state. All randomness is addressed (`schedlab.sampling.noise`).

Legend: B sequences, L positions, P prefix positions, R rows that run, N revealed positions,
T steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.plan import Plan
from schedlab.policies import StepView, timestep_policy
from schedlab.processes import MaskedProcess, alpha, time_grid
from schedlab.sampling.draw import draw_tokens
from schedlab.sampling.forwards import trunk_of
from schedlab.sampling.noise import Purpose, SequenceIds, uniforms


@dataclass(frozen=True)
class Usage:
    """What one denoiser was asked for per sequence, int64 (B,).

    Args:
        forwards_B: calls.
        head_positions_B: positions that the head read.
        positions_B: positions that its blocks computed; None where every call computes all.
    """

    forwards_B: Tensor
    head_positions_B: Tensor
    positions_B: Tensor | None = None


@dataclass(frozen=True)
class State:
    """Sequences on their way from noise to text.

    Args:
        z_BL: tokens, int64; the mask where nothing is revealed yet.
        reveal_uniform_BL: one uniform per position and visit, float64.
        free_BL: positions that are generated (not given as prefix), bool.
        ids: the sequences' addresses.
        usage: per role, what was computed so far.
    """

    z_BL: Tensor
    reveal_uniform_BL: Tensor
    free_BL: Tensor
    ids: SequenceIds
    usage: Mapping[str, Usage] = field(default_factory=dict)


def start(
    plan: Plan,
    process: MaskedProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
) -> State:
    """The state before step 0: all masks, behind the prefix if one is given.

    Args:
        plan: gives the length.
        process: gives the mask.
        ids: which sequences; their device is the run's device.
        prefix_BP: given tokens, int64 (B, P), P < length.

    Raises:
        InputError: the prefix leaves nothing to generate, or holds masks.
    """
    device = ids.seed_B.device
    z_BL = process.prior(len(ids), plan.length, device=device)
    if prefix_BP is not None:
        check_prefix(prefix_BP, plan, process.vocab_size, len(ids), mask_id=process.mask_id)
        z_BL[:, : prefix_BP.shape[1]] = prefix_BP
    position_L = torch.arange(plan.length, device=device)
    return State(
        z_BL=z_BL,
        reveal_uniform_BL=uniforms(ids, Purpose.REVEAL, position_L),
        free_BL=z_BL == process.mask_id,
        ids=ids,
    )


def advance(
    state: State,
    plan: Plan,
    process: MaskedProcess,
    denoiser: Denoiser,
    role: str,
    k_from: int,
    k_to: int,
) -> State:
    """Run steps k_from .. k_to - 1 with one denoiser and return the new state.

    The plan's model schedule is not read here: the caller says who runs which steps.
    """
    policy = timestep_policy(plan.policy.name, plan.policy.parameters)
    alpha_fn = alpha(plan.noise_schedule)
    grid_T1 = time_grid(plan.time_grid, plan.num_steps)
    z_BL = state.z_BL.clone()
    forwards_B = torch.zeros_like(state.ids.seed_B)
    head_positions_B = torch.zeros_like(state.ids.seed_B)
    for k in range(k_from, k_to):
        s = grid_T1[k + 1].item()
        view = StepView(k, plan.num_steps, s, state.reveal_uniform_BL, state.free_BL)
        alpha_s_BL = alpha_fn(policy.next_clocks(view))
        revealed_BL = process.revealed(z_BL, alpha_s_BL, state.reveal_uniform_BL)
        count_B = revealed_BL.sum(-1)
        rows_R = count_B.nonzero().squeeze(-1)
        if rows_R.numel() == 0:
            continue
        t_R = grid_T1[k].expand(rows_R.shape[0]).to(z_BL.device)
        row_N, position_N = revealed_BL[rows_R].nonzero(as_tuple=True)
        z_BL[revealed_BL] = draw_tokens(
            trunk_of(denoiser, z_BL[rows_R], t_R), row_N, position_N, state.ids.pick(rows_R),
            plan.decoding, process, denoiser, role,
        )  # fmt: skip
        forwards_B[rows_R] += 1
        head_positions_B += count_B
    usage = _added(state.usage, role, Usage(forwards_B, head_positions_B))
    return replace(state, z_BL=z_BL, usage=usage)


@torch.inference_mode()
def sample(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
) -> State:
    """Run a whole plan on one batch of sequences; the final state holds no mask."""
    check_roles(plan, denoisers)
    state = start(plan, process, ids, prefix_BP)
    k = 0
    for role, num_steps in plan.model_schedule.segments:
        state = advance(state, plan, process, denoisers[role], role, k, k + num_steps)
        k += num_steps
    return state


def check_roles(plan: Plan, denoisers: Mapping[str, Denoiser]) -> None:
    """Refuse a plan that names a denoiser which is not there."""
    missing = [role for role in plan.model_schedule.roles if role not in denoisers]
    if missing:
        raise InputError(
            f"the schedule uses denoiser role {missing[0]!r}, which is not among"
            f" {sorted(denoisers)}; name a denoiser for it"
        )


def _added(usage: Mapping[str, Usage], role: str, more: Usage) -> dict[str, Usage]:
    before = usage.get(role)
    if before is not None:
        more = Usage(
            before.forwards_B + more.forwards_B, before.head_positions_B + more.head_positions_B
        )
    return {**usage, role: more}


def check_prefix(
    prefix_BP: Tensor,
    plan: Plan,
    vocab_size: int,
    num_sequences: int,
    *,
    mask_id: int | None = None,
) -> None:
    """Refuse given tokens of a wrong shape, or that are none."""
    if prefix_BP.ndim != 2 or prefix_BP.shape[0] != num_sequences:
        raise InputError(
            f"a prefix must have shape ({num_sequences}, P), got {tuple(prefix_BP.shape)}"
        )
    if prefix_BP.shape[1] >= plan.length:
        raise InputError(
            f"a prefix must be shorter than the plan's length {plan.length}, got"
            f" {prefix_BP.shape[1]} tokens; shorten it"
        )
    if ((prefix_BP < 0) | (prefix_BP >= vocab_size)).any():
        raise InputError(f"prefix tokens must lie in [0, {vocab_size}); check the tokeniser")
    if mask_id is not None and (prefix_BP == mask_id).any():
        raise InputError("a prefix must not hold the mask token; remove it")
