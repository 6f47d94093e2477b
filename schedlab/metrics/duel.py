"""The exact likelihood of texts under a policy (DUEL, 2603.01367) [P].

Where positions depend on predictions alone, never on drawn tokens, a text is reached along one
path only, so log p(x) is the sum of log p(x_i | what was committed before i) along it: the
policy's own score of held-out text, as the scheduled NELBO is that of random order. An argmax
decode is a point mass, so tokens are drawn at temperature 1.

Legend: S texts, L positions, P given positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.metrics.nelbo import Bound
from schedlab.metrics.order_bound import order_bound
from schedlab.plan import Plan
from schedlab.policies import COMMIT_POLICIES, OWN_LOOP, check_policy, commit_policy
from schedlab.processes import MaskedProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, Work, decode
from schedlab.sampling.decode import Forced, rows_at_once
from schedlab.sampling.sampler import Usage


def duel(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    tokens_SL: NDArray[np.int64],
    *,
    prefix_length: int = 0,
    end_id: int | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> Bound:
    """-log p(x) of every text under a plan, exactly.

    Args:
        plan: its policy must qualify, see `refusal`.
        denoisers, process: as for sampling.
        tokens_SL: (S, L) texts of the plan's length.
        prefix_length: P, given tokens, which are not scored.
        end_id: the end-of-text token, for policies that stop there: a text that goes on behind it
            where they would have filled up costs infinitely many nats.
        batch_size: texts at a time, at most.
        device: where the denoisers are.

    Raises:
        InputError: the policy has no exact likelihood, or texts of another length.
    """
    check_has_likelihood(plan)
    bound, _ = scored(
        plan,
        denoisers,
        process,
        tokens_SL,
        prefix_length=prefix_length,
        end_id=end_id,
        batch_size=batch_size,
        device=device,
    )
    return bound


def scored(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    tokens_SL: NDArray[np.int64],
    *,
    prefix_length: int = 0,
    end_id: int | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    work: Work | None = None,
    seeds: SeedBlock | None = None,
) -> tuple[Bound, dict[str, Usage]]:
    """`duel`, and what it asked of every role; what is done is counted in `work`.

    Under random orders it is an estimate of a bound (`order_bound`), by the orders of `seeds`.
    """
    S, L = tokens_SL.shape
    if plan.length != L:
        raise InputError(f"texts must have the plan's length {plan.length}, got {L}")
    if has_random_order(plan):
        check_policy(plan.policy)
        ids = SequenceIds.of([seeds or SeedBlock(seed=0, first=0, size=S)], device=device)
        return order_bound(
            plan, denoisers, process, tokens_SL, ids, prefix_length=prefix_length, work=work
        )
    check_has_likelihood(plan)
    at_once = rows_at_once(
        plan, process.vocab_size, L - prefix_length, denoisers, torch.device(device)
    )
    batch_size = min(batch_size, at_once)
    nats: list[NDArray[np.float64]] = []
    usage: dict[str, list[Usage]] = {role: [] for role in plan.model_schedule.roles}
    for begin in range(0, S, batch_size):
        text_BL = torch.from_numpy(tokens_SL[begin : begin + batch_size]).to(device)
        B = len(text_BL)
        forced = Forced(text_BL, torch.zeros(B, dtype=torch.float64, device=device))
        prefix_BP = text_BL[:, :prefix_length] if prefix_length else None
        ids = SequenceIds.of([SeedBlock(seed=0, first=0, size=B)], device=device)  # draws nothing
        state = decode(
            plan, denoisers, process, ids, prefix_BP, forced=forced, work=work, end_id=end_id
        )
        nats.append(forced.nats_B.cpu().numpy())
        for role, found in state.usage.items():
            usage[role].append(found)
    asked = {role: _joined(parts) for role, parts in usage.items()}
    return Bound(np.concatenate(nats), np.full(S, L - prefix_length)), asked


def _joined(parts: Sequence[Usage]) -> Usage:
    """What batches asked for, one after the other."""
    computed = [one.positions_B for one in parts if one.positions_B is not None]
    return Usage(
        torch.cat([one.forwards_B for one in parts]),
        torch.cat([one.head_positions_B for one in parts]),
        torch.cat(computed) if computed else None,
    )


def has_random_order(plan: Plan) -> bool:
    """Whether positions are drawn before the prediction, at temperature 1: texts have a bound."""
    is_plain = plan.decoding.temperature == plan.decoding.top_p == 1
    return is_plain and plan.policy.name not in OWN_LOOP


def check_has_likelihood(plan: Plan) -> None:
    """Refuse a plan under which texts have no exact likelihood."""
    reason = refusal(plan)
    if reason is not None:
        raise InputError(f"policy {plan.policy}: texts have no exact likelihood: {reason}")


def refusal(plan: Plan) -> str | None:
    """Why texts have no exact likelihood under a plan; None where they have."""
    if plan.policy.name not in COMMIT_POLICIES:
        return "its order is random; a bound is what the analysis and `metrics.nelbo` give"
    policy = commit_policy(plan.policy.name, plan.policy.parameters)
    if policy.revises:
        return "it takes tokens back"
    if policy.confidence != "likeliest":
        return "positions depend on the drawn tokens; set its parameter confidence = 'likeliest'"
    if plan.decoding.temperature != 1 or plan.decoding.top_p != 1:
        return "tokens must be drawn at temperature 1 and top-p 1"
    return None
