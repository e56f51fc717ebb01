"""Kubernetes quantities, exactly, as far as quotas need them."""

import re
from decimal import ROUND_DOWN, Decimal

_UNITS = {
    "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1),
    "k": Decimal(10**3), "M": Decimal(10**6), "G": Decimal(10**9), "T": Decimal(10**12), "P": Decimal(10**15),
    "Ki": Decimal(2**10), "Mi": Decimal(2**20), "Gi": Decimal(2**30), "Ti": Decimal(2**40), "Pi": Decimal(2**50),
}  # fmt: skip
PATTERN = r"^[0-9]{1,12}(\.[0-9]{1,9})?(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$"
_PARTS = re.compile(r"([0-9]+(?:\.[0-9]+)?)(n|u|m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?", re.ASCII)


def parse(text: str | int) -> Decimal:
    """The amount in base units (cores, bytes, pieces).  ValueError for what is no quantity."""
    match = _PARTS.fullmatch(str(text))
    if not match:
        raise ValueError(f"{text!r} is no quantity such as 500m, 2 or 4Gi")
    return Decimal(match[1]) * _UNITS[match[2] or ""]


def cores(amount: Decimal) -> str:
    """As the API server writes it: whole cores, else thousandths, rounded down."""
    milli = int((amount * 1000).to_integral_value(ROUND_DOWN))
    return str(milli // 1000) if milli % 1000 == 0 else f"{milli}m"


def size(amount: Decimal) -> str:
    """Bytes as the API server writes them: the largest binary unit that divides, rounded down to a byte."""
    number = int(amount.to_integral_value(ROUND_DOWN))
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        factor = int(_UNITS[unit])
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return str(number)


def whole(amount: Decimal) -> str:
    """Pieces, rounded down."""
    return str(int(amount.to_integral_value(ROUND_DOWN)))
