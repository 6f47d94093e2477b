"""Progress of a training run, in lines: throughput and the expected end.

Lines survive everywhere: on terminals, in log files, in the output of batch systems.
"""

from __future__ import annotations

import datetime
import sys
import time
from collections import deque
from collections.abc import Callable

Say = Callable[[str], None]

# The rate is that of the last lines: the first steps hold compilation.
_LINES_OF_RATE = 10


def say_on_stderr(line: str) -> None:
    """Print a line at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class Progress:
    """Turns step counts into lines."""

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._recent: deque[tuple[float, int]] = deque(maxlen=_LINES_OF_RATE)

    def line(self, done: int, loss: float) -> str:
        """The line for `done` steps, `loss` being that of the last batch."""
        now = time.monotonic()
        self._recent.append((now, done))
        then, before = self._recent[0]
        text = f"step {done}/{self._num_steps} ({done / self._num_steps:.0%})  loss {loss:.4f}"
        if done == before or now == then:
            return text
        rate = (done - before) / (now - then)
        left = datetime.timedelta(seconds=round((self._num_steps - done) / rate))
        return f"{text}  {rate:.2f} steps/s  left {left}"
