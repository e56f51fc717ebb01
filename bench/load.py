"""The load: ``python -m bench.load`` reads a `Plan` as JSON from standard input and prints a `Result`.

A process of its own, with its own small HTTP client over uvloop (some 40 microseconds of CPU a request), so that it
can be kept off the cores of what it measures, and its CPU can be told apart: it must not be what bounds a figure.
"""

import asyncio
import gc
import json
import random
import resource
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import uvloop

NUMBER = b"0000000000"
"""In the body, replaced by a number that no request had before: no cache may answer."""
MOST_OPEN = 500


@dataclass(frozen=True)
class Plan:
    """`rate` 0: `connections` ask one after the other, for `seconds` or until `count`; else so many requests a second
    at random moments (Poisson), on as many connections as it takes."""

    port: int
    head: str
    body: str
    connections: int = 1
    rate: float = 0
    seconds: float = 10
    count: int = 0
    warm: int = 50
    seed: int = 1
    started: int = 0


@dataclass
class Result:
    """Seconds.  `first`: until the first byte of the body; `late`: how much later than planned requests were sent;
    `anew`: connections that the server had closed between two requests."""

    took: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    wrong: int = 0
    seconds: float = 0
    cpu: float = 0
    most_open: int = 0
    anew: int = 0
    sample: str = ""


class Client(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._buffer = b""
        self._sent = self._first = 0.0
        self._busy = self._again = False
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def ask(self, request: bytes, sent: float = 0) -> None:
        """`sent`: when it was sent first, on a connection that was closed meanwhile."""
        self._buffer, self._first, self._busy, self._again = b"", 0.0, True, bool(sent)
        self._request, self._sent = request, sent or time.perf_counter()
        if self._transport.is_closing():
            self.connection_lost(None)
        else:
            self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        now = time.perf_counter()
        if not self._first and len(self._buffer) > end + 4:
            self._first = now
        head = self._buffer[:end].lower()
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            whole = len(self._buffer) >= end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])
        else:
            whole = self._buffer.endswith(b"0\r\n\r\n")
        if whole and self._busy:
            self._busy = False
            good = head.startswith(b"http/1.1 200")
            self._load.answered(self, now - self._sent, self._first - self._sent, "" if good else self._buffer)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._busy:
            return
        self._busy = False
        if self._buffer or self._again:
            self._load.answered(None, 0, 0, b"the connection was closed")
        else:  # as any client does where the server has closed a connection that was kept
            self._load.ask_anew(self._request, self._sent)

    def close(self) -> None:
        self._transport.close()


class Load:
    def __init__(self, plan: Plan) -> None:
        self._plan, self.result = plan, Result()
        self._parts = (plan.head + plan.body).encode().split(NUMBER)
        self._number = plan.started
        self._idle: deque[Client] = deque()
        self._open = 0
        self._asked = self._answered = 0
        self._until = float("inf")
        self._measuring = False
        self._done = asyncio.Event()
        self._anew: set[asyncio.Task[None]] = set()

    def request(self) -> bytes:
        self._number += 1
        return (b"%010d" % self._number).join(self._parts)

    async def connect(self) -> Client:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(lambda: Client(self), "127.0.0.1", self._plan.port)
        self._open += 1
        self.result.most_open = max(self.result.most_open, self._open)
        return client

    def ask_anew(self, request: bytes, sent: float) -> None:
        """On another connection."""
        self._open -= 1
        self._anew.add(task := asyncio.create_task(self._ask_anew(request, sent)))
        task.add_done_callback(self._anew.discard)

    async def _ask_anew(self, request: bytes, sent: float) -> None:
        (await self.connect()).ask(request, sent)
        self.result.anew += 1

    def answered(self, client: Client | None, took: float, first: float, wrong: bytes | str) -> None:
        self._answered += 1
        if wrong:
            self.result.wrong += 1
            self.result.sample = wrong[:500].decode(errors="replace") if isinstance(wrong, bytes) else wrong
        elif self._measuring:
            self.result.took.append(took)
            self.result.first.append(first)
        if self._plan.rate:
            if client:
                self._idle.append(client)
            return
        if client is None or self.result.wrong > 100:
            self._done.set()
        elif self._asked < self._limit and time.perf_counter() < self._until:
            self._asked += 1
            client.ask(self.request())
        elif self._answered == self._asked:
            self._done.set()

    async def closed(self, clients: list[Client], count: int, seconds: float) -> None:
        """Every client asks, one request after the other."""
        self._asked = self._answered = 0
        self._limit = count or sys.maxsize
        self._until = time.perf_counter() + seconds
        self._done.clear()
        for client in clients[: self._limit]:
            self._asked += 1
            client.ask(self.request())
        await self._done.wait()

    async def open(self) -> None:
        """Requests at moments that do not depend on the answers."""
        chance, loop = random.Random(self._plan.seed), asyncio.get_running_loop()
        due, end = loop.time(), loop.time() + self._plan.seconds
        sent = self._answered
        while (due := due + chance.expovariate(self._plan.rate)) < end:
            if (rest := due - loop.time()) > 0:
                await asyncio.sleep(rest)
            client = self._idle.popleft() if self._idle else None
            if client is None:
                if self._open >= MOST_OPEN:
                    self.result.wrong += 1
                    continue
                client = await self.connect()
            self.result.late.append(loop.time() - due)
            sent += 1
            client.ask(self.request())
        for _ in range(300):
            if self._answered >= sent:
                break
            await asyncio.sleep(0.1)

    async def run(self) -> Result:
        clients = [await self.connect() for _ in range(self._plan.connections)]
        if self._plan.warm:
            # in the closed way, also for the open one
            plan, self._plan = self._plan, Plan(**{**asdict(self._plan), "rate": 0})
            await self.closed(clients, max(self._plan.warm, len(clients)), 60)
            self._plan = plan
        gc.collect()
        gc.disable()  # a pause of ours would be somebody's latency
        self._measuring = True
        began, before = time.perf_counter(), _cpu()
        if self._plan.rate:
            self._idle.extend(clients)
            await self.open()
        else:
            await self.closed(clients, self._plan.count, self._plan.seconds)
        self.result.seconds, self.result.cpu = time.perf_counter() - began, _cpu() - before
        for client in clients:
            client.close()
        return self.result


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def start(plan: Plan) -> "subprocess.Popen[str]":
    """The load as a process."""
    child = subprocess.Popen(
        [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdin
    child.stdin.write(json.dumps(asdict(plan)))
    child.stdin.close()
    return child


def finish(child: "subprocess.Popen[str]") -> Result:
    assert child.stdout
    with child:
        text = child.stdout.read()
    if child.returncode:
        raise SystemExit("The load ended with an error.")
    return Result(**json.loads(text))


if __name__ == "__main__":
    load = Load(Plan(**json.load(sys.stdin)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(asdict(runner.run(load.run()))))
