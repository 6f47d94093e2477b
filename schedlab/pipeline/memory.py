"""How much memory this process takes, as the operating system counts it."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Resident:
    """Resident memory of this process, bytes.

    Args:
        peak: the most so far.
        shared: pages of files now, mostly of libraries, which several processes hold once; 0
            where the system does not say.
    """

    peak: int
    shared: int = 0

    @property
    def own(self) -> int:
        """Of the peak, what no other process shares."""
        return self.peak - self.shared


def resident() -> Resident | None:
    """This process's resident memory: from `/proc` on Linux, else the peak alone; None where
    nothing is known."""
    try:
        lines = _STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmHWM" in fields:
        shared = _bytes(fields.get("RssFile", "0 kB")) + _bytes(fields.get("RssShmem", "0 kB"))
        return Resident(_bytes(fields["VmHWM"]), shared)
    try:
        import resource  # not everywhere
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return Resident(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def forget_peak() -> None:
    """Count the peak from now on, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", encoding="utf-8")


def _bytes(text: str) -> int:
    """Of a field such as `123 kB`, which means KiB."""
    return int(text.split()[0]) * 1024
