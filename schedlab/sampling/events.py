"""The event sampler: many plans on common noise, every forward made once, calls always full.

Which positions a step reveals does not depend on the predictions (`timetable`), so a sequence
needs a forward at its own events only, and sequences that stand at different steps can share one:
rows wait in one queue per denoiser, and a call is made when a queue fills it (continuous
batching).

Plans that agree so far are one row. Where their schedules part, the row splits, one copy per role;
where the copies then draw the same tokens, they are one row again. Noise is addressed, so equal
states stay equal for good and merging changes nothing: the tokens are those of running every plan
by itself with `sampler.sample` (a test, bit for bit). A prefix tree of plans needs as many rows as
it has nodes; merged states are fewer.

States are rows of one int32 table; a lane is one sequence under all plans of a family. Queues are
in the order of sequences and lanes are admitted in that order, only as many as fill the queues:
the first sequences are finished first, which bounds memory and lets their results be stored early.

Legend: B sequences, L positions, P prefix positions, N plans of a family, U rows of a lane,
T steps, R rows of a batch, E events, M positions of an event.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.plan import Plan
from schedlab.processes import MaskedProcess
from schedlab.sampling.draw import draw_tokens
from schedlab.sampling.forwards import call_rows, features_of
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.sampler import check_roles, start
from schedlab.sampling.timetable import Events, timetables

IntArray = NDArray[np.int64]

CALLS_PER_BATCH = 4
MAX_STATE_BYTES = 256 << 20


@dataclass(frozen=True)
class Sampled:
    """One sequence under plans of one family.

    Args:
        sequence: its row in the given ids.
        plans: the plans, by their place in the given list.
        tokens_UL: the different texts, int32.
        text_N: which of them each plan wrote.
        forwards: by role, forwards that each plan takes when it is run by itself, (N,).
        head_positions: by role, positions that each plan reveals, (N,).
    """

    sequence: int
    plans: tuple[int, ...]
    tokens_UL: NDArray[np.int32]
    text_N: IntArray
    forwards: Mapping[str, IntArray]
    head_positions: Mapping[str, IntArray]


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
    yield from engine.run(_families(plans, process, ids, prefix_BP))


@dataclass(frozen=True)
class _Family:
    """Plans that differ in the model schedule only.

    `version_T` numbers the stretches of steps over which no plan changes its role.
    """

    plans: tuple[int, ...]
    plan: Plan
    roles: tuple[str, ...]
    role_NT: NDArray[np.int64]
    version_T: IntArray
    timetables: list[Events]
    z_BL: Tensor


def _families(
    plans: Sequence[Plan], process: MaskedProcess, ids: SequenceIds, prefix_BP: Tensor | None
) -> list[_Family]:
    members: dict[str, list[int]] = {}
    for number, plan in enumerate(plans):
        members.setdefault(plan.family_digest, []).append(number)
    found = []
    for numbers in members.values():
        plan = plans[numbers[0]]
        roles = tuple(dict.fromkeys(r for n in numbers for r in plans[n].model_schedule.roles))
        index = {role: number for number, role in enumerate(roles)}
        role_NT = np.array([[index[r] for r in plans[n].model_schedule.steps] for n in numbers])
        changes_T = (role_NT[:, 1:] != role_NT[:, :-1]).any(axis=0)
        state = start(plan, process, ids, prefix_BP)
        found.append(
            _Family(
                plans=tuple(numbers),
                plan=plan,
                roles=roles,
                role_NT=role_NT,
                version_T=np.concatenate([[0], changes_T.cumsum()]),
                timetables=timetables(plan, process, state),
                z_BL=state.z_BL,
            )
        )
    return found


@dataclass
class _Lane:
    """One sequence under the plans of a family, standing at an event.

    Args:
        order: its turn; smaller ones go first.
        rows_U: its states' rows in the table.
        text_N: which of the rows each plan stands at.
        role_U: who runs each row at this event.
        parent_U: rows with equal parents were one state before this event.
        drawn_UM: tokens drawn at this event; kept only where rows may become one again.
        version: stretch of steps that `role_U` is for; -1 where rows became one.
        waiting: rows whose forward is not made yet.
    """

    family: _Family
    sequence: int
    order: int
    events: Events
    event: int
    rows_U: IntArray
    text_N: IntArray
    role_U: IntArray
    parent_U: IntArray | None = None
    drawn_UM: IntArray | None = None
    version: int = -1
    waiting: int = 0

    @property
    def step(self) -> int:
        return int(self.events.step_E[self.event])

    @property
    def positions_M(self) -> IntArray:
        return self.events.positions[self.event]


@dataclass(frozen=True)
class _Ready:
    """Rows of a lane that wait for one denoiser: places in `lane.rows_U`."""

    lane: _Lane
    place_R: IntArray

    def __lt__(self, other: _Ready) -> bool:
        return self.lane.order < other.lane.order


class _Table:
    """States as rows of one int32 tensor that grows; rows are handed out and taken back."""

    def __init__(self, length: int, device: torch.device) -> None:
        self.z_XL = torch.zeros((64, length), dtype=torch.int32, device=device)
        self.free = list(range(63, -1, -1))

    @property
    def num_used(self) -> int:
        return len(self.z_XL) - len(self.free)

    def take(self, count: int) -> IntArray:
        while len(self.free) < count:
            size = len(self.z_XL)
            self.z_XL = torch.cat((self.z_XL, torch.zeros_like(self.z_XL)))
            self.free = list(range(2 * size - 1, size - 1, -1)) + self.free
        taken = self.free[len(self.free) - count :]
        del self.free[len(self.free) - count :]
        return np.array(taken, dtype=np.int64)

    def give_back(self, rows: IntArray) -> None:
        self.free.extend(rows.tolist())


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
        self.table = _Table(length, self.device)
        self.max_rows = max(1, max_state_bytes // (4 * length))
        self.call_rows = call_rows(length, self.device)
        self.queues: dict[str, list[_Ready]] = {}  # heaps
        self.num_admitted = 0
        self.promised = 0  # rows that the lanes in hand can grow to
        self.sizes: dict[str, int] = {}

    def run(self, families: Sequence[_Family]) -> Iterator[Sampled]:
        """Every lane, finished."""
        # Sequence by sequence, so that the first ones are finished first.
        pending = deque((f, b) for b in range(len(self.ids)) for f in families)
        finished: list[_Lane] = []
        while pending or self.queues:
            while pending and self._wants(pending[0][0]):
                family, sequence = pending.popleft()
                self._begin(self._lane(family, sequence), finished)
            if self.queues:
                self._run_batch(finished)
            for lane in finished:
                yield self._sampled(lane)
            finished.clear()

    def _wants(self, family: _Family) -> bool:
        """Whether queues cannot fill their batches and there is memory for another lane."""
        if not self.queues:
            return True
        waiting = sum(self.sizes.values())
        wanted = 2 * CALLS_PER_BATCH * self.call_rows * len(self.queues)
        return waiting < wanted and self.promised + len(family.plans) <= self.max_rows

    def _lane(self, family: _Family, sequence: int) -> _Lane:
        row_1 = self.table.take(1)
        self.table.z_XL[row_1[0]] = family.z_BL[sequence].int()
        self.num_admitted += 1
        self.promised += len(family.plans)
        return _Lane(
            family=family,
            sequence=sequence,
            order=self.num_admitted,
            events=family.timetables[sequence],
            event=0,
            rows_U=row_1,
            text_N=np.zeros(len(family.plans), dtype=np.int64),
            role_U=np.zeros(1, dtype=np.int64),
        )

    def _begin(self, lane: _Lane, finished: list[_Lane]) -> None:
        """Queue the rows of a lane's present event, split by role; or note that it is done."""
        if lane.event == len(lane.events):
            finished.append(lane)
            return
        version = int(lane.family.version_T[lane.step])
        if version != lane.version:
            self._split(lane)
            lane.version = version
        lane.waiting = len(lane.rows_U)
        for number in np.unique(lane.role_U):
            role = lane.family.roles[number]
            place_R = np.flatnonzero(lane.role_U == number)
            heapq.heappush(self.queues.setdefault(role, []), _Ready(lane, place_R))
            self.sizes[role] = self.sizes.get(role, 0) + len(place_R)

    def _split(self, lane: _Lane) -> None:
        """One row per state and role."""
        num_roles = len(lane.family.roles)
        key_N = lane.text_N * num_roles + lane.family.role_NT[:, lane.step]
        key_U, lane.text_N = np.unique(key_N, return_inverse=True)
        parent_U, lane.role_U = key_U // num_roles, key_U % num_roles
        rows_U = lane.rows_U[parent_U]
        copied = np.flatnonzero(parent_U[1:] == parent_U[:-1]) + 1
        if len(copied):
            new = self.table.take(len(copied))
            self.table.z_XL[self._index(new)] = self.table.z_XL[self._index(rows_U[copied])]
            rows_U[copied] = new
            lane.parent_U = parent_U
            lane.drawn_UM = np.empty((len(rows_U), len(lane.positions_M)), dtype=np.int64)
        lane.rows_U = rows_U

    def _run_batch(self, finished: list[_Lane]) -> None:
        """Full calls of the denoiser with the longest queue; a partial one if none is full."""
        role = max(self.sizes, key=self.sizes.__getitem__)
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
                self._merge(lane)
                lane.event += 1
                self._begin(lane, finished)

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
        t_R = np.repeat([ready.lane.events.t_E[ready.lane.event] for ready in batch], count)
        sequence_R = np.repeat([ready.lane.sequence for ready in batch], count)
        # Every row of a lane reveals the lane's positions.
        width = [len(ready.lane.positions_M) for ready in batch]
        place_N = np.repeat(np.arange(len(row_R)), np.repeat(width, count))
        position_N = np.concatenate(
            [np.tile(r.lane.positions_M, n) for r, n in zip(batch, count, strict=True)]
        )
        features_RLD = features_of(
            denoiser,
            self.table.z_XL[self._index(row_R)].long(),
            torch.from_numpy(t_R).to(self.device),
        )
        ids_R = self.ids.pick(self._index(sequence_R))
        token_N = torch.empty(len(position_N), dtype=torch.int64, device=self.device)
        # Families may differ in decoding: they share the forward and draw apart.
        family_N = np.repeat([id(r.lane.family) for r in batch], np.multiply(width, count))
        for family in {id(r.lane.family): r.lane.family for r in batch}.values():
            own = self._index(np.flatnonzero(family_N == id(family)))
            token_N[own] = draw_tokens(
                features_RLD,
                self._index(place_N)[own],
                self._index(position_N)[own],
                ids_R,
                family.plan.decoding,
                self.process,
                denoiser,
                role,
            )
        self.table.z_XL[self._index(row_R[place_N]), self._index(position_N)] = token_N.int()
        if any(ready.lane.drawn_UM is not None for ready in batch):
            tokens, first = token_N.cpu().numpy(), 0
            for ready, rows, columns in zip(batch, count, width, strict=True):
                if ready.lane.drawn_UM is not None:
                    own_RM = tokens[first : first + rows * columns].reshape(rows, columns)
                    ready.lane.drawn_UM[ready.place_R] = own_RM
                first += rows * columns

    def _merge(self, lane: _Lane) -> None:
        """Rows that came from one state and drew the same tokens are one state again."""
        if lane.parent_U is None or lane.drawn_UM is None:
            return
        outcome_UM = np.column_stack((lane.parent_U, lane.drawn_UM))
        _, first_V, merged_U = np.unique(
            outcome_UM, axis=0, return_index=True, return_inverse=True
        )
        if len(first_V) < len(outcome_UM):
            kept = np.zeros(len(outcome_UM), dtype=bool)
            kept[first_V] = True
            self.table.give_back(lane.rows_U[~kept])
            lane.rows_U = lane.rows_U[first_V]
            lane.text_N = merged_U.reshape(-1)[lane.text_N]
            lane.version = -1  # plans of one row may have different roles again
        lane.parent_U = lane.drawn_UM = None

    def _sampled(self, lane: _Lane) -> Sampled:
        tokens_UL = self.table.z_XL[self._index(lane.rows_U)].cpu().numpy()
        self.table.give_back(lane.rows_U)
        self.promised -= len(lane.family.plans)
        role_NE = lane.family.role_NT[:, lane.events.step_E]
        width_E = np.array([len(found) for found in lane.events.positions], dtype=np.int64)
        runs = {role: role_NE == number for number, role in enumerate(lane.family.roles)}
        return Sampled(
            sequence=lane.sequence,
            plans=lane.family.plans,
            tokens_UL=tokens_UL,
            text_N=lane.text_N,
            forwards={role: runs_NE.sum(axis=1) for role, runs_NE in runs.items()},
            head_positions={role: runs_NE @ width_E for role, runs_NE in runs.items()},
        )

    def _index(self, array: IntArray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
