"""PDF files made by hand: honest ones for the tests of documents, and hostile ones."""

import re
import zlib
from collections.abc import Iterable

Objects = dict[int, bytes]


def written(objects: Objects, root: int = 1, more: bytes = b"") -> bytes:
    """A file of these objects by number, with its table; `more` goes into the trailer."""
    out, places = bytearray(b"%PDF-1.7\n"), {}
    for number, body in sorted(objects.items()):
        places[number] = len(out)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    size, table = max(objects) + 1, len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % size
    for number in range(1, size):
        out += b"%010d 00000 n \n" % places[number] if number in places else b"0000000000 00000 f \n"
    out += b"trailer\n<< /Size %d /Root %d 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, root, more, table)
    return bytes(out)


def stream(content: bytes, more: bytes = b"") -> bytes:
    return b"<< /Length %d %s >>\nstream\n%s\nendstream" % (len(content), more, content)


def flate(content: bytes, times: int = 1) -> bytes:
    """A stream compressed so many times over."""
    for _ in range(times):
        content = zlib.compress(content, 9)
    return stream(content, b"/Filter [%s]" % (b"/FlateDecode " * times))


def shown(lines: Iterable[str]) -> bytes:
    """A page's content that shows these lines."""
    words = [re.sub(rb"([()\\])", rb"\\\1", line.encode("cp1252")) for line in lines]
    return b"BT /F1 11 Tf 14 TL 50 750 Td " + b" ".join(b"(%s) Tj T*" % word for word in words) + b" ET"


def pages(contents: Iterable[bytes]) -> Objects:
    """The objects of a document whose pages have these streams."""
    objects: Objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R >>",
        3: b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    }
    kids = []
    for index, content in enumerate(contents):
        page, number = 4 + 2 * index, 5 + 2 * index
        kids.append(b"%d 0 R" % page)
        objects[page] = (
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R"
            b" /Resources << /Font << /F1 3 0 R >> >> >>" % number
        )
        objects[number] = content
    objects[2] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(kids), b" ".join(kids))
    return objects


def document(*texts: str) -> bytes:
    """One page a text, whose lines are shown one below the other."""
    return written(pages(flate(shown(text.split("\n"))) for text in texts))


def bomb(size: int = 1 << 28) -> bytes:
    """A page that unpacks to `size` bytes, from some kilobytes: packed twice."""
    packer, packed = zlib.compressobj(9), bytearray()
    for _ in range(size >> 24):
        packed += packer.compress(bytes(1 << 24))
    packed += packer.flush()
    return written(pages([stream(zlib.compress(bytes(packed), 9), b"/Filter [/FlateDecode /FlateDecode]")]))


def endless() -> bytes:
    """A tree of pages that holds itself."""
    return written({1: b"<< /Type /Catalog /Pages 2 0 R >>", 2: b"<< /Type /Pages /Count 2 /Kids [2 0 R 2 0 R] >>"})


def fanned(depth: int = 40) -> bytes:
    """Forms that each show the next one twice: 2 to the power of `depth` of them."""
    objects = pages([stream(b"/X0 Do")])
    objects[4] = (
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R"
        b" /Resources << /XObject << /X0 100 0 R >> >> >>"
    )
    for level in range(depth):
        objects[100 + level] = stream(
            b"/X Do /X Do", b"/Type /XObject /Subtype /Form /Resources << /XObject << /X %d 0 R >> >>" % (101 + level)
        )
    objects[100 + depth] = stream(b"", b"/Type /XObject /Subtype /Form")
    return written(objects)
