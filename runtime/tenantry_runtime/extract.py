"""Reading the text of PDF and HTML files, in a process of its own (extract_process.py): what they may cost is bounded.

Such a file is hostile until it has been read: it may unpack to any size, or never end.
"""

import asyncio
import contextlib
import errno
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import IO, Literal

from tenantry_runtime import extract_process

Kind = Literal["pdf", "html"]

KINDS: dict[str, Kind] = {".pdf": "pdf", ".html": "html", ".htm": "html"}
"""By the ends of files' names."""
READ = tuple(KINDS)

WALL_SECONDS = 600
"""For so long a file is read at most, where others need the processor too."""
BEAT_SECONDS = 5
"""So often the caller hears that the reading goes on."""

_MEMORY = "The file takes too much memory to read: split it, or save it anew."
_SENTENCES = {
    extract_process.NOT_WHAT_IT_SAYS: "The file holds no {kind}, as its name says: upload it under another name.",
    extract_process.ENCRYPTED: "The file is encrypted: upload it without a password.",
    extract_process.NO_TEXT: "The file holds no text. If it holds scanned pages, run text recognition over it first.",
    extract_process.TOO_MUCH_TEXT: f"The file holds more than {extract_process.MAX_TEXT >> 20} MiB of text: split it.",
    extract_process.TOO_MUCH_MEMORY: _MEMORY,
    -signal.SIGKILL: _MEMORY,  # by the container's limit
    extract_process.ENCODING: "The file is not in the encoding that it names, or in UTF-8: convert it.",
    -signal.SIGXCPU: f"The file takes more than {extract_process.CPU_SECONDS} s to read: split it, or save it anew.",
}
_DAMAGED = "The file is damaged, or no {kind}: save it anew."


class UnreadableError(Exception):
    """The file can't be read, however often it is tried; the text is a sentence that says what to do."""


def kind_of(filename: str) -> Kind | None:
    """None for what is text already."""
    return next((kind for end, kind in KINDS.items() if filename.lower().endswith(end)), None)


@contextlib.asynccontextmanager
async def text_of(
    kind: Kind, parts: AsyncIterator[bytes], goes_on: Callable[[], Awaitable[None]]
) -> AsyncIterator[IO[bytes]]:
    """The text of a file as a temporary file of UTF-8.  `goes_on` is called now and then, and may raise.

    Raises UnreadableError, and OSError where there is no room for it.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as text:
        async for part in parts:
            await asyncio.to_thread(given.write, part)
        given.seek(0)
        status = await _run(kind, given, text, goes_on)
        if status == extract_process.NO_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if status:
            raise UnreadableError(_SENTENCES.get(status, _DAMAGED).format(kind=kind.upper()))
        text.seek(0)
        yield text


async def _run(kind: Kind, given: IO[bytes], text: IO[bytes], goes_on: Callable[[], Awaitable[None]]) -> int:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        extract_process.__file__,
        kind,
        stdin=given,
        stdout=text,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        cwd="/",
    )
    until = time.monotonic() + WALL_SECONDS
    try:
        while True:
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    return await child.wait()
            except TimeoutError:
                await goes_on()
            if time.monotonic() > until:
                return -signal.SIGXCPU
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
