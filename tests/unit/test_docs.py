"""The documents that must keep step with the code."""

import re
from pathlib import Path

from tenantry.api.conditions import ROLLED_BACK, STALLING, Reason, Type

ROOT = Path(__file__).resolve().parents[2]
OF_THE_CRD = {"Pending"}
"""Reasons that no code sets: the CRDs' defaults."""


def first_cells(text: str) -> list[str]:
    """The name in backticks that opens each row of a table."""
    return re.findall(r"^\| `([A-Za-z]+)` \|", text, re.MULTILINE)


def test_every_reason_is_explained_once() -> None:
    text = (ROOT / "docs" / "reasons.md").read_text()
    explained = first_cells(text[text.index("## All is well") :])
    assert sorted(explained) == sorted({*map(str, Reason), *OF_THE_CRD})


def test_every_row_says_what_to_do() -> None:
    text = (ROOT / "docs" / "reasons.md").read_text()
    rows = [line for line in text[text.index("## All is well") :].splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 3, row
        assert all(cell.endswith((".", "`")) for cell in cells), row


def test_every_condition_type_is_explained() -> None:
    text = (ROOT / "docs" / "reasons.md").read_text()
    assert set(first_cells(text[: text.index("## All is well")])) == set(map(str, Type))


def test_the_reasons_that_take_back_a_first_provisioning_are_listed() -> None:
    text = (ROOT / "docs" / "reasons.md").read_text()
    section = text[text.index("## A first provisioning that fails for good") :]
    listed = re.findall(r"[A-Za-z]+", " ".join(re.findall(r"^    (.*)$", section[: section.index("## Acc")], re.M)))
    assert sorted(listed) == sorted(map(str, ROLLED_BACK))
    assert ROLLED_BACK < STALLING


def test_links_between_documents_lead_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_make_lists_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    declared = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE).group(1).split())  # type: ignore[union-attr]
    described = set(re.findall(r"^([a-z0-9-]+):.*## ", text, re.MULTILINE))
    assert declared == described
