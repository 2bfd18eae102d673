"""Freed memory stays with the process, where glibc's malloc would hand every large block back to the kernel.

A training step frees and asks for the same activations again and again. glibc maps each block above a threshold
anew, and the kernel clears its pages each time, which on 84×84 images costs more than the arithmetic. Three settings
of `mallopt(3)` keep the memory: no mapping below 1 GiB, no trimming, one arena for all threads. The price is that the
process does not shrink. `METACONTRAST_ALLOCATOR=system` leaves malloc as it is.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


def keep_freed_memory() -> None:
    """Apply the settings, on glibc and unless the variable says otherwise."""
    if os.environ.get("METACONTRAST_ALLOCATOR") == "system" or platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    for parameter, value in ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, 2**30), (_M_TRIM_THRESHOLD, 2**31 - 1)):
        mallopt(parameter, value)
