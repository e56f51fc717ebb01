"""CSV that any reader reads back, and that no spreadsheet calculates."""

import csv
import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry_runtime import csv_text

CELLS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=30)


def read(raw: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(raw.decode(), newline=""), strict=True))


@given(st.lists(st.lists(CELLS, min_size=2, max_size=4), max_size=5))
@example([["=1+1", "a\r\nb"], ['"', "'"], [",", ";"], ["", ""]])
@example([["\ufeff=1", "\u200b@x"], ["\x00=1", "\x85-1"]])
def test_it_reads_back_and_no_cell_is_a_formula(rows: list[list[str]]) -> None:
    raw = csv_text.lines(rows)
    back = read(raw)
    assert [[cell.removeprefix("'") for cell in row] for row in back] == [
        [cell.removeprefix("'") for cell in row] for row in rows
    ]
    for row in back:
        for cell in row:
            assert not cell.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠"))
            assert not cell.startswith(("\t", "\r", "\n"))


@pytest.mark.parametrize(
    "text",
    ["=cmd|' /C calc'!A0", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "\u200b=1", "\xa0+1", "\ufeff-1"],
)
def test_formulas_become_text(text: str) -> None:
    assert read(csv_text.lines([[text, "x"]])) == [["'" + text, "x"]]


def test_plain_cells_are_plain_and_lines_end_with_cr_lf() -> None:
    assert csv_text.lines([["Timestamp", "Event Type"], ["2026-11-22T00:00:00Z", 12, None]]) == (
        b"Timestamp,Event Type\r\n2026-11-22T00:00:00Z,12,\r\n"
    )
    assert csv_text.cell('say "x"; y') == '"say ""x""; y"'
    assert csv_text.cell(" padded ") == '" padded "'


def test_what_is_no_unicode_is_no_error() -> None:
    assert csv_text.lines([["a\ud800"]]) == b"a?\r\n"
