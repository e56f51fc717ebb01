"""Pages of a library's file that were needed once, and stay in memory until the kernel wants them."""

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ \d+ *(.*)")
_CHANGED = re.compile(r"(?:Anonymous|Swap): +(\d+) kB")
_DONTNEED = 4  # <bits/mman-linux.h>


def mappings(file: Path, smaps: Path = Path("/proc/self/smaps")) -> Iterator[tuple[int, int, bool]]:
    """The start and size of each mapping of a file in this process, and whether it may be dropped.

    It may where it can't be written, and was not: what a loader has relocated is not in the file.
    Raises OSError where the kernel does not tell.
    """
    found: tuple[int, int] | None = None
    kept = False
    for line in smaps.read_text().splitlines():
        if mapping := _MAPPING.fullmatch(line):
            if found:
                yield *found, not kept
            start, end = int(mapping[1], 16), int(mapping[2], 16)
            found = (start, end - start) if mapping[4] == str(file) else None
            kept = mapping[3] != "r--p"
        elif (changed := _CHANGED.match(line)) and changed[1] != "0":
            kept = True
    if found:
        yield *found, not kept


def drop(file: Path) -> None:
    """Give back what is in memory of a mapped file, as far as it can be read from it again: then it is, when needed."""
    try:
        libc = ctypes.CDLL(None)
        for start, size, may in mappings(file):
            if may:
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _DONTNEED)
    except (OSError, AttributeError):  # no Linux: they stay
        pass
