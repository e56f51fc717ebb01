"""How the demo writes: numbered steps, indented lines, tables."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence

BOLD, GREEN, RED, PLAIN = "\033[1m", "\033[32m", "\033[31m", "\033[0m"


def paint(text: str, colour: str) -> str:
    """Colour on a terminal only."""
    return f"{colour}{text}{PLAIN}" if sys.stdout.isatty() else text


class Show:
    """Prints; `step` numbers what comes and says how long the whole has taken."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._began = time.monotonic()

    def step(self, title: str) -> None:
        self._done += 1
        seconds = time.monotonic() - self._began
        head = f"[{self._done}/{self._steps}] {title}"
        print(f"\n{paint(head, BOLD)}  ({int(seconds) // 60}:{int(seconds) % 60:02d})", flush=True)

    def line(self, text: str = "", indent: int = 2) -> None:
        """One line, wrapped at 110 columns below itself."""
        print(
            textwrap.fill(
                text, 110, initial_indent=" " * indent, subsequent_indent=" " * (indent + 2), break_long_words=False
            ),
            flush=True,
        )

    def raw(self, text: str, indent: int = 2) -> None:
        """What another program printed, as it stands."""
        print(textwrap.indent(text.rstrip("\n"), " " * indent), flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], indent: int = 2) -> None:
        widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
        for number, row in enumerate((head, *rows)):
            text = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            print(" " * indent + (paint(text, BOLD) if number == 0 else text), flush=True)
