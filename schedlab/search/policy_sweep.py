"""Plans of a search over policies: every policy's knob swept, beside the same settings for all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schedlab.errors import InputError
from schedlab.job import Job, PoliciesConfig
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.plan.grid import spread_grid
from schedlab.plan.plan import PolicyName, Scalar
from schedlab.plan.policy_space import Knob, Range, space_of
from schedlab.results.policy_file import Curve


def _changed(plan: Plan, **changes: Any) -> Plan:
    fields = {name: getattr(plan, name) for name in Plan.model_fields}
    return Plan(**fields | changes)


@dataclass(frozen=True)
class Proposal:
    """A plan, and where it stands in the search."""

    plan: Plan
    curve: Curve
    knob: float | None = None


@dataclass(frozen=True)
class PlanSpace:
    """Makes plans of a job's settings.

    Args:
        job: with a `[policies]` table.
        prefix_length: given positions, which a task's prompts decide.
    """

    job: Job
    prefix_length: int

    @property
    def table(self) -> PoliciesConfig:
        """The job's `[policies]`."""
        assert self.job.policies is not None, "a search over policies"
        return self.job.policies

    @property
    def num_free(self) -> int:
        """Positions that are generated."""
        return self.job.plan.length - self.prefix_length

    @property
    def temperatures(self) -> list[float]:
        """Temperatures that are looked at."""
        return self.table.temperatures or [self.job.plan.temperature]

    @property
    def top_ps(self) -> list[float]:
        """Values of top-p that are looked at."""
        return self.table.top_ps or [self.job.plan.top_p]

    @property
    def roles(self) -> tuple[str, ...]:
        """What the parts of a tuned model schedule may be, heavy first."""
        wanted = self.table.roles or [self.job.plan.light]
        return tuple(dict.fromkeys([self.job.plan.heavy, *wanted]))

    def reference(self) -> Plan:
        """What all is compared with: the plan of `[plan]`, heavy at every step."""
        shared = self.job.plan
        plan = shared.plan(ModelSchedule.constant(shared.heavy, shared.num_steps))
        spec = plan.policy
        parameters = spec.parameters | self._for_likelihood(spec.name)
        return _changed(plan, policy=PolicySpec(name=spec.name, parameters=parameters))

    def _for_likelihood(self, name: PolicyName) -> dict[str, Scalar]:
        """For an exact likelihood positions must not hang on what is drawn."""
        exact = self.table.quality == "duel" and space_of(name).in_blocks
        return {"confidence": "likeliest"} if exact else {}

    def block_lengths(self, name: PolicyName) -> list[int | None]:
        """Block lengths that are looked at; None for policies without blocks."""
        if not space_of(name).in_blocks:
            return [None]
        fixed = self._fixed(name).get("block_length")
        return [*self.table.block_lengths] if fixed is None else [int(fixed)]

    def steps(self, block_length: int | None) -> list[int]:
        """Numbers of steps of a sweep: multiples of the blocks, at most a call per token."""
        known = self.all_steps(block_length)
        spread = Range(1, len(known), "log", whole=True).spread(self.table.points)
        return [known[round(value) - 1] for value in spread]

    def all_steps(self, block_length: int | None) -> range:
        """All multiples of the blocks that a sweep may choose from."""
        most = self.job.plan.num_steps
        if block_length is not None:
            most = min(most, self.num_free)
        blocks = self._num_blocks(block_length)
        return range(blocks, most + 1, blocks)

    def _num_blocks(self, block_length: int | None) -> int:
        if block_length is None:
            return 1
        size = min(block_length or self.num_free, self.num_free)
        blocks, most = -(-self.num_free // size), self.job.plan.num_steps
        if most < blocks:
            raise InputError(
                f"plan.num_steps {most} must be at least the {blocks} blocks of block_length"
                f" {block_length}"
            )
        return blocks

    def _fixed(self, name: PolicyName) -> Mapping[str, Scalar]:
        """Parameters of a policy that the job fixes."""
        return self.table.parameters.get(name, {})

    def plan(
        self,
        name: PolicyName,
        parameters: Mapping[str, Scalar],
        *,
        schedule: tuple[str, ...],
        temperature: float,
        top_p: float,
        block_length: int | None,
        num_steps: int | None = None,
        increments: Sequence[float] = (),
    ) -> Plan:
        """One plan; the job's fixed parameters go before these, and `increments` give its grid."""
        shared, space = self.job.plan, space_of(name)
        values = {**parameters, **self._fixed(name)}
        if block_length is not None:
            values["block_length"] = block_length
        values |= self._for_likelihood(name)
        if num_steps is None:
            blocks = self._num_blocks(block_length) if space.in_calls else 1
            num_steps = shared.num_steps // blocks * blocks
        return _changed(
            shared.plan(ModelSchedule.from_assignment(schedule, num_steps)),
            policy=PolicySpec(name=name, parameters=values),
            decoding=Decoding(temperature=temperature, top_p=top_p),
            time_grid=spread_grid(increments, num_steps) if increments else shared.time_grid,
        )

    def sweep(self, name: PolicyName) -> list[Proposal]:
        """All points of a policy's sweep."""
        schedules = [tuple(roles) for roles in self.table.schedules or [[self.job.plan.heavy]]]
        found = []
        for schedule, temperature, top_p, block_length in itertools.product(
            schedules, self.temperatures, self.top_ps, self.block_lengths(name)
        ):
            curve = Curve(
                policy=name,
                schedule=" ".join(schedule),
                temperature=temperature,
                top_p=None if self.table.top_ps is None else top_p,
                block_length=block_length,
            )
            for knob, parameters, num_steps in self._points(name, block_length):
                if num_steps is not None and num_steps < len(schedule):
                    continue  # fewer steps than parts of the schedule
                plan = self.plan(
                    name,
                    parameters,
                    schedule=schedule,
                    temperature=temperature,
                    top_p=top_p,
                    block_length=block_length,
                    num_steps=num_steps,
                )
                found.append(Proposal(plan, curve, knob))
        return found

    def _points(
        self, name: PolicyName, block_length: int | None
    ) -> Iterator[tuple[float | None, Mapping[str, Scalar], int | None]]:
        """The knob's values with the parameters and the number of steps that they mean."""
        knob = space_of(name).knob
        if knob == "steps":
            for num_steps in self.steps(block_length):
                yield num_steps, {}, num_steps
        elif isinstance(knob, Knob) and not knob.parameters.keys() <= self._fixed(name).keys():
            for value in knob.range.spread(self.table.points):
                yield value, knob.at(value), None
        else:
            yield None, {}, None
