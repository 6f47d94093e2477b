"""The event sampler: many plans on common noise, every forward made once, calls always full.

Which positions a step reveals does not depend on the predictions (`timetable`), so a sequence
needs a forward at its own events only, and sequences that stand at different steps can share one:
rows wait in one queue per denoiser, and a call is made when a queue fills it (continuous
batching).

All plans share the queues, and plans that agree so far share their states (`lanes`): the tokens
are those of running every plan by itself with `sampler.sample` (a test, bit for bit), for at most
the forwards of the plans' prefix tree.

Queues are in the order of sequences and lanes are admitted in that order, only as many as fill the
queues: the first sequences are finished first, which bounds memory and lets their results be
stored early.

Legend: B sequences, L positions, P prefix positions, F values of a trunk, R rows of a batch,
N positions that they reveal, M positions of an event.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.plan import Plan
from schedlab.processes import MaskedProcess
from schedlab.sampling.draw import draw_tokens
from schedlab.sampling.forwards import call_rows, trunk_of
from schedlab.sampling.lanes import Family, IntArray, Lane, Sampled, StateTable, families
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.sampler import check_roles

CALLS_PER_BATCH = 4
MAX_STATE_BYTES = 256 << 20


@dataclass
class Work:
    """What was really done, by role.

    Args:
        forwards: rows that a denoiser ran.
        calls: calls that they took.
        seconds: wall time of forwards, heads and draws.
    """

    forwards: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, role: str, forwards: int, calls: int, seconds: float) -> None:
        """Count one batch."""
        self.forwards[role] = self.forwards.get(role, 0) + forwards
        self.calls[role] = self.calls.get(role, 0) + calls
        self.seconds[role] = self.seconds.get(role, 0.0) + seconds

    def copy(self) -> Work:
        """What was done so far, for comparison with later."""
        return Work(dict(self.forwards), dict(self.calls), dict(self.seconds))


@torch.inference_mode()
def sample_events(
    plans: Sequence[Plan],
    denoisers: Mapping[str, Denoiser],
    process: MaskedProcess,
    ids: SequenceIds,
    prefix_BP: Tensor | None = None,
    *,
    max_state_bytes: int = MAX_STATE_BYTES,
    work: Work | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Sampled]:
    """Run plans on sequences; every (family, sequence) once, as soon as it is finished.

    Args:
        plans: of equal length; those that differ in the model schedule only share forwards, all
            share calls.
        denoisers: by role.
        process: of the denoisers.
        ids: which sequences; all plans get the same noise.
        prefix_BP: given tokens, int64 (B, P).
        max_state_bytes: memory for states; a sequence is begun only if all its plans would fit
            (one is at a time in any case).
        work: where to count.
        progress: called after every batch.

    Raises:
        InputError: plans of different lengths, a role without denoiser, a prefix that does not
            fit.
        SchedlabError: logits that are not finite.
    """
    for plan in plans:
        check_roles(plan, denoisers)
    if len({plan.length for plan in plans}) > 1:
        raise InputError("plans that are sampled together must have one length; sample in groups")
    if not plans or not len(ids):
        return
    engine = _Engine(
        denoisers, process, ids, plans[0].length, max_state_bytes, work or Work(), progress
    )
    yield from engine.run(families(plans, process, ids, prefix_BP))


@dataclass(frozen=True)
class _Ready:
    """Rows of a lane that wait for one denoiser: places in `lane.rows_U`."""

    lane: Lane
    place_R: IntArray

    def __lt__(self, other: _Ready) -> bool:
        return self.lane.order < other.lane.order


class _Engine:
    """The queues, the table of states and the loop."""

    def __init__(
        self,
        denoisers: Mapping[str, Denoiser],
        process: MaskedProcess,
        ids: SequenceIds,
        length: int,
        max_state_bytes: int,
        work: Work,
        progress: Callable[[], None],
    ) -> None:
        self.denoisers, self.process, self.ids = denoisers, process, ids
        self.work, self.progress = work, progress
        self.device = ids.seed_B.device
        self.table = StateTable(length, self.device)
        self.max_rows = max(1, max_state_bytes // (4 * length))
        self.call_rows = call_rows(length, self.device)
        self.queues: dict[str, list[_Ready]] = {}  # heaps
        self.num_admitted = 0
        self.promised = 0  # rows that the lanes in hand can grow to
        self.sizes: dict[str, int] = {}

    def run(self, plan_families: Sequence[Family]) -> Iterator[Sampled]:
        """Every lane, finished."""
        # Sequence by sequence, so that the first ones are finished first.
        pending = deque((f, b) for b in range(len(self.ids)) for f in plan_families)
        finished: list[Lane] = []
        while pending or self.queues:
            while pending and self._wants(pending[0][0]):
                family, sequence = pending.popleft()
                self.num_admitted += 1
                self.promised += len(family.plans)
                lane = Lane.begin(family, sequence, self.num_admitted, self.table)
                self._enter(lane, finished)
            if self.queues:
                self._run_batch(finished)
            for lane in finished:
                self.promised -= len(lane.family.plans)
                yield lane.finish()
            finished.clear()

    def _wants(self, family: Family) -> bool:
        """Whether queues cannot fill their batches and there is memory for another lane."""
        if not self.queues:
            return True
        waiting = sum(self.sizes.values())
        wanted = 2 * CALLS_PER_BATCH * self.call_rows * len(self.queues)
        return waiting < wanted and self.promised + len(family.plans) <= self.max_rows

    def _enter(self, lane: Lane, finished: list[Lane]) -> None:
        """Queue the states of a lane's present event by role; or note that it is done."""
        if lane.done:
            finished.append(lane)
            return
        lane.enter_event()
        for number in np.unique(lane.role_U):
            role = lane.family.roles[number]
            place_R = np.flatnonzero(lane.role_U == number)
            heapq.heappush(self.queues.setdefault(role, []), _Ready(lane, place_R))
            self.sizes[role] = self.sizes.get(role, 0) + len(place_R)

    def _run_batch(self, finished: list[Lane]) -> None:
        """Full calls of one denoiser; a partial one if no queue fills a call."""
        role = self._next_role()
        size = min(self.sizes[role], CALLS_PER_BATCH * self.call_rows)
        size -= size % self.call_rows if size > self.call_rows else 0
        batch = self._take(role, size)
        begin = time.perf_counter()
        self._forward(role, batch)
        self.work.add(role, size, -(-size // self.call_rows), time.perf_counter() - begin)
        self.progress()
        for ready in batch:
            ready.lane.waiting -= len(ready.place_R)
        for lane in {id(ready.lane): ready.lane for ready in batch}.values():
            if lane.waiting == 0:
                lane.leave_event()
                self._enter(lane, finished)

    def _next_role(self) -> str:
        """The longest queue; where none fills a call, the one whose states are furthest behind.

        Those ahead wait for their company: of 16 sequences under a plan of six segments the
        longest queue made 112 calls, the one furthest behind 55.
        """
        longest = max(self.sizes, key=self.sizes.__getitem__)
        if self.sizes[longest] >= self.call_rows:
            return longest
        return min(self.queues, key=lambda role: min(r.lane.step for r in self.queues[role]))

    def _take(self, role: str, size: int) -> list[_Ready]:
        """The first `size` rows of a queue."""
        queue, batch = self.queues[role], []
        left = size
        while left:
            ready = heapq.heappop(queue)
            if len(ready.place_R) > left:
                heapq.heappush(queue, _Ready(ready.lane, ready.place_R[left:]))
                ready = _Ready(ready.lane, ready.place_R[:left])
            left -= len(ready.place_R)
            batch.append(ready)
        self.sizes[role] -= size
        if not queue:
            del self.queues[role], self.sizes[role]
        return batch

    def _forward(self, role: str, batch: list[_Ready]) -> None:
        """Run a denoiser on the rows of a batch and reveal what their events reveal."""
        denoiser = self.denoisers[role]
        count = [len(ready.place_R) for ready in batch]
        row_R = np.concatenate([ready.lane.rows_U[ready.place_R] for ready in batch])
        t_R = np.repeat([ready.lane.t for ready in batch], count)
        sequence_R = np.repeat([ready.lane.sequence for ready in batch], count)
        # Every row of a lane reveals the lane's positions.
        width = [len(ready.lane.positions_M) for ready in batch]
        place_N = np.repeat(np.arange(len(row_R)), np.repeat(width, count))
        position_N = np.concatenate(
            [np.tile(r.lane.positions_M, n) for r, n in zip(batch, count, strict=True)]
        )
        trunk_RLF = trunk_of(
            denoiser,
            self.table.read(row_R).long(),
            torch.from_numpy(t_R).to(self.device),
        )
        ids_R = self.ids.pick(self.table.index(sequence_R))
        token_N = torch.empty(len(position_N), dtype=torch.int64, device=self.device)
        # Families may differ in decoding: they share the forward and draw apart.
        family_N = np.repeat([id(r.lane.family) for r in batch], np.multiply(width, count))
        for family in {id(r.lane.family): r.lane.family for r in batch}.values():
            own = self.table.index(np.flatnonzero(family_N == id(family)))
            token_N[own] = draw_tokens(
                trunk_RLF,
                self.table.index(place_N)[own],
                self.table.index(position_N)[own],
                ids_R,
                family.plan.decoding,
                self.process,
                denoiser,
                role,
            )
        index_N = self.table.index(row_R[place_N]), self.table.index(position_N)
        self.table.z_XL[index_N] = token_N.int()
        if any(ready.lane.split_up for ready in batch):
            tokens, first = token_N.cpu().numpy(), 0
            for ready, rows, columns in zip(batch, count, width, strict=True):
                own_N = tokens[first : first + rows * columns]
                ready.lane.drew(ready.place_R, own_N.reshape(rows, columns))
                first += rows * columns
