"""Any plans on common noise: each by the sampler that can run its policy.

Legend: B sequences, P given positions, b sequences of a batch, L positions, N plans, U texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from schedlab.classifiers import Classifier
from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.plan import Plan, families_of
from schedlab.policies import COMMIT_POLICIES, OWN_LOOP
from schedlab.processes import MaskedProcess, Process
from schedlab.sampling.decode import decode, rows_at_once
from schedlab.sampling.dense import sample_dense, usage_names
from schedlab.sampling.events import Work, sample_events
from schedlab.sampling.forwards import call_rows
from schedlab.sampling.lanes import Sampled
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.remask import remask
from schedlab.sampling.sampler import State

CALLS_PER_BATCH = 4
ByItself = Callable[[Plan, Tensor], State]
"""Runs a plan on the sequences of these rows."""


@torch.inference_mode()
def sample_plans(
    plans: Sequence[Plan],
    denoisers: Mapping[str, Denoiser],
    process: Process,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
    *,
    work: Work | None = None,
    progress: Callable[[], None] = lambda: None,
    end_id: int | None = None,
    padding_B: Tensor | None = None,
    guides: Mapping[str, Classifier] | None = None,
) -> Iterator[Sampled]:
    """Run plans on sequences; every (family, sequence) once, as soon as it is finished.

    Policies that decide before the prediction go through the event sampler, where plans share
    forwards; the others through `decode`, `remask` or `sample_dense`, each plan by itself.

    Args:
        plans, denoisers, process, ids, prefix_BP, work, progress: as for `sample_events`.
        end_id: the end-of-text token, for policies that stop there.
        padding_B: how many positions in front of every prefix are filled up and hidden from the
            denoisers; for policies that decide by predictions.
        guides: classifiers by name, for plans with guidance.

    Raises:
        InputError: padding with a policy or a denoiser that takes none.
    """
    work = Work() if work is None else work
    alone = [plan.is_dense or plan.policy.name in OWN_LOOP for plan in plans]
    events = [n for n, by_itself in enumerate(alone) if not by_itself]
    others = [n for n, by_itself in enumerate(alone) if by_itself]
    if padding_B is not None:
        for plan in plans:
            if plan.policy.name not in COMMIT_POLICIES:
                raise InputError(
                    f"policy {plan.policy.name!r} takes no prompts of unequal length; use one that"
                    " decides by predictions, or prompts of one length"
                )
    if events:
        assert isinstance(process, MaskedProcess)
        for found in sample_events(
            [plans[n] for n in events], denoisers, process, ids, prefix_BP, work=work,
            progress=progress,
        ):  # fmt: skip
            yield replace(found, plans=tuple(events[n] for n in found.plans))

    def by_itself(plan: Plan, rows_b: Tensor) -> State:
        ids_b = ids.pick(rows_b)
        prefix_bP = None if prefix_BP is None else prefix_BP[rows_b]
        if plan.is_dense:
            return sample_dense(
                plan, denoisers, process, ids_b, prefix_bP, guides=guides, work=work
            )
        assert isinstance(process, MaskedProcess)
        if plan.policy.name not in COMMIT_POLICIES:
            return remask(plan, denoisers, process, ids_b, prefix_bP, work=work)
        padding_b = None if padding_B is None else padding_B[rows_b]
        return decode(
            plan, denoisers, process, ids_b, prefix_bP,
            work=work, end_id=end_id, padding_B=padding_b,
        )  # fmt: skip

    for family in families_of([plans[n] for n in others]):
        own = [others[n] for n in family]
        plan = plans[own[0]]
        full = call_rows(plan.length, ids.seed_B.device)
        size = full if plan.is_dense else CALLS_PER_BATCH * full
        if plan.policy.name in COMMIT_POLICIES:
            free = plan.length - (0 if prefix_BP is None else prefix_BP.shape[1])
            device = ids.seed_B.device
            size = min(size, rows_at_once(plan, process.vocab_size, free, denoisers, device))
        rows_B = torch.arange(len(ids), device=ids.seed_B.device)
        batches = _filled_up(rows_B, size) if plan.is_dense else rows_B.split(size)
        yield from _family([plans[n] for n in own], own, by_itself, batches, progress)


def _filled_up(rows_B: Tensor, size: int) -> list[Tensor]:
    """Batches of one size, the last filled up with its first row."""
    if not len(rows_B):
        return []
    *full, last = rows_B.split(size)
    return [*full, torch.cat((last, last[:1].expand(size - len(last))))]


def _family(
    plans: Sequence[Plan],
    places: Sequence[int],
    by_itself: ByItself,
    batches: Sequence[Tensor],
    progress: Callable[[], None],
) -> Iterator[Sampled]:
    """Plans that differ in the model schedule alone, batch after batch of sequences."""
    roles = dict.fromkeys(name for plan in plans for name in usage_names(plan))
    for rows_b in batches:
        states = [by_itself(plan, rows_b) for plan in plans]
        progress()
        forwards, heads, computed = (
            {role: _counted(states, role, name) for role in roles}
            for name in ("forwards_B", "head_positions_B", "positions_B")
        )
        some = any(usage.positions_B is not None for usage in states[0].usage.values())
        tokens_NbL = torch.stack([state.z_BL for state in states]).to(torch.int32).cpu().numpy()
        for row, sequence in enumerate(dict.fromkeys(rows_b.tolist())):  # what fills up is last
            unique_UL, text_N = np.unique(tokens_NbL[:, row], axis=0, return_inverse=True)
            yield Sampled(
                sequence=sequence,
                plans=tuple(places),
                tokens_UL=unique_UL,
                text_N=text_N.reshape(-1),
                forwards={role: found[:, row] for role, found in forwards.items()},
                head_positions={role: found[:, row] for role, found in heads.items()},
                positions={role: found[:, row] for role, found in computed.items()}
                if some
                else None,
            )


def _counted(states: Sequence[State], role: str, name: str) -> np.ndarray:
    """What plans asked of a role, (N, b)."""
    nothing = torch.zeros_like(states[0].ids.seed_B)
    found = [getattr(s.usage[role], name) if role in s.usage else None for s in states]
    return torch.stack([nothing if f is None else f for f in found]).cpu().numpy()
