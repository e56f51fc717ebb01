"""What reads one file that may be hostile: a process of its own, with little memory and time, and nothing to lose.

``python -I extract_process.py pdf|html``: the file is standard input, which must be seekable; its text goes to
standard output as UTF-8, paragraphs with an empty line between them.  The exit status says what came of it (extract.py
has the sentences).  It imports nothing of this package, so that it knows none of its secrets.
"""

import codecs
import contextlib
import errno
import logging
import os
import re
import resource
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO

MEMORY = 256 << 20
"""Bytes of address space: with the service beside it, below the 512 MiB that a runtime's container has by default."""
CPU_SECONDS = 60
MAX_TEXT = 32 << 20
"""Bytes of text that a file may hold."""

NOT_WHAT_IT_SAYS, ENCRYPTED, NO_TEXT, TOO_MUCH_TEXT, TOO_MUCH_MEMORY, DAMAGED, ENCODING, NO_ROOM = range(10, 18)

_CONTROL = {code: None for code in range(32) if code not in (9, 10)} | {127: None, 0xAD: None}  # and soft hyphens
_PIECE = 1 << 20
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([A-Za-z0-9_.:-]{1,40})""", re.IGNORECASE)
_CHARSETS = frozenset({"utf-8", "ascii", "iso8859-1", "iso8859-15", "cp1252", "utf-16", "shift_jis", "gb18030", "big5"})
"""By Python's names; web pages that say Latin-1 mean Windows' code page 1252, as browsers take it."""
_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SKIPPED = frozenset({"script", "style", "template", "noscript", "svg", "math", "iframe", "object", "select"})
_BLOCK_NAMES = """
address article aside blockquote body caption center dd details dialog div dl dt fieldset figcaption figure footer form
h1 h2 h3 h4 h5 h6 head header hr html main menu nav ol p pre section summary table title ul
"""
_BLOCKS = frozenset(_BLOCK_NAMES.split())
_LINES = frozenset({"br", "li", "tr"})
_CELLS = frozenset({"td", "th"})


class UnreadableError(Exception):
    """The exit status that says why."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def pdf_text(file: BinaryIO) -> Iterator[str]:
    """The pages' texts.  Raises UnreadableError, or whatever the library makes of a damaged file."""
    if b"%PDF-" not in file.read(1024):
        raise UnreadableError(NOT_WHAT_IT_SAYS)
    import pypdf
    from pypdf.errors import DependencyError, FileNotDecryptedError

    logging.getLogger("pypdf").disabled = True
    try:
        # An empty password opens what is only protected against printing or changes.
        reader = pypdf.PdfReader(file)
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError(ENCRYPTED)
        for page in reader.pages:
            yield page.extract_text() + "\n\n"
            page.clear()  # what was parsed of it: else ten thousand pages stay in memory
            reader.resolved_objects.clear()
    except (DependencyError, FileNotDecryptedError):
        raise UnreadableError(ENCRYPTED) from None


class _Page(HTMLParser):
    """Collects a page's visible text: blocks as paragraphs, lines and table rows as lines."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.tags = 0
        self._hidden: list[str] = []
        self._preserved = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags += 1
        if tag in _SKIPPED:
            self._hidden.append(tag)
        elif tag == "pre":
            self._preserved += 1
        self._space(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags += 1
        self._space(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
        elif tag == "pre" and self._preserved:
            self._preserved -= 1
        self._space(tag)

    def _space(self, tag: str) -> None:
        if tag in _BLOCKS:
            self.texts.append("\n\n")
        elif tag in _LINES:
            self.texts.append("\n")
        elif tag in _CELLS:
            self.texts.append("\t")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.texts.append(data if self._preserved else re.sub(r"\s+", " ", data))

    def taken(self) -> str:
        """What was collected since the last time."""
        text = "".join(self.texts)
        self.texts.clear()
        return text


def html_text(file: BinaryIO) -> Iterator[str]:
    """The page's text in pieces.  Raises UnreadableError, or UnicodeDecodeError."""
    head = file.read(1024)
    file.seek(0)
    decoder = codecs.getincrementaldecoder(_encoding(head))()
    page = _Page()
    while piece := file.read(_PIECE):
        text = decoder.decode(piece)
        if "\x00" in text:
            raise UnreadableError(NOT_WHAT_IT_SAYS)
        page.feed(text)
        yield page.taken()
    page.feed(decoder.decode(b"", final=True))
    page.close()
    if not page.tags:
        raise UnreadableError(NOT_WHAT_IT_SAYS)
    yield page.taken()


def _encoding(head: bytes) -> str:
    """By its byte order mark, else by what it says, else UTF-8."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if said := _CHARSET.search(head):
        with contextlib.suppress(LookupError):
            name = codecs.lookup(said[1].decode("ascii")).name
            if name in ("iso8859-1", "ascii"):
                return "cp1252"
            if name in _CHARSETS and name != "utf-16":  # what can be read as ASCII here is no UTF-16
                return name
    return "utf-8"


def _tidy(pieces: Iterator[str]) -> Iterator[str]:
    """Without control characters, half surrogates, and spaces at the ends of lines."""
    for piece in pieces:
        text = piece.encode("utf-8", "replace").decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        yield re.sub(r"[ \t]+\n", "\n", text.translate(_CONTROL))


def _limit() -> None:
    for what, soft, hard in (
        (resource.RLIMIT_AS, MEMORY, MEMORY),
        (resource.RLIMIT_CPU, CPU_SECONDS, CPU_SECONDS + 1),  # at the soft one the signal says why
        (resource.RLIMIT_FSIZE, MAX_TEXT, MAX_TEXT),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        resource.setrlimit(what, (soft, hard))
    os.nice(19)  # questions go first
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # where memory ends, this process ends before the service does


def main(kind: str) -> int:
    """The exit status."""
    _limit()
    size, some = 0, False
    try:
        with open(1, "wb", closefd=False) as output:
            for text in _tidy({"pdf": pdf_text, "html": html_text}[kind](sys.stdin.buffer)):
                encoded = text.encode()
                size += len(encoded)
                if size > MAX_TEXT:
                    return TOO_MUCH_TEXT
                some = some or bool(text.strip())
                output.write(encoded)
    except UnreadableError as error:
        return error.status
    except MemoryError:
        return TOO_MUCH_MEMORY
    except UnicodeDecodeError:
        return ENCODING
    except OSError as error:
        return NO_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else DAMAGED
    except Exception:
        return DAMAGED  # RecursionError is one of these
    return 0 if some else NO_TEXT


if __name__ == "__main__":
    ended = main(sys.argv[1])
    os._exit(ended)  # nothing is tidied up: that may take longer than the reading
