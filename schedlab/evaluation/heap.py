"""Keeps freed tensors from piling up on the C heap."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> bool:
    """Have glibc give all free pages of its heaps back to the system.

    Forwards whose number of masked positions changes from call to call leave holes of every size
    between blocks that live on; the heap only ever grew, to 5.9 GB in the analysis of the demo.

    Returns:
        Whether the C library can do that: only glibc, on Linux.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return False
    return True
