"""Model schedules: which denoiser runs at which denoising step, as run-length segments.

Written from the noisy end, `L125 H750 L125` runs denoiser role L for the first (noisiest) 125
steps, H for 750, and L for the last 125 (arXiv 2604.02340 calls this one the sandwich).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from schedlab.errors import InputError

ROLE_PATTERN = r"[A-Z][a-z]*"
MAX_STEPS = 1_000_000
_ROLE = re.compile(ROLE_PATTERN)
_SEGMENT = re.compile(rf"({ROLE_PATTERN})([0-9]{{1,7}})")


@dataclass(frozen=True)
class ModelSchedule:
    """Which denoiser role runs at which step.

    Args:
        segments: (role, number of steps) from the noisy end; neighbours with equal roles are
            merged, so equal schedules compare equal.

    Raises:
        InputError: no segment, a role that is not a capital followed by small letters, or a number
            of steps that is not at least 1.
    """

    segments: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        if not self.segments:
            raise InputError("a model schedule needs at least one segment, such as 'H100'")
        for role, num_steps in self.segments:
            if not _ROLE.fullmatch(role):
                raise InputError(
                    f"a denoiser role is a capital and then small letters, got {role!r}"
                )
            if num_steps < 1:
                raise InputError(
                    f"number of steps of a segment must be >= 1, got {num_steps} for role"
                    f" {role!r}; drop the segment"
                )
        merged = tuple(
            (role, sum(count for _, count in run))
            for role, run in itertools.groupby(self.segments, key=lambda segment: segment[0])
        )
        object.__setattr__(self, "segments", merged)
        if self.num_steps > MAX_STEPS:
            raise InputError(
                f"a schedule has at most {MAX_STEPS} steps, got {self.num_steps}; shorten it"
            )

    @classmethod
    def parse(cls, text: str) -> ModelSchedule:
        """Read `'L125 H750 L125'`."""
        segments = []
        for word in text.split():
            match = _SEGMENT.fullmatch(word)
            if match is None:
                raise InputError(
                    f"a schedule segment is a role and a number of steps such as 'H750',"
                    f" got {word[:40]!r}"
                )
            segments.append((match[1], int(match[2])))
        return cls(tuple(segments))

    @classmethod
    def from_steps(cls, steps: Iterable[str]) -> ModelSchedule:
        """From one role per step, noisiest first."""
        return cls(tuple((role, 1) for role in steps))

    @classmethod
    def from_assignment(cls, roles: Sequence[str], num_steps: int) -> ModelSchedule:
        """From one role per segment of (nearly) equal length, noisiest first.

        Segment j covers steps `floor(j T / S) .. floor((j + 1) T / S)`.
        """
        if not 1 <= len(roles) <= num_steps:
            raise InputError(
                f"number of segments must be between 1 and the {num_steps} steps, got {len(roles)}"
            )
        bounds = segment_bounds(len(roles), num_steps)
        return cls(
            tuple(
                (role, end - begin)
                for role, begin, end in zip(roles, bounds, bounds[1:], strict=False)
            )
        )

    @classmethod
    def constant(cls, role: str, num_steps: int) -> ModelSchedule:
        """One denoiser at every step."""
        return cls(((role, num_steps),))

    @cached_property
    def num_steps(self) -> int:
        """Number of denoising steps T."""
        return sum(count for _, count in self.segments)

    @cached_property
    def roles(self) -> tuple[str, ...]:
        """Denoiser roles in order of first use."""
        return tuple(dict.fromkeys(role for role, _ in self.segments))

    @cached_property
    def steps(self) -> tuple[str, ...]:
        """Role at every step; index 0 is the noisiest step."""
        return tuple(role for role, count in self.segments for _ in range(count))

    def count(self, role: str) -> int:
        """Number of steps that `role` runs."""
        return sum(count for name, count in self.segments if name == role)

    def __str__(self) -> str:
        return " ".join(f"{role}{count}" for role, count in self.segments)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """In files a schedule is its text."""
        text = core_schema.no_info_after_validator_function(
            cls.parse, core_schema.str_schema(strict=True)
        )
        return core_schema.json_or_python_schema(
            json_schema=text,
            python_schema=core_schema.union_schema(
                [core_schema.is_instance_schema(cls), text], mode="left_to_right"
            ),
            serialization=core_schema.to_string_ser_schema(),
        )


def segment_bounds(num_segments: int, num_steps: int) -> list[int]:
    """First step of each of `num_segments` nearly equal segments, and `num_steps` at the end."""
    return [j * num_steps // num_segments for j in range(num_segments + 1)]
