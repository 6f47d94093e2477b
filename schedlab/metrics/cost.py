"""What a plan costs, before it is run.

A step needs a forward only for sequences in which it reveals something. With G free positions,
each revealed at step k with probability d_k = alpha_{k+1} - alpha_k independently, that happens
with probability 1 - (1 - d_k)^G: on the uniform grid T (1 - (1 - 1/T)^G) expected forwards in all.
What a run really needed is counted by the sampler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.classifiers import Classifier
from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.cost import block_flops, head_flops
from schedlab.plan import Plan
from schedlab.policies import (
    ALLOCATION_POLICIES,
    COMMIT_POLICIES,
    REMASK_POLICIES,
    UNIFORM_POLICIES,
    allocation_policy,
    commit_policy,
    remask_policy,
)
from schedlab.policies.remdm import RemaskView
from schedlab.processes import alpha, time_grid
from schedlab.results.plan_cost import PlanCost
from schedlab.results.record import RoleCost
from schedlab.sampling.dense import ABLATION, GUIDANCE, usage_names
from schedlab.sampling.guidance import Steering

FloatArray = NDArray[np.float64]


def role_costs(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    prefix_length: int = 0,
    *,
    guides: Mapping[str, Classifier] | None = None,
) -> dict[str, RoleCost]:
    """Price of a request to each denoiser that the plan uses, behind so many given positions; with
    the shadows of policies that have them a request is of a sequence longer by a block.

    A pass of guides, the mean over a plan's attributes, is a head position of `guidance`, and a
    forward of them without a token one of `ablation`.
    """
    length, costs = plan.length, {}
    if plan.policy.name in COMMIT_POLICIES:
        policy = commit_policy(plan.policy.name, plan.policy.parameters)
        length += policy.block_size(plan.length - prefix_length) if policy.shadowed else 0
    for role in plan.model_schedule.roles:
        spec = denoisers[role].spec
        costs[role] = RoleCost(
            num_blocks=spec.num_blocks,
            block_flops=block_flops(spec, length),
            head_flops=head_flops(spec),
        )
    if plan.guidance is not None:
        named = [attribute.classifier for attribute in plan.guidance.attributes]
        free = plan.length - prefix_length
        each = [guidance_flops((guides or {})[name], plan.length, free) for name in named]
        costs[GUIDANCE] = RoleCost(
            num_blocks=0, block_flops=0, head_flops=round(sum(each) / len(each))
        )
        if ABLATION in usage_names(plan):
            alone = [(guides or {})[name].encoder_flops(plan.length) for name in named]
            costs[ABLATION] = RoleCost(
                num_blocks=0, block_flops=0, head_flops=round(sum(alone) / len(alone))
            )
    return costs


def guidance_flops(guide: Classifier, length: int, free: int) -> int:
    """FLOPs of a pass of a guide forward and back: its encoder twice (no gradient of weights), and
    the products with its embedding, forward and back at generated positions."""
    vocab_size, width = guide.embedding_weight.shape
    return 2 * guide.encoder_flops(length) + 2 * 2 * free * vocab_size * width


def expected_cost(
    plan: Plan, costs: Mapping[str, RoleCost], *, prefix_length: int = 0
) -> PlanCost:
    """Expected cost of one sequence under `plan`, and its cost by the paper's convention.

    Args:
        plan: the plan.
        costs: price of a request per role.
        prefix_length: given positions, which are never revealed.
    """
    num_free = plan.length - prefix_length
    step_cost = _every_step if plan.is_dense else STEP_COSTS[plan.policy.name]
    busy_T, revealed_T = step_cost(plan, num_free)
    steps = np.array(plan.model_schedule.steps)
    roles = plan.model_schedule.roles
    forwards = {role: float(busy_T[steps == role].sum()) for role in roles}
    heads = {role: float(revealed_T[steps == role].sum()) for role in roles}
    nominal = {role: plan.model_schedule.count(role) for role in roles}
    guided = _guidance_flops(plan, costs)
    flops_blocks = sum(forwards[role] * costs[role].block_flops for role in roles)
    return PlanCost(
        forwards=forwards,
        block_forwards=sum(forwards[role] * costs[role].num_blocks for role in roles),
        flops_blocks=flops_blocks,
        flops_total=flops_blocks
        + sum(heads[role] * costs[role].head_flops for role in roles)
        + guided,
        nominal_forwards=nominal,
        nominal_block_forwards=sum(nominal[role] * costs[role].num_blocks for role in roles),
        nominal_flops_blocks=sum(nominal[role] * costs[role].block_flops for role in roles),
        nominal_flops_total=sum(
            nominal[role] * (costs[role].block_flops + plan.length * costs[role].head_flops)
            for role in roles
        )
        + guided,
    )


def _guidance_flops(plan: Plan, costs: Mapping[str, RoleCost]) -> int:
    """Of all passes of guides over a run."""
    if plan.guidance is None:
        return 0
    grid = time_grid(plan.time_grid, plan.num_steps).tolist()
    steering = Steering(plan.guidance, {})
    guided = sum(steering.is_on(k, grid[:-1]) for k in range(plan.num_steps))
    passes = guided * plan.guidance.iterations * len(plan.guidance.attributes)
    total = passes * costs[GUIDANCE].head_flops
    if ABLATION in costs:
        policy = allocation_policy(plan.policy.name, plan.policy.parameters)
        read = sum(not policy.is_warming_up(k, plan.num_steps) for k in range(plan.num_steps - 1))
        forwards = read * (plan.length + 1) * len(plan.guidance.attributes)
        total += forwards * costs[ABLATION].head_flops
    return total


def _every_step(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    """A forward at every step, the head at all positions that are predicted."""
    share = np.ones(plan.num_steps)
    if plan.process == "masked":  # at masks: at most so many where clocks run ahead
        share = (
            1.0
            - alpha(plan.noise_schedule)(time_grid(plan.time_grid, plan.num_steps)[:-1]).numpy()
        )
    return np.ones(plan.num_steps), share * num_free


def _ancestral(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    alpha_T1 = alpha(plan.noise_schedule)(time_grid(plan.time_grid, plan.num_steps)).numpy()
    share_T = np.diff(alpha_T1)
    return 1.0 - (1.0 - share_T) ** num_free, share_T * num_free


def _first_hitting(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    """Every position has a forward of its own, in the span of time that its step stands for."""
    _, revealed_T = _ancestral(plan, num_free)
    return revealed_T, revealed_T


def _random_order(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    due_T1 = np.arange(plan.num_steps + 1) * num_free // plan.num_steps
    revealed_T = np.diff(due_T1).astype(np.float64)
    return (revealed_T > 0).astype(np.float64), revealed_T


def _by_calls(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    """Calls of every block, as its policy knows them; at most so many where it stops at ends."""
    policy = commit_policy(plan.policy.name, plan.policy.parameters)
    size = policy.block_size(num_free)
    num_blocks = -(-num_free // size)
    num_calls = max(1, plan.num_steps // num_blocks)
    reads_T = np.zeros(plan.num_steps)
    for block in range(num_blocks):
        masks = min(size, num_free - block * size)
        for call, read in enumerate(policy.reads(masks, num_calls)):
            reads_T[min(block * num_calls + call, plan.num_steps - 1)] += read
    times = 2 if policy.guidance else 1
    return times * (reads_T > 0).astype(np.float64), times * reads_T


def _by_share(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    """At most: a call for every token, over all steps. How many there really are is what a run
    shows."""
    policy = commit_policy(plan.policy.name, plan.policy.parameters)
    size = policy.block_size(num_free)
    calls_T = np.full(plan.num_steps, num_free / plan.num_steps)
    calls_T *= 2 if policy.guidance else 1
    return calls_T, calls_T * (size if policy.revises else (size + 1) / 2)


def _remasking(plan: Plan, num_free: int) -> tuple[FloatArray, FloatArray]:
    """The share of masks from step to step; `remdm_conf` as if confidences were equal."""
    policy = remask_policy(plan.policy.name, plan.policy.parameters)
    grid = time_grid(plan.time_grid, plan.num_steps).tolist()
    share_T, masked = np.zeros(plan.num_steps), 1.0
    for k in range(plan.num_steps):
        count = min(num_free - 1, round((1.0 - masked) * num_free))  # revealed, one mask is left
        masked_1L = torch.arange(num_free)[None] >= count
        ones = torch.ones(masked_1L.shape, dtype=torch.float64)
        view = RemaskView(grid[k], grid[k + 1], masked_1L, ones, torch.ones_like(masked_1L))
        chances = policy.chances(view)
        reveal = float(chances.reveal.expand(masked_1L.shape)[masked_1L].mean())
        back_1L = chances.remask.expand(masked_1L.shape)[~masked_1L]
        back = float(back_1L.mean()) if count else 0.0
        share_T[k] = masked * reveal
        masked = masked * (1.0 - reveal) + (1.0 - masked) * back
    return 1.0 - (1.0 - share_T) ** num_free, share_T * num_free


STEP_COSTS: dict[str, Callable[[Plan, int], tuple[FloatArray, FloatArray]]] = {
    "ancestral": _ancestral,
    "random_order": _random_order,
    "first_hitting": _first_hitting,
    **{
        name: _by_share if policy.by_share else _by_calls
        for name, policy in COMMIT_POLICIES.items()
    },
    **dict.fromkeys(REMASK_POLICIES, _remasking),
    **dict.fromkeys((*ALLOCATION_POLICIES, *UNIFORM_POLICIES), _every_step),
}
"""By policy: expected forwards and positions that the head reads per step, float64 (T,) each; at
most so many where the predictions decide."""
