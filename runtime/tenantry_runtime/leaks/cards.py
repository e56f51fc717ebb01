"""Card numbers: an issuer's range and length, the check digit (ISO/IEC 7812-1), and the groups they are written in."""

import re
from collections.abc import Iterator

from tenantry_runtime.leaks.matching import Edge, Followed, Step, follow, run

FIRST = re.compile(r"[2-6][0-9]{3}")
"""What a card number begins with; everything else looks only where this is found."""

_BEFORE = re.compile(r"[0-9][ \-\u00a0.,]\Z|\+\Z")
"""Left of it: another group of digits, as in an IBAN; a decimal point; the sign of a telephone number."""
_AFTER = Edge(re.compile(r"[A-Za-z0-9_]|[.,\-][0-9]"), 2)
_PLAIN: tuple[Step, ...] = (run("0-9", 14, 19), _AFTER)


def _grouped(separator: str, *groups: int) -> tuple[Step, ...]:
    steps: list[Step] = []
    for group in groups:
        steps += [run("0-9", group), separator]
    return (*steps[:-1], _AFTER)


_SHAPES: dict[str, tuple[tuple[Step, ...], ...]] = {
    separator: tuple(_grouped(separator, *groups) for groups in ((4, 4, 4, 4, 3), (4, 4, 4, 4), (4, 6, 5), (4, 6, 4)))
    for separator in (" ", "-", "\u00a0")
}


def candidates(text: str, since: int, final: bool) -> Iterator[Followed]:
    """Card numbers of `text`, and places where one may have begun."""
    for first in FIRST.finditer(text, since):
        at = first.start()
        if at and (_wordlike(text, at) or _BEFORE.search(text, max(0, at - 2), at)):
            continue
        after = text[at + 4 : at + 5]
        shapes = (_PLAIN,) if after.isdigit() else _SHAPES.get(after, ()) if after else (_PLAIN,)
        found = None
        for shape in shapes:
            followed = follow(shape, text, at, at, final)
            if followed is None:
                continue
            if followed.open:
                found = followed
                break
            if found is None and is_card("".join(c for c in text[at : followed.end] if c.isdigit())):
                found = followed
        if found:
            yield found


def _wordlike(text: str, at: int) -> bool:
    previous = text[at - 1]
    if not (previous.isascii() and (previous.isalnum() or previous == "_")):
        return False
    return not (previous in "nrtbf" and at > 1 and text[at - 2] == "\\")


def is_card(digits: str) -> bool:
    """Whether an issuer numbers its cards so, and the check digit is right."""
    return _issued(digits) and luhn(digits) and len(set(digits)) > 1


def _issued(digits: str) -> bool:
    length, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    if digits[0] == "4":  # Visa
        return length in (16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:  # Mastercard
        return length == 16
    if two in (34, 37):  # American Express
        return length == 15
    if two in (36, 38) or 300 <= three <= 305:  # Diners Club
        return length == 14
    if 3528 <= four <= 3589:  # JCB
        return length in (16, 19)
    if four == 6011 or 644 <= three <= 649 or two in (62, 65):  # Discover, UnionPay
        return 16 <= length <= 19
    return False


def luhn(digits: str) -> bool:
    total = 0
    for index, digit in enumerate(reversed(digits)):
        number = int(digit)
        if index % 2:
            number = number * 2 - 9 if number > 4 else number * 2
        total += number
    return total % 10 == 0
