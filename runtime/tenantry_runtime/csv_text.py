"""Rows as CSV (RFC 4180), safe to open in a spreadsheet."""

import unicodedata
from collections.abc import Iterable, Sequence

MEDIA_TYPE = "text/csv; charset=utf-8; header=present"

_FORMULA = frozenset("=+-@＝＋－＠\t\r\n")
"""What makes a spreadsheet calculate a cell, full-width forms included; tabs and line ends begin a cell of their own
where one is pasted."""
_QUOTED = frozenset('",;\t\r\n')
"""Separators of all locales are quoted, so that a program set to another one can't see a cell begin in a cell."""


def cell(value: object) -> str:
    """One cell.  What a spreadsheet would take for a formula begins with an apostrophe."""
    text = "" if value is None else str(value)
    if text and _calculates(text):
        text = "'" + text
    if not _QUOTED.isdisjoint(text) or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


def _calculates(text: str) -> bool:
    if text[0] in _FORMULA:
        return True
    for character in text:
        if not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf"):
            return character in _FORMULA
    return False


def lines(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows in UTF-8, each ended by CR LF."""
    return "".join(",".join(map(cell, row)) + "\r\n" for row in rows).encode("utf-8", "replace")
