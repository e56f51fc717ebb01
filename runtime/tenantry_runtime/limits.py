"""What a client is told of its limits: headers of what is left, and the sentence of a refusal."""

import functools
import math
from dataclasses import dataclass

from tenantry_runtime import errors
from tenantry_runtime.config import Limits, SubjectLimits


@dataclass(frozen=True)
class Left:
    """What is left of the bucket that has the least left, the tenant's, its user's or its key's; None: no limit."""

    requests: float | None = None
    requests_size: int | None = None
    tokens: float | None = None
    tokens_size: int | None = None


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them in its headers: ``12ms``, ``6.5s``, ``1m0s``."""
    milliseconds = max(0, math.ceil(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"


def limit_headers(left: Left) -> dict[str, str]:
    """``x-ratelimit-*`` for the limits that there are: the bucket's size, what is left, when it is full again."""
    headers = {}
    for name, size, level in (
        ("requests", left.requests_size, left.requests),
        ("tokens", left.tokens_size, left.tokens),
    ):
        if size and level is not None:
            headers[f"x-ratelimit-limit-{name}"] = str(size)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(level)))
            headers[f"x-ratelimit-reset-{name}"] = duration((size - level) * 60 / size)
    return headers


@functools.lru_cache(maxsize=8)
def arrays(limits: Limits) -> tuple[str, str, str, str]:
    """Requests and tokens a minute, tokens a day, concurrency: each an array of the tenant's, a user's, a key's.

    As PostgreSQL's text, since a list of Python's has another type with each size of its numbers, and each type
    has a prepared statement of its own.
    """
    none = SubjectLimits()
    subjects: tuple[SubjectLimits, ...] = (limits, limits.per_user or none, limits.per_key or none)

    def array(name: str) -> str:
        values = (getattr(subject, name) for subject in subjects)
        return "{" + ",".join("NULL" if value is None else str(int(value)) for value in values) + "}"

    return array("requests_per_minute"), array("tokens_per_minute"), array("tokens_per_day"), array("concurrency")


def most_tokens(limits: Limits) -> int | None:
    """What no call may exceed, since no bucket or allowance holds more: the tenant's, a user's, a key's."""
    subjects: tuple[SubjectLimits | None, ...] = (limits, limits.per_user, limits.per_key)
    known = [each for one in subjects if one for each in (one.tokens_per_minute, one.tokens_per_day) if each]
    return min(known, default=None)


_SENTENCES = {
    "requests": "The limit of {requests_per_minute} requests a minute{whose} is reached.",
    "tokens": "The limit of {tokens_per_minute} tokens a minute{whose} is reached.",
    "day": "The allowance of {tokens_per_day} tokens a day{whose} is used up.",
    "concurrency": "{concurrency} calls{whose} run already, and no more may at a time.",
}


def refusal(
    limits: Limits, outcome: str, wait: float, fits: int | None, left: Left, headers: dict[str, str]
) -> errors.ApiError:
    """What the client is told where `outcome` is a limit of the tenant's, or with `user_` or `key_` before it."""
    if outcome == "budget":
        return errors.insufficient_quota(wait, headers)
    if outcome == "too_large":
        if fits:
            sentence = f"This call needs more tokens than the limits ever hold: {fits} with its answer would fit."
        else:
            sentence = "The tenant's limits leave room for no call: have them raised."
        return errors.too_large(sentence)
    subject, _, limit = outcome.rpartition("_")
    own = {"user": limits.per_user, "key": limits.per_key}.get(subject) or limits
    whose = f" for one {subject}" if subject else ""
    sentence = _SENTENCES[limit].format(**own.model_dump(), whose=whose)
    remaining = left.requests if limit == "requests" else left.tokens if limit == "tokens" else 0
    kind = "requests" if limit in ("requests", "concurrency") else "tokens"
    return errors.rate_limited(outcome, kind, sentence, wait, remaining or 0, headers)
