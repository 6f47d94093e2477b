"""Held-out text under random orders: an unbiased estimate of a bound on -log p(x).

Where the order is random, log p(x) is a sum over orders that nobody can take. The expectation over
orders of sum_k sum_{i in S_k} -log p(x_i | revealed before k) is at least -log p(x) (Jensen), and
one order per text, drawn as the sampler draws it, estimates it without bias: of ancestral sampling
in T steps it is the scheduled NELBO. It stands beside the exact likelihood of policies that decide
by predictions (`schedlab.metrics.duel`), from which it differs by what the bound gives away too.

All states of a text are known beforehand, so they are predicted in one batch.

Legend: S texts, L positions, P given positions, E events (states that need a forward), e of them
at a time, N positions that they read, C of them at a time.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.denoisers.base import Denoiser
from schedlab.metrics.nelbo import Bound
from schedlab.plan import Plan
from schedlab.processes import MaskedProcess
from schedlab.sampling import SequenceIds, Work
from schedlab.sampling.draw import head_chunks
from schedlab.sampling.forwards import call_rows, logits_of, trunk_of
from schedlab.sampling.sampler import Usage, start
from schedlab.sampling.timetable import timetables

_EVENTS_AT_ONCE = 256


@torch.inference_mode()
def order_bound(
    plan: Plan,
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    tokens_SL: NDArray[np.int64],
    ids: SequenceIds,
    *,
    prefix_length: int = 0,
    work: Work | None = None,
) -> tuple[Bound, dict[str, Usage]]:
    """The estimate of every text, and what it asked of every role.

    Args:
        plan: with a policy that decides before the prediction.
        denoisers, process: as for sampling.
        tokens_SL: (S, L) texts of the plan's length.
        ids: S addresses of the random orders.
        prefix_length: P, given tokens, which are not scored.
        work: counts what is done.
    """
    text_SL = torch.from_numpy(tokens_SL).to(ids.seed_B.device)
    S, L = text_SL.shape
    state = start(plan, process, ids, text_SL[:, :prefix_length] if prefix_length else None)
    tables = timetables(plan, process, state)
    rank_SL = np.full((S, L), -1)
    for row, events in enumerate(tables):
        for number, positions in enumerate(events.positions):
            rank_SL[row, positions] = number
    order_SL = torch.from_numpy(rank_SL).to(text_SL.device)
    row_E = np.repeat(np.arange(S), [len(events) for events in tables])
    number_E = np.concatenate([np.arange(len(events)) for events in tables])
    step_E = np.concatenate([events.step_E for events in tables])
    t_E = np.concatenate([events.t_E for events in tables])
    role_E = np.array(plan.model_schedule.steps)[step_E]
    nats_S = torch.zeros(S, dtype=torch.float64, device=text_SL.device)
    usage = {}
    for role in plan.model_schedule.roles:
        forwards_S, heads_S = torch.zeros_like(state.ids.seed_B), torch.zeros_like(ids.seed_B)
        own = np.flatnonzero(role_E == role)
        for at in np.array_split(own, max(1, -(-len(own) // _EVENTS_AT_ONCE))):
            if not len(at):
                continue
            begin = time.perf_counter()
            row_e = torch.from_numpy(row_E[at]).to(text_SL.device)
            number_e1 = torch.from_numpy(number_E[at]).to(text_SL.device)[:, None]
            known_eL = order_SL[row_e] < number_e1
            z_eL = text_SL[row_e].masked_fill(~known_eL, process.mask_id)
            t_e = torch.from_numpy(t_E[at]).to(text_SL.device)
            trunk = trunk_of(denoisers[role], z_eL, t_e)
            event_N, place_N = (order_SL[row_e] == number_e1).nonzero(as_tuple=True)
            for event_C, place_C in head_chunks(event_N, place_N, process, text_SL.device):
                logits_CV = logits_of(denoisers[role], trunk, event_C, place_C)
                token_C1 = text_SL[row_e[event_C], place_C][:, None]
                nats_C = -process.log_p_x(logits_CV).gather(1, token_C1)[:, 0]
                nats_S.index_add_(0, row_e[event_C], nats_C.double())
            ones_e = torch.ones_like(row_e)
            forwards_S.index_add_(0, row_e, ones_e)
            heads_S.index_add_(0, row_e[event_N], torch.ones_like(event_N))
            if work is not None:
                calls = -(-len(at) // call_rows(L, row_e.device))
                work.add(role, len(at), calls, time.perf_counter() - begin)
        usage[role] = Usage(forwards_S, heads_S)
    return Bound(nats_S.cpu().numpy(), np.full(S, L - prefix_length)), usage
