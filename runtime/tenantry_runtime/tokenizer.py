"""What a call used where its provider does not say: counted with a tokenizer, when the call is settled.

The vocabularies are OpenAI's and come inside the wheel (rs-bpe, which holds GitHub's `bpe`: its time is linear in
the text whatever that is, at most 70 ms for 1 MB, and Python's lock is free meanwhile).  They are loaded when they
are first needed: 33 MB for o200k, 16 MB for cl100k; as much again in pages of the library's file is given back then.

What is taken before a call is never counted so: a reservation has to cover all that a call can use, so that the
bytes of the text stand for its tokens there (see `tokens`).
"""

import asyncio
import functools
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from tenantry_runtime import pages, tokens
from tenantry_runtime.reservation import Usage

log = logging.getLogger(__name__)

O200K, CL100K, CHARACTERS = "o200k_base", "cl100k_base", "characters"
"""Who counted, as the audit names it.  The last one is for a tokenizer that can't be loaded."""

_OLDER = re.compile(r"(?:ft:)?(?:gpt-3\.5|gpt-4(?![o.\d])|text-embedding-|davinci-002|babbage-002)")
"""OpenAI's models before gpt-4o, and its embeddings: https://github.com/openai/tiktoken (tiktoken/model.py)."""

PER_MESSAGE, PER_NAME, PER_CALL = 3, 1, 3
"""Tokens around a message, for its name, and before the answer (OpenAI's cookbook,
https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken)."""

MOST_KEPT = 4 * 1024 * 1024
"""Characters of an answer that are kept to be counted; four of those beyond are a token."""


def encoding_of(model: str) -> str:
    """The encoding of one of OpenAI's models; for all others the newest, as the nearest guess."""
    return CL100K if _OLDER.match(model) else O200K


@functools.cache
def _counter(encoding: str) -> Callable[[str], int]:
    import rs_bpe.bpe

    count: Callable[[str], int] = getattr(rs_bpe.openai, encoding)().count
    pages.drop(Path(rs_bpe.bpe.__file__).resolve())
    return count


def count(model: str, texts: Sequence[str]) -> tuple[int, str]:
    """The tokens of texts, each by itself, and who counted.  Never more than their bytes in UTF-8; never raises."""
    encoding = encoding_of(model)
    try:
        counter = _counter(encoding)
        return sum(counter(text.encode("utf-8", "replace").decode()) for text in texts if text), encoding
    except BaseException:  # a panic of Rust's is no Exception
        log.exception("the tokenizer %s can't be used: characters are counted instead", encoding)
        return sum(map(tokens.estimate, texts)), CHARACTERS


@dataclass(frozen=True)
class Unsaid:
    """A call of which nobody said what it used; `usage` counts it.

    `sent` and `made` are the texts of both ways.  `frame` is what is added to those sent, `beyond` to those made, in
    tokens; `most` is what the provider was told to make at most.
    """

    model: str
    sent: Sequence[str]
    frame: int = 0
    made: Sequence[str] = ()
    beyond: int = 0
    most: int = 0

    @classmethod
    def of_chat(cls, body: dict[str, Any], made: "Produced | None" = None) -> Self:
        """A chat: `body` is what the provider was sent, `made` what came back (None: nothing is known of it)."""
        messages = body["messages"]
        sent = [text for message in messages for text in _strings(message)]
        frame = PER_CALL + sum(PER_MESSAGE + (PER_NAME if message.get("name") else 0) for message in messages)
        # Providers write these as a text of their own, which is about as long.
        sent += [
            orjson.dumps(body[name]).decode() for name in ("tools", "functions", "response_format") if name in body
        ]
        granted = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        texts, beyond = made.texts() if made else ([], 0)
        return cls(str(body["model"]), sent, frame, texts, beyond, granted * body.get("n", 1))

    @classmethod
    def of_embeddings(cls, model: str, given: Any) -> Self:
        """Embeddings: `given` is a text, a list of texts, of tokens, or of lists of tokens."""
        items = given if isinstance(given, list) else [given]
        numbers = sum(len(item) if isinstance(item, list) else 1 for item in items if not isinstance(item, str))
        return cls(model, [item for item in items if isinstance(item, str)], numbers)

    async def usage(self) -> Usage:
        """Counted beside the event loop, as texts may be long."""
        return await asyncio.to_thread(self._count)

    def _count(self) -> Usage:
        given, by = count(self.model, self.sent)
        made, _ = count(self.model, self.made)
        return Usage(given + self.frame, min(made + self.beyond, self.most), counted_by=by)


class Produced:
    """The texts of an answer that count as its output, joined again where they came in pieces."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[Any, ...], list[str]] = {}
        self._kept = self._beyond = 0

    @classmethod
    def of_answer(cls, answer: dict[str, Any]) -> Self:
        """Of a whole answer's choices."""
        produced = cls()
        choices = answer.get("choices")
        for index, choice in enumerate(choices if isinstance(choices, list) else ()):
            if isinstance(choice, dict):
                produced.add(index, choice.get("message"))
        return produced

    def add(self, choice: Any, message: Any) -> None:
        """A message, or a piece of one, of the choice with this index."""
        if not isinstance(message, dict):
            return
        for name in ("content", "refusal", "reasoning_content"):
            if text := message.get(name):
                self._add(text, str(choice), name)
        calls = message.get("tool_calls")
        for place, called in enumerate(calls if isinstance(calls, list) else ()):
            if isinstance(called, dict):
                self._function(called.get("function"), str(choice), str(called.get("index", place)))
        self._function(message.get("function_call"), str(choice), "")

    def _function(self, function: Any, *where: str) -> None:
        if isinstance(function, dict):
            for name in ("name", "arguments"):
                self._add(function.get(name), *where, name)

    def _add(self, text: Any, *where: str) -> None:
        if not isinstance(text, str) or not text:
            return
        if self._kept < MOST_KEPT:
            self._kept += len(text)
            self._pieces.setdefault(where, []).append(text)
        else:
            self._beyond += len(text)

    def texts(self) -> tuple[list[str], int]:
        """The texts, and the tokens of what was not kept."""
        return ["".join(pieces) for pieces in self._pieces.values()], -(-self._beyond // 4)


def _strings(value: Any) -> Iterator[str]:
    """All texts in a JSON value, the names of its fields left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
