"""What `schedlab analyze` is asked to do, as data (no torch)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schedlab.errors import InputError
from schedlab.files import Record
from schedlab.plan.model_schedule import MAX_STEPS
from schedlab.plan.plan import Role

MIN_LEVELS = 50

Count = Annotated[int, Field(ge=1)]


class ImportanceConfig(Record):
    """Settings of an importance analysis; the held-out windows are given beside it.

    Args:
        num_steps: T of the schedules that the step scores are for.
        levels: noise levels of the curves. By default the T step levels themselves, or, for
            T < 50, the smallest multiple of T that reaches 50. More than T must be a multiple of
            T; fewer cut the steps into that many strata; every window draws one step of each.
        heavy, heavy_b, lights: denoiser roles; `heavy_b` is an independently trained second heavy
            one, whose difference from `heavy` is the floor that relative KL subtracts.
        states: `forward` (held-out text, noised) and `heavy_sampler` (heavy's own trajectories).
        prefix_length: where positive, everything is measured a second time with this many tokens
            of held-out text given.
        sampled_sequences: trajectories for `heavy_sampler` states.
        propagation_sequences: trajectories that are swapped in one segment; 0 leaves that out.
        propagation_segments: number of (nearly) equal segments.
        propagation_lights: which lights are swapped in; by default the first alone, as heavy
            carries on every swapped trajectory to its end.
        seed: of all noise and of the bootstrap.
        max_batch_tokens: positions that a forward takes at once.
        head_budget_bytes: memory for logits and what is computed from them, at a time.
    """

    num_steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 50
    levels: Count | None = None
    heavy: Role = "H"
    heavy_b: Role | None = "Hb"
    lights: Annotated[list[Role], Field(min_length=1)] = ["L", "M"]
    states: list[Literal["forward", "heavy_sampler"]] = ["forward", "heavy_sampler"]
    prefix_length: Annotated[int, Field(ge=0)] = 0
    sampled_sequences: Annotated[int, Field(ge=2)] = 32
    propagation_sequences: Annotated[int, Field(ge=0)] = 16
    propagation_segments: Count = 10
    propagation_lights: list[Role] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    bootstrap_resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 2_000
    max_batch_tokens: Count = 4_096
    head_budget_bytes: Annotated[int, Field(ge=1 << 16)] = 256 << 20

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        roles = [self.heavy, *self.others]
        if len(set(roles)) < len(roles):
            raise InputError(f"denoiser roles must differ, got {roles}; name each once")
        if self.levels is not None and self.levels > self.num_steps:
            if self.levels % self.num_steps:
                raise InputError(
                    f"levels beyond the {self.num_steps} steps must be a multiple of them, so that"
                    f" every step has its level, got {self.levels}"
                )
        unknown = sorted(set(self.propagation_lights or []) - set(self.lights))
        if unknown:
            raise InputError(
                f"propagation_lights must be among lights {self.lights}, got {unknown}"
            )
        if self.propagation_sequences == 1:
            raise InputError(
                "propagation_sequences must be 0 or at least 2 for an interval, got 1"
            )
        if self.propagation_sequences and self.propagation_segments > self.num_steps:
            raise InputError(
                f"propagation_segments must not exceed the {self.num_steps} steps, got"
                f" {self.propagation_segments}"
            )
        return self

    @property
    def others(self) -> list[Role]:
        """The roles that are compared with `heavy`: the lights, then the second heavy one."""
        return [*self.lights, *([self.heavy_b] if self.heavy_b is not None else [])]

    @property
    def swapped_lights(self) -> list[Role]:
        """The roles whose error propagation is measured."""
        return self.lights[:1] if self.propagation_lights is None else self.propagation_lights

    @property
    def num_levels(self) -> int:
        """Noise levels of the curves with `forward` states."""
        return self.levels or self.num_steps * max(1, -(-MIN_LEVELS // self.num_steps))
