"""Mixed calls for a long time: what of a replica grows?  `python -m bench.runtime --soak 600`."""

import asyncio
import contextlib
import os
import random
import statistics
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from bench import processes
from bench.provisioning import table
from bench.runtime_servers import Servers
from bench.servers import say
from tests.integration.runtime.stack import Replica

WORKERS = 8
PAUSE = 0.02
"""Seconds between two calls of one worker: the replica is to be used, not to be full."""
SAMPLE_SECONDS = 2.0
MOST_GROWTH = 8.0
"""Megabytes between the second and the last quarter that are taken to be no growth."""
MOST_CONNECTIONS = 6 + 4 + 2
"""The pool's, the four that requests share, the one that listens, and one that is just being replaced."""


@dataclass(frozen=True)
class Sample:
    at: float
    memory: float
    files: int
    threads: int
    connections: int


class Soak:
    def __init__(self, env: Servers, replica: Replica, seed: int) -> None:
        self.env, self.replica = env, replica
        self.chance = random.Random(seed)
        self.count: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.samples: list[Sample] = []
        self._number = 0

    def sample(self, began: float) -> Sample:
        pid = self.replica.child.pid
        user = self.env.tenant.credentials.postgres.user
        ((connections,),) = self.env.tenant.sql("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", (user,))
        return Sample(
            time.monotonic() - began,
            processes.megabytes(pid),
            len(os.listdir(f"/proc/{pid}/fd")),
            len(os.listdir(f"/proc/{pid}/task")),
            connections,
        )

    async def run(self, seconds: float) -> None:
        key = self.env.tenant.key
        began, end = time.monotonic(), time.monotonic() + seconds
        timeout = aiohttp.ClientTimeout(total=60)
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(self.replica.url, headers=headers, timeout=timeout) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(WORKERS):
                group.create_task(self.work(session, end))
            told = began
            while time.monotonic() < end:
                await asyncio.sleep(SAMPLE_SECONDS)
                self.samples.append(await asyncio.to_thread(self.sample, began))
                if time.monotonic() - told > 30:
                    told = time.monotonic()
                    say(f"  {self.samples[-1]}, {sum(self.count.values())} calls, {len(self.wrong)} wrong")

    async def work(self, session: aiohttp.ClientSession, end: float) -> None:
        kinds = [self.whole, self.stream, self.leave, self.embed, self.document, self.look, self.refused]
        weights = [40, 20, 10, 10, 2, 8, 10]
        while time.monotonic() < end:
            (ask,) = self.chance.choices(kinds, weights)
            self.count[ask.__name__] += 1
            try:
                await ask(session)
            except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
                self.wrong.append(f"{ask.__name__}: {type(error).__name__} {error}"[:300])
            await asyncio.sleep(PAUSE)

    def question(self, **more: Any) -> dict[str, Any]:
        self._number += 1
        text = f"Question {self._number}: " + "when are refunds paid? " * self.chance.randint(1, 40)
        return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "max_tokens": 50, **more}

    async def post(self, session: aiohttp.ClientSession, path: str, expected: int, **sent: Any) -> Any:
        async with session.post(path, **sent) as answer:
            body = await answer.json()
            assert answer.status == expected, f"{answer.status} {body}"
            return body

    async def whole(self, session: aiohttp.ClientSession) -> None:
        await self.post(session, "/v1/chat/completions", 200, json=self.question())

    async def stream(self, session: aiohttp.ClientSession) -> None:
        async with session.post("/v1/chat/completions", json=self.question(stream=True)) as answer:
            assert (await answer.read()).endswith(b"data: [DONE]\n\n")

    async def leave(self, session: aiohttp.ClientSession) -> None:
        """In the midst of a stream."""
        async with session.post("/v1/chat/completions", json=self.question(stream=True)) as answer:
            await answer.content.readany()
            answer.close()

    async def embed(self, session: aiohttp.ClientSession) -> None:
        self._number += 1
        await self.post(session, "/v1/embeddings", 200, json={"input": [f"text {self._number}"] * 5})

    async def document(self, session: aiohttp.ClientSession) -> None:
        """Up, in, found, and gone again."""
        form = aiohttp.FormData({"purpose": "assistants"})
        text = "\n\n".join(f"Paragraph {n} of {self._number} about refunds." for n in range(50))
        form.add_field("file", text.encode(), filename="soak.txt")
        file = await self.post(session, "/v1/files", 200, data=form)
        store = await self.post(session, "/v1/vector_stores", 200, json={"file_ids": [file["id"]]})
        found = {"query": "refunds"}
        await self.post(session, f"/v1/vector_stores/{store['id']}/search", 200, json=found)
        for path in (f"/v1/vector_stores/{store['id']}", f"/v1/files/{file['id']}"):
            async with session.delete(path) as answer:
                assert answer.status == 200, await answer.text()

    async def look(self, session: aiohttp.ClientSession) -> None:
        for path in ("/v1/models", "/v1/files", "/readyz"):
            async with session.get(path) as answer:
                assert answer.status == 200, await answer.text()
        await asyncio.to_thread(self.replica.metrics)

    async def refused(self, session: aiohttp.ClientSession) -> None:
        self._number += 1
        chat, wrong = "/v1/chat/completions", {"Authorization": "Bearer tk-wrong"}
        await self.post(session, chat, 401, json=self.question(), headers=wrong)
        await self.post(session, chat, 403, json=self.question(model=f"unknown-{self._number}"))
        await self.post(session, chat, 422, json=self.question(n=-1))
        await self.post(session, chat, 413, data=b"x" * 2_000_000)


def soak(env: Servers, seconds: float, seed: int = 0) -> int:
    """Print what was seen; 1 where something grew or failed."""
    seed = seed or int.from_bytes(os.urandom(3))
    say(f"soak of {seconds:.0f} s, seed {seed}")
    with env.replica() as replica:
        run = Soak(env, replica, seed)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run.run(seconds))
        failures = [line for line in Path(replica.log).read_text().splitlines() if '"level": "error"' in line]
    quarter = max(1, len(run.samples) // 4)
    second, last = run.samples[quarter : 2 * quarter] or run.samples, run.samples[-quarter:]

    def mean(samples: list[Sample], name: str) -> float:
        return statistics.mean(getattr(sample, name) for sample in samples)

    rows = [
        [title, f"{getattr(run.samples[0], name):.0f}", f"{mean(second, name):.1f}", f"{mean(last, name):.1f}",
         f"{max(getattr(sample, name) for sample in run.samples):.0f}"]
        for title, name in (
            ("memory, MB", "memory"),
            ("open files", "files"),
            ("threads", "threads"),
            ("connections to PostgreSQL", "connections"),
        )
    ]  # fmt: skip
    calls = sum(run.count.values())
    print(table([f"{seconds:.0f} s, {calls} calls", "at first", "second quarter", "last quarter", "most"], rows))
    print(f"Calls by kind: {dict(run.count)}; wrong answers: {len(run.wrong)}; errors in the log: {len(failures)}.")
    bad = [*run.wrong[:3], *failures[:3]]
    if (growth := mean(last, "memory") - mean(second, "memory")) > MOST_GROWTH:
        bad.append(f"memory grew by {growth:.1f} MB from the second quarter to the last")
    if (most := max(sample.connections for sample in run.samples)) > MOST_CONNECTIONS:
        bad.append(f"{most} connections to PostgreSQL, of at most {MOST_CONNECTIONS}")
    for text in bad:
        print(f"WRONG: {text}")
    return 1 if bad else 0
