"""Tells glibc's allocator to keep its pages.

Tensors of a few megabytes are otherwise mapped and unmapped at every operation, and touching fresh pages costs more
than the arithmetic: a forward pass of a small network ran up to ten times slower. Linux with glibc only; elsewhere
nothing happens.
"""

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_pages() -> bool:
    """True where the allocator took the settings. Call before torch allocates."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(M_TOP_PAD, 256 * 2**20))
