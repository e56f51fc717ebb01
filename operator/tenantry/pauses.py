"""Waits with jitter: what began together does not come back together."""

import random

_RNG = random.Random()  # noqa: S311 - nothing secret hangs on it


def about(seconds: float) -> float:
    """For what comes again and again: between 0.8 and 1.2 times as long."""
    return seconds * _RNG.uniform(0.8, 1.2)


def at_most(seconds: float, rng: random.Random = _RNG) -> float:
    """For what is tried again: between half as long and as long."""
    return seconds * rng.uniform(0.5, 1)
