"""How this process gets memory from the system, and gives it back."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from typing import Final

# mallopt's parameters, from malloc.h.
_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, for the next step. Says whether it does; elsewhere nothing changes.

    A step allocates and frees gigabytes in large pieces. By default each one is mapped anew from the system, which
    clears it page by page. `python -m tests.bench.steps` measures what that costs.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another libc, or a program without a dynamic one
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, -1))


def give_back_memory() -> None:
    """Gives what was freed back to the system, where glibc keeps it: by itself it returns only what lies at an end."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)
