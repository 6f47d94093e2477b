"""How much memory a process takes, as the operating system counts it."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True)
class Resident:
    """Resident memory of a process, bytes.

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


def resident(pid: int | None = None) -> Resident | None:
    """Resident memory of a process, by default this one: from `/proc` on Linux; elsewhere the peak
    alone, of this process alone; None where nothing is known."""
    status = _PROC / ("self" if pid is None else str(pid)) / "status"
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    if "VmHWM" in fields:
        shared = _bytes(fields.get("RssFile", "0 kB")) + _bytes(fields.get("RssShmem", "0 kB"))
        return Resident(_bytes(fields["VmHWM"]), shared)
    if pid is not None:
        return None
    try:
        import resource  # not everywhere
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, others KiB
    return Resident(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)


def forget_peak() -> None:
    """Count the peak from now on, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        (_PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")


def _bytes(text: str) -> int:
    """Of a field such as `123 kB`, which means KiB."""
    return int(text.split()[0]) * 1024
