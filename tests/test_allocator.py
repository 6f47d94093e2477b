"""Freed memory stays with the process; the environment's choice stands."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from schedlab.allocator import keep_freed_memory
print(keep_freed_memory())
def use():  # as a forward does: a few MiB at a time, freed at once
    for _ in range(50):
        torch.ones(1 << 20) + 1
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> tuple[str, int]:
    """Whether freed memory was kept, and page faults of allocating it again."""
    clean = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS],
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
    )
    kept, number = done.stdout.split()
    return kept, int(number)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is asked for it")
def test_freed_memory_is_not_fetched_page_by_page_again() -> None:
    kept, number = faults()
    if kept == "False":
        pytest.skip("no glibc")
    assert number < 1_000
    # 4 MiB a time are 1,024 pages, or 2 where pages are huge.
    assert faults(MALLOC_MMAP_THRESHOLD_="131072")[0] == "False"
