"""A figure with its uncertainty."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from schedlab.files import Record


class Estimate(Record):
    """A value with a 95 % interval from `n` independent sequences."""

    value: float
    low: float
    high: float
    n: Annotated[int, Field(ge=0)]

    def excludes(self, reference: float) -> bool:
        """Whether the interval lies wholly on one side of `reference`."""
        return not self.low <= reference <= self.high

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}] (n={self.n})"
