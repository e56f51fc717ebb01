"""The text of PDF and HTML files, and what becomes of hostile ones."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tenantry_runtime import extract, extract_process
from tenantry_runtime.extract import Kind, UnreadableError
from tests import pdfs


async def read(kind: Kind, content: bytes) -> str:
    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1000):
            yield content[start : start + 1000]

    async def goes_on() -> None:
        pass

    async with extract.text_of(kind, parts(), goes_on) as text:
        return text.read().decode()


async def paragraphs(kind: Kind, content: bytes) -> list[str]:
    return [text for part in (await read(kind, content)).split("\n\n") if (text := part.strip())]


async def test_a_pdf_gives_the_lines_of_its_pages() -> None:
    content = pdfs.document("Größe (in mm)\nis 5 \\ 7.", "The second page.")
    assert await paragraphs("pdf", content) == ["Größe (in mm)\nis 5 \\ 7.", "The second page."]


async def test_a_page_gives_what_a_reader_sees() -> None:
    content = b"""<!DOCTYPE html><html><head><title>Returns</title><meta charset=utf-8><style>p { color: red }</style>
    </head><body><script>var hidden = "</p>no";</script><h1>Re&shy;turns &amp; refunds</h1><p>Within <b>45</b>
    days</p><!-- <p>not seen</p> --><ul><li>one<li>two</ul><table><tr><td>1<td>2</tr></table>
    <template>later</template><pre>a
      b</pre>&lt;end&gt;"""
    assert await paragraphs("html", content) == [
        "Returns",
        "Returns & refunds",
        "Within 45 days",
        "one\ntwo",
        "1\t2",
        "a\n      b",
        "<end>",
    ]


@pytest.mark.parametrize(
    "content",
    [
        "<p>größe",
        "\ufeff<p>größe",
        b"<meta charset='ISO-8859-1'><p>gr\xf6\xdfe",
        b'<meta http-equiv="Content-Type" content="text/html; charset=windows-1252"><p>gr\xf6\xdfe',
        "<p>größe".encode("utf-16"),
    ],
)
async def test_a_page_is_read_in_its_own_encoding(content: str | bytes) -> None:
    encoded = content.encode() if isinstance(content, str) else content
    assert await paragraphs("html", encoded) == ["größe"]


@pytest.mark.parametrize(
    ("kind", "content", "says"),
    [
        ("pdf", b"<p>a page", "holds no PDF"),
        ("pdf", b"", "holds no PDF"),
        ("pdf", b"%PDF-1.7 and then nothing", "damaged"),
        ("pdf", pdfs.document("text")[:300], "damaged|no text"),
        ("pdf", pdfs.document(), "no text"),
        ("pdf", pdfs.document(""), "recognition"),
        ("html", b"no tag at all", "holds no HTML"),
        ("html", b"\x89PNG\r\n\x1a\n\x00\x00", "holds no HTML|encoding"),
        ("html", b"<p>\x00</p>", "holds no HTML"),
        ("html", b"<p>gr\xf6\xdfe", "encoding"),
        ("html", b"<script>only()</script>", "no text"),
        ("html", b"<meta charset=rot13><p>gr\xf6\xdfe", "encoding"),
    ],
)
async def test_what_a_file_is_not_is_a_sentence(kind: Kind, content: bytes, says: str) -> None:
    with pytest.raises(UnreadableError, match=says) as refused:
        await read(kind, content)
    assert str(refused.value).endswith(".")


async def test_an_encrypted_pdf_asks_to_be_uploaded_open() -> None:
    objects = pdfs.pages([pdfs.flate(pdfs.shown(["secret"]))])
    objects[90] = b"<< /Filter /Standard /V 2 /R 3 /Length 128 /P -4 /O <%s> /U <%s> >>" % (b"00" * 32, b"11" * 32)
    content = pdfs.written(objects, more=b"/Encrypt 90 0 R /ID [<00> <00>]")
    with pytest.raises(UnreadableError, match="encrypted"):
        await read("pdf", content)


@pytest.mark.parametrize("make", [pdfs.bomb, pdfs.endless, pdfs.fanned])
async def test_a_hostile_pdf_ends_with_a_sentence(make: type[bytes]) -> None:
    began = time.monotonic()
    with pytest.raises(UnreadableError):
        await read("pdf", make())
    assert time.monotonic() - began < extract_process.CPU_SECONDS


async def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "WALL_SECONDS", 0.2)
    monkeypatch.setattr(extract, "BEAT_SECONDS", 0.1)
    slow = b"<!-- " * 200_000  # each of them is looked at to the file's end
    with pytest.raises(UnreadableError, match="to read"):
        await read("html", slow)


async def test_a_reading_that_is_not_wanted_any_more_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extract, "BEAT_SECONDS", 0.1)
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def remembered(*words: str, **options: object) -> asyncio.subprocess.Process:
        started.append(await start(*words, **options))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remembered)

    async def parts() -> AsyncIterator[bytes]:
        yield b"<!-- " * 200_000

    async def goes_on() -> None:
        raise KeyError("deleted")

    with pytest.raises(KeyError):
        async with extract.text_of("html", parts(), goes_on):
            pass
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("setting", "content", "status"),
    [
        ("CPU_SECONDS = 1", b"<!-- " * 200_000, -signal.SIGXCPU),
        ("MEMORY = 32 << 20", b"<p title='" + b"x" * 20_000_000, extract_process.TOO_MUCH_MEMORY),
        ("MAX_TEXT = 1000", b"<p>" + b"x " * 100_000, extract_process.TOO_MUCH_TEXT),
    ],
)
def test_the_process_keeps_its_limits(setting: str, content: bytes, status: int, tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.write_bytes(content)
    code = f"from tenantry_runtime import extract_process as p; p.{setting}; import os; os._exit(p.main('html'))"
    with given.open("rb") as stdin, (tmp_path / "text").open("wb") as stdout:
        done = subprocess.run([sys.executable, "-c", code], stdin=stdin, stdout=stdout, check=False, timeout=60)
    assert done.returncode == status


def test_names_say_what_is_read() -> None:
    assert extract.kind_of("a.PDF") == extract.kind_of(".pdf") == "pdf"
    assert extract.kind_of("a.htm") == extract.kind_of("b.pdf.html") == "html"
    assert extract.kind_of("a.md") is extract.kind_of("pdf") is None
