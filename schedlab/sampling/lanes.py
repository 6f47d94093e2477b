"""Lanes: one sequence under all plans of a family, and the states that the plans stand at.

Plans that agree so far stand at one state. Where their roles part, the state splits, one copy per
role; where the copies then draw the same tokens, they are one state again. Noise is addressed, so
equal states stay equal for good and merging changes nothing.

Legend: B sequences, L positions, N plans of a family, T steps, U states of a lane, E events,
M positions of an event, X rows of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schedlab.plan import Plan, families_of
from schedlab.processes import MaskedProcess
from schedlab.sampling.noise import SequenceIds
from schedlab.sampling.sampler import start
from schedlab.sampling.timetable import Events, timetables

IntArray = NDArray[np.int64]


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
        positions: by role, positions that blocks compute, (N,); None where every forward computes
            all.
    """

    sequence: int
    plans: tuple[int, ...]
    tokens_UL: NDArray[np.int32]
    text_N: IntArray
    forwards: Mapping[str, IntArray]
    head_positions: Mapping[str, IntArray]
    positions: Mapping[str, IntArray] | None = None


class StateTable:
    """States as rows of one int32 tensor that grows; rows are handed out and taken back."""

    def __init__(self, length: int, device: torch.device) -> None:
        self.z_XL = torch.zeros((64, length), dtype=torch.int32, device=device)
        self._free = list(range(63, -1, -1))

    @property
    def num_used(self) -> int:
        """Rows that are handed out."""
        return len(self.z_XL) - len(self._free)

    def add(self, z_UL: Tensor) -> IntArray:
        """Rows that hold these states from now on."""
        count = len(z_UL)
        while len(self._free) < count:
            size = len(self.z_XL)
            self.z_XL = torch.cat((self.z_XL, torch.zeros_like(self.z_XL)))
            self._free = list(range(2 * size - 1, size - 1, -1)) + self._free
        rows_U = np.array(self._free[len(self._free) - count :], dtype=np.int64)
        del self._free[len(self._free) - count :]
        self.z_XL[self.index(rows_U)] = z_UL.to(torch.int32)
        return rows_U

    def read(self, rows_U: IntArray) -> Tensor:
        """The states in these rows, int32 (U, L)."""
        return self.z_XL[self.index(rows_U)]

    def give_back(self, rows_U: IntArray) -> None:
        """Hand these rows out again."""
        self._free.extend(rows_U.tolist())

    def index(self, array: IntArray) -> Tensor:
        """An index array on the table's device."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.z_XL.device)


@dataclass(frozen=True)
class Family:
    """Plans that differ in the model schedule only.

    Args:
        plans: their places in the given list.
        plan: one of them.
        roles: all that they use.
        role_NT: which of `roles` each plan runs at each step.
        version_T: numbers the stretches of steps over which no plan changes its role.
        timetables: the events of every sequence.
        z_BL: the states before step 0.
    """

    plans: tuple[int, ...]
    plan: Plan
    roles: tuple[str, ...]
    role_NT: IntArray
    version_T: IntArray
    timetables: list[Events]
    z_BL: Tensor


def families(
    plans: Sequence[Plan], process: MaskedProcess, ids: SequenceIds, prefix_BP: Tensor | None
) -> list[Family]:
    """The families of `plans`, ready to start on these sequences."""
    found = []
    for numbers in families_of(plans):
        plan = plans[numbers[0]]
        roles = tuple(dict.fromkeys(r for n in numbers for r in plans[n].model_schedule.roles))
        index = {role: number for number, role in enumerate(roles)}
        role_NT = np.array([[index[r] for r in plans[n].model_schedule.steps] for n in numbers])
        changes_T = (role_NT[:, 1:] != role_NT[:, :-1]).any(axis=0)
        state = start(plan, process, ids, prefix_BP)
        found.append(
            Family(
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
class Lane:
    """One sequence under the plans of a family, standing at an event.

    Args:
        family, sequence: whose.
        order: its turn; smaller ones go first.
        table: holds the states.
        rows_U: where in the table.
        text_N: which of the states each plan stands at.
        role_U: who runs each state at this event, an index of `family.roles`.
        event: number of the event.
        waiting: states whose forward is not made yet.
    """

    family: Family
    sequence: int
    order: int
    table: StateTable
    rows_U: IntArray
    text_N: IntArray
    role_U: IntArray
    event: int = 0
    waiting: int = 0
    # Between a split and its merge: states with equal parents were one, and what they drew.
    _parent_U: IntArray | None = None
    _drawn_UM: IntArray | None = None
    _version: int = -1  # stretch of steps that `role_U` is for; -1 where states became one

    @classmethod
    def begin(cls, family: Family, sequence: int, order: int, table: StateTable) -> Lane:
        """All plans at the state before step 0."""
        return cls(
            family=family,
            sequence=sequence,
            order=order,
            table=table,
            rows_U=table.add(family.z_BL[sequence : sequence + 1]),
            text_N=np.zeros(len(family.plans), dtype=np.int64),
            role_U=np.zeros(1, dtype=np.int64),
        )

    @property
    def events(self) -> Events:
        """Of its sequence."""
        return self.family.timetables[self.sequence]

    @property
    def done(self) -> bool:
        """Whether no event is left."""
        return self.event == len(self.events)

    @property
    def positions_M(self) -> IntArray:
        """What the present event reveals."""
        return self.events.positions[self.event]

    @property
    def step(self) -> int:
        """Of the present event."""
        return int(self.events.step_E[self.event])

    @property
    def t(self) -> float:
        """Noise level of the present event."""
        return float(self.events.t_E[self.event])

    @property
    def split_up(self) -> bool:
        """Whether tokens drawn at this event decide which states become one."""
        return self._drawn_UM is not None

    def enter_event(self) -> None:
        """One state per state and role."""
        step = self.step
        version = int(self.family.version_T[step])
        if version != self._version:
            self._split(step)
            self._version = version
        self.waiting = len(self.rows_U)

    def drew(self, place_R: IntArray, tokens_RM: IntArray) -> None:
        """Note what some of the states drew."""
        if self._drawn_UM is not None:
            self._drawn_UM[place_R] = tokens_RM

    def leave_event(self) -> None:
        """States that came from one and drew the same tokens are one again."""
        if self._parent_U is not None and self._drawn_UM is not None:
            self._merge(np.column_stack((self._parent_U, self._drawn_UM)))
        self._parent_U = self._drawn_UM = None
        self.event += 1

    def finish(self) -> Sampled:
        """The texts; the rows are given back."""
        tokens_UL = self.table.read(self.rows_U).cpu().numpy()
        self.table.give_back(self.rows_U)
        role_NE = self.family.role_NT[:, self.events.step_E]
        width_E = np.array([len(found) for found in self.events.positions], dtype=np.int64)
        runs = {role: role_NE == number for number, role in enumerate(self.family.roles)}
        return Sampled(
            sequence=self.sequence,
            plans=self.family.plans,
            tokens_UL=tokens_UL,
            text_N=self.text_N,
            forwards={role: runs_NE.sum(axis=1) for role, runs_NE in runs.items()},
            head_positions={role: runs_NE @ width_E for role, runs_NE in runs.items()},
        )

    def _split(self, step: int) -> None:
        num_roles = len(self.family.roles)
        key_N = self.text_N * num_roles + self.family.role_NT[:, step]
        key_U, self.text_N = np.unique(key_N, return_inverse=True)
        parent_U, self.role_U = key_U // num_roles, key_U % num_roles
        rows_U = self.rows_U[parent_U]
        copied = np.flatnonzero(parent_U[1:] == parent_U[:-1]) + 1
        if len(copied):
            rows_U[copied] = self.table.add(self.table.read(rows_U[copied]))
            self._parent_U = parent_U
            self._drawn_UM = np.empty((len(rows_U), len(self.positions_M)), dtype=np.int64)
        self.rows_U = rows_U

    def _merge(self, outcome_UM: IntArray) -> None:
        _, first_V, merged_U = np.unique(
            outcome_UM, axis=0, return_index=True, return_inverse=True
        )
        if len(first_V) == len(outcome_UM):
            return
        kept_U = np.zeros(len(outcome_UM), dtype=bool)
        kept_U[first_V] = True
        self.table.give_back(self.rows_U[~kept_U])
        self.rows_U = self.rows_U[first_V]
        self.text_N = merged_U.reshape(-1)[self.text_N]
        self._version = -1  # plans of one state may have different roles again
