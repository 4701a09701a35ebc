"""Freed memory that is kept for the next network's run, and given back when the work is done.

ONNX Runtime asks for the same hundreds of megabytes in each of an image's dozen runs. glibc gives large blocks back to
the system at once and gets them again page by page: a third of the processor time of a large image. ONNX Runtime's own
arena keeps them for ever (docs/redaction.md has the figures). A process that does nothing else keeps them from image
to image, too, until it ends.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
"""Parameters of mallopt(3)."""
MEBIBYTE = 2**20

_inside: ContextVar[bool] = ContextVar("inside", default=False)


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed inside, for this process; does nothing inside itself, and nothing without glibc."""
    if _inside.get() or platform.libc_ver()[0] != "glibc":
        yield
        return
    outermost = _inside.set(True)
    library = ctypes.CDLL(None)
    library.mallopt(MMAP_MAX, 0)
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        _inside.reset(outermost)
        # The most that glibc, left alone, comes to by itself.
        library.mallopt(MMAP_MAX, 65_536)
        library.mallopt(MMAP_THRESHOLD, 32 * MEBIBYTE)
        library.mallopt(TRIM_THRESHOLD, 64 * MEBIBYTE)
        library.malloc_trim(0)
