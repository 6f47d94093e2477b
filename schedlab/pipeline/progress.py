"""Progress for people: a bar with the time left on a terminal, plain log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_EVERY_SECONDS = 15.0

log = logging.getLogger(__name__)


class Reporter(Protocol):
    """Is told what begins and how far it is."""

    def stage(self, name: str) -> None:
        """A new stage begins; what was under way is over."""
        ...

    def update(self, done: int, total: int) -> None:
        """So much of the stage is done."""
        ...


class Silent:
    """Says nothing."""

    def stage(self, name: str) -> None:
        """Say nothing."""

    def update(self, done: int, total: int) -> None:
        """Say nothing."""


@contextmanager
def reporter() -> Iterator[Reporter]:
    """A bar on standard error where that is a terminal, log lines otherwise."""
    if not sys.stderr.isatty():
        yield LogLines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield _Bars(progress)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID | None = None

    def stage(self, name: str) -> None:
        if self.task is not None:
            self.progress.stop_task(self.task)
        self.task = self.progress.add_task(name, total=None)

    def update(self, done: int, total: int) -> None:
        if self.task is not None:
            self.progress.update(self.task, completed=done, total=total)


class LogLines:
    """At most one line in 15 seconds, and one at the beginning of every stage."""

    def __init__(self) -> None:
        self.name = "working"
        self.began = self.said = time.monotonic()
        self.first = 0

    def stage(self, name: str) -> None:
        """One line, always."""
        self.name = name
        self.began = self.said = time.monotonic()
        self.first = -1
        log.info("%s", name)

    def update(self, done: int, total: int) -> None:
        """One line if the last one is old enough."""
        now = time.monotonic()
        if self.first < 0:  # what was there before takes no time
            self.first, self.began = done, now
        if now - self.said < LOG_EVERY_SECONDS:
            return
        self.said = now
        log.info("%s: %d of %d%s", self.name, done, total, self._left(done, total, now))

    def _left(self, done: int, total: int, now: float) -> str:
        if done <= self.first or done >= total:
            return ""
        seconds = (now - self.began) / (done - self.first) * (total - done)
        return f", {duration(seconds)} left"


def duration(seconds: float) -> str:
    """`about 3.4 min` or `42 s`."""
    return f"about {seconds / 60:.1f} min" if seconds > 90 else f"{seconds:.0f} s"
