"""Memory of a library's file that is given back, and what must not be."""

import mmap
import re
from pathlib import Path

from tenantry_runtime import pages, tokenizer

SMAPS = """\
55a000000000-55a000010000 r--p 00000000 fe:01 123                        /lib/a.so
Rss:                  64 kB
Private_Dirty:        64 kB
Anonymous:             0 kB
Swap:                  0 kB
SwapPss:               0 kB
55a000010000-55a000020000 r-xp 00010000 fe:01 123                        /lib/a.so
Anonymous:             0 kB
55a000020000-55a000022000 r--p 00020000 fe:01 123                        /lib/a.so
Anonymous:             8 kB
55a000022000-55a000024000 r--p 00020000 fe:01 123                        /lib/a.so
Anonymous:             0 kB
Swap:                  4 kB
55a000024000-55a000025000 rw-p 00022000 fe:01 123                        /lib/a.so
Anonymous:             0 kB
55a000030000-55a000031000 r--p 00000000 fe:01 124                        /lib/b.so
55a000040000-55a000041000 rw-p 00000000 00:00 0
7ffc00000000-7ffc00001000 r--p 00000000 00:00 0                          [vvar]
"""


def test_only_what_the_file_still_has_may_be_dropped(tmp_path: Path) -> None:
    """Neither what was relocated in it, also where it went to swap, nor what can be written, nor another file."""
    smaps = tmp_path / "smaps"
    smaps.write_text(SMAPS)
    assert list(pages.mappings(Path("/lib/a.so"), smaps)) == [
        (0x55A000000000, 0x10000, True),
        (0x55A000010000, 0x10000, False),
        (0x55A000020000, 0x2000, False),
        (0x55A000022000, 0x2000, False),
        (0x55A000024000, 0x1000, False),
    ]


def resident(file: Path) -> int:
    """Kilobytes of a mapped file that are in this process' memory."""
    found, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            found = line.endswith(str(file))
        elif found and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total


def test_a_file_is_dropped_and_read_again(tmp_path: Path) -> None:
    file, size = tmp_path / "file", 4 * 1024 * 1024
    file.write_bytes(b"x" * size)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        assert mapped[:] == b"x" * size
        assert resident(file) == size // 1024
        pages.drop(file)
        assert resident(file) == 0
        assert mapped[:] == b"x" * size


def test_the_tokenizers_file_does_not_stay_in_memory() -> None:
    import rs_bpe.bpe

    file = Path(rs_bpe.bpe.__file__).resolve()
    before = [tokenizer.count(model, ["How many tokens are there, Zoë?"]) for model in ("gpt-4o", "gpt-4")]
    assert resident(file) < 8 * 1024 < file.stat().st_size / 1024 / 4
    pages.drop(file)
    assert [tokenizer.count(model, ["How many tokens are there, Zoë?"]) for model in ("gpt-4o", "gpt-4")] == before
