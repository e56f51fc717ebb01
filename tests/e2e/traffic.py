"""Constant traffic on one runtime through its Service, as its developers send it, with every answer counted.

The official SDK with its retries off, one client and so one kept-alive connection for each kind of call; beside
them a client that connects anew each time, one that leaves its connection idle for seconds, and one whose
streams last longer than a Pod takes to be replaced.  Nothing but a right and whole answer is a success.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dev.provider import DIMENSION, EMBEDDING_MODEL

if TYPE_CHECKING:
    from openai import OpenAI

MODEL = "gpt-4o-mini"
PAUSE = 0.08
"""Seconds between two calls of one client: enough to be always under way, and leave the machine its work."""
IDLE = 2.5
LONG_SECONDS = 10
"""How long the long streams last: longer than the API of an ending Pod goes on taking new requests."""
UNCACHED = {"Cache-Control": "no-store"}
"""Each call asks the model: an answer given again would be no test of the way there."""


@dataclass
class Failure:
    """One call that was not answered as it should be."""

    kind: str
    after: float
    step: str
    what: str

    def __str__(self) -> str:
        return f"{self.kind} at {self.after:.1f} s, during {self.step!r}: {self.what}"


@dataclass
class Traffic:
    """Use it as a context: calls are under way from its first line to its last.

    `key` gives the key for the next call; the document in vector store `store` answers `question`.
    """

    base_url: str
    key: Callable[[], str]
    store: str
    question: str
    done: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    step: str = "start"

    def __enter__(self) -> Traffic:
        self._began = time.monotonic()
        self._stop = threading.Event()
        kinds: dict[str, tuple[Callable[[OpenAI], None], float]] = {
            "chat": (self._chat, PAUSE),
            "stream": (self._stream, PAUSE),
            "embeddings": (self._embeddings, PAUSE),
            "search": (self._search, PAUSE),
            "idle": (self._models, IDLE),
            "long stream": (self._long, PAUSE),
        }
        self._threads = [
            threading.Thread(target=self._run, args=(kind, *how), name=kind, daemon=True) for kind, how in kinds.items()
        ]
        self._threads.append(threading.Thread(target=self._connect_anew, name="new connection", daemon=True))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends when every call that was under way is answered."""
        self._stop.set()
        deadline = time.monotonic() + 90
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._fail(thread.name, "it never ended")
        if kind is None:
            self.check()

    @contextmanager
    def during(self, step: str) -> Iterator[None]:
        """Name what happens now, and let a second of traffic follow on it."""
        self.step, began, before = step, time.monotonic(), self.done.total()
        yield
        time.sleep(1)
        print(f"  {step}: {time.monotonic() - began:.0f} s, {self.done.total() - before} requests")

    def check(self) -> None:
        """Fails with what went wrong and when; prints what was counted."""
        took = time.monotonic() - self._began
        counts = ", ".join(f"{number} {kind}" for kind, number in sorted(self.done.items()))
        print(f"{self.done.total()} requests in {took:.0f} s ({counts}), {len(self.failures)} failed")
        if self.failures:
            shown = "\n  ".join(map(str, self.failures[:20]))
            raise AssertionError(f"{len(self.failures)} of {self.done.total()} requests failed:\n  {shown}")
        assert all(self.done[thread.name] for thread in self._threads), f"some clients were never answered: {counts}"

    # -- the clients -------------------------------------------------------------------

    def _run(self, kind: str, call: Callable[[OpenAI], None], pause: float) -> None:
        from openai import OpenAI

        with OpenAI(
            base_url=self.base_url, api_key=self.key(), max_retries=0, timeout=60, default_headers=UNCACHED
        ) as ai:
            while not self._stop.is_set():
                ai.api_key = self.key()
                self._count(kind, lambda: call(ai))
                self._stop.wait(pause)

    def _count(self, kind: str, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            cause = f" ({error.__cause__!r})" if error.__cause__ else ""
            self._fail(kind, f"{type(error).__name__}: {error}{cause}")
        self.done[kind] += 1

    def _fail(self, kind: str, what: str) -> None:
        self.failures.append(Failure(kind, time.monotonic() - self._began, self.step, what[:500]))

    def _chat(self, ai: OpenAI) -> None:
        answer = ai.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": self.question}],
            extra_body={"tenantry": {"retrieval": {"topK": 2}}},
        )
        assert answer.choices[0].message.content, "an empty answer"
        assert answer.choices[0].finish_reason == "stop", answer.choices[0].finish_reason

    def _stream(self, ai: OpenAI) -> None:
        self._read(ai, self.question)

    def _long(self, ai: OpenAI) -> None:
        self._read(ai, f"(Take {LONG_SECONDS} s.) {self.question}")

    def _read(self, ai: OpenAI, question: str) -> None:
        text, ended = "", None
        for chunk in ai.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": question}], stream=True
        ):
            for choice in chunk.choices:
                text += choice.delta.content or ""
                ended = choice.finish_reason or ended
        assert text, "an empty stream"
        assert ended == "stop", f"the stream ended by {ended!r}"

    def _embeddings(self, ai: OpenAI) -> None:
        answer = ai.embeddings.create(model=EMBEDDING_MODEL, input=["harbour", "code word"])
        assert [len(row.embedding) for row in answer.data] == [DIMENSION] * 2

    def _search(self, ai: OpenAI) -> None:
        found = list(ai.vector_stores.search(self.store, query=self.question))
        assert found, "the document was not found"

    def _models(self, ai: OpenAI) -> None:
        assert list(ai.models.list()), "no models"

    def _connect_anew(self) -> None:
        parts = urlsplit(self.base_url)
        while not self._stop.is_set():
            self._count("new connection", lambda: self._once(str(parts.hostname), parts.port or 80))
            self._stop.wait(PAUSE)

    def _once(self, host: str, port: int) -> None:
        connection = http.client.HTTPConnection(host, port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {self.key()}", "Content-Type": "application/json", **UNCACHED}
            body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}]}
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == 200, f"{answer.status}: {text[:300]!r}"
        finally:
            connection.close()
