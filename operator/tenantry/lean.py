"""What keeps the process small: docs/performance.md has the figures."""

import contextlib
import ctypes
import gc
import sys
from asyncio import sslproto
from collections.abc import Iterator

TLS_BUFFER_BYTES = 32 * 1024
"""What each connection holds to read into: two records of TLS.  asyncio's own 256 KiB, all of it touched, for each of
some 40 connections, are 10 MB.
"""
ARENAS = 1
"""All that allocates much runs in one thread: further arenas only keep what other threads freed."""
LARGE_BYTES = 128 * 1024
"""From here on memory is mapped, and given back when it is freed.  glibc's own limit, but it raises it to 32 MiB with
whatever large was freed, and then a page of a list leaves a hole that stays.
"""
_M_ARENA_MAX, _M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -8, -3, -1  # malloc.h


def settle() -> None:
    """To be called once all is imported and before other threads begin; a C library other than glibc is left alone."""
    # What was imported stays for good.  Counted in, it lets a third more garbage pile up before a full collection.
    gc.collect()
    gc.freeze()
    sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        for name, value in (
            (_M_ARENA_MAX, ARENAS),
            (_M_MMAP_THRESHOLD, LARGE_BYTES),
            (_M_TRIM_THRESHOLD, LARGE_BYTES),
        ):
            libc.mallopt(name, value)


@contextlib.contextmanager
def without(package: str) -> Iterator[None]:
    """What is imported meanwhile does not find a package that it can do without, unless that is there already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's own way to say so
    try:
        yield
    finally:
        del sys.modules[package]


__all__ = ["settle", "without"]
