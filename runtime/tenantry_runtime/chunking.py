"""Cutting a document into pieces that fit an embedding: at paragraphs where possible, with some overlap."""

import re
import unicodedata
from collections.abc import Iterator

CHUNK = 700
"""Characters of a chunk at most (about 200 tokens: a small tier's minute must hold a few)."""
OVERLAP = 100
"""Characters of its predecessor that a chunk repeats where a paragraph was cut."""

_LONGEST = 65_536
"""Characters of a paragraph that are held at a time: a file without one empty line stays out of memory."""

_PARAGRAPH = re.compile(r"\n[ \t\r]*\n\s*")
_BREAKS = ("\n", ". ", "? ", "! ", "。", "？", "！", "؟ ", "۔ ", "; ", "؛ ", ", ", "، ", "，", "、", " ")
_JOINER = "\u200d"
"""What stands between the parts of one sign."""


class Chunker:
    """Takes a text in pieces and gives its chunks: always the same for the same pieces.

    Paragraphs are joined while they fit together; one that is longer than a chunk is cut at a line, a
    sentence, a word, or, where there is none (Thai writes no spaces), between any two letters.
    """

    def __init__(self) -> None:
        self._text = ""
        self._held = ""

    def feed(self, piece: str) -> Iterator[str]:
        """The chunks that are complete with this piece."""
        self._text += piece
        *whole, self._text = _PARAGRAPH.split(self._text)
        if whole and not self._text:
            # The gap may go on in the next piece: the last paragraph waits until text follows it.
            self._text = whole.pop() + "\n\n"
        for paragraph in whole:
            yield from self._add(paragraph)
        while len(self._text) > _LONGEST:
            end = _break(self._text, _LONGEST // 2, _LONGEST)
            yield from self._add(self._text[:end])
            self._text = self._text[end:]

    def end(self) -> Iterator[str]:
        """The chunks that are left."""
        for paragraph in _PARAGRAPH.split(self._text):
            yield from self._add(paragraph)
        if self._held:
            yield self._held
        self._text = self._held = ""

    def _add(self, paragraph: str) -> Iterator[str]:
        paragraph = paragraph.strip()
        if not paragraph:
            return
        if self._held and len(self._held) + 2 + len(paragraph) <= CHUNK:
            self._held = f"{self._held}\n\n{paragraph}"
            return
        if self._held:
            yield self._held
        *whole, self._held = _cut(paragraph)
        yield from whole


def _cut(paragraph: str) -> list[str]:
    """A paragraph's pieces, each at most `CHUNK` long; every piece but the first repeats some of the last."""
    result = []
    start = 0
    while len(paragraph) - start > CHUNK:
        end = _break(paragraph, start + CHUNK // 2, start + CHUNK)
        result.append(paragraph[start:end].strip())
        start = _resume(paragraph, end - OVERLAP, end)
    result.append(paragraph[start:].strip())
    return [text for text in result if text] or [""]


def _resume(text: str, low: int, high: int) -> int:
    """Where the next piece starts: after the first break of the best kind, before the end of this one."""
    for mark in _BREAKS:
        found = text.find(mark, low, high - 1) + len(mark)
        if len(mark) <= found < high and found > low:
            return found
    return _between(text, low, high)


def _break(text: str, low: int, high: int) -> int:
    """The best place to cut between two positions: after the last break of the best kind."""
    for mark in _BREAKS:
        found = text.rfind(mark, low, high)
        if found >= 0:
            return found + len(mark)
    return _between(text, high, low)


def _between(text: str, place: int, end: int) -> int:
    """The first place on the way to `end` that parts no letter from its marks."""
    step = 1 if end > place else -1
    for found in range(place, end, step):
        if not unicodedata.category(text[found]).startswith("M") and text[found] != _JOINER != text[found - 1]:
            return found
    return place
