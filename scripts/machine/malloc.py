"""Tells glibc's allocator to keep its pages.

Tensors of a few megabytes are otherwise mapped and unmapped at every operation, and touching fresh pages costs more
than the arithmetic: a forward pass of a small network ran up to ten times slower. Linux with glibc only. Elsewhere
nothing happens.
"""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
TRIM, PAD = 2**31 - 1, 256 * 2**20  # bytes


def keep_pages() -> bool:
    """True where the allocator took the settings, for processes started later too. Call before torch allocates."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    os.environ |= {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(TRIM), "MALLOC_TOP_PAD_": str(PAD)}
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, TRIM) and mallopt(M_TOP_PAD, PAD))
