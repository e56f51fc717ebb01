"""A TCP proxy on loopback that makes the way to a server slow, hung or broken, connection by connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Literal, Self

Mode = Literal["pass", "hang", "refuse"]
"""`hang`: connections are taken and nothing goes through; `refuse`: they are ended at once."""


class Proxy:
    """Runs in a thread of its own from `start()` to `stop()`; may be told to change at any time.

    `accepted` counts connections.  What is held back by `hang` goes through when that ends, as after a broken route.
    """

    def __init__(self, host: str, port: int) -> None:
        self.target = (host, port)
        self.port = 0
        self.accepted = 0
        self.latency = 0.0
        """Seconds, each way."""
        self._mode: Mode = "pass"
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._started = threading.Event()
        self._stopping = asyncio.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def heal(self) -> None:
        self.latency = 0.0
        self.set("pass")

    def set(self, mode: Mode) -> None:
        """From now on; `refuse` also cuts what is open."""

        def change() -> None:
            self._mode = mode
            (self._flows.clear if mode == "hang" else self._flows.set)()

        self._loop.call_soon_threadsafe(change)
        if mode == "refuse":
            self.cut()

    def cut(self) -> None:
        """End every open connection without a word."""

        def abort() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    # -- in the thread -------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._flows.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopping.wait()
        server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self._writers.add(writer)
        far: asyncio.StreamWriter | None = None
        try:
            if self._mode == "refuse":
                return
            await self._flows.wait()
            back, far = await asyncio.open_connection(*self.target)
            self._writers.add(far)
            for one in (writer, far):
                one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far))
                group.create_task(self._pump(back, writer))
        except (OSError, ExceptionGroup):
            pass
        finally:
            for one in filter(None, (writer, far)):
                self._writers.discard(one)
                with contextlib.suppress(RuntimeError):
                    one.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Every piece arrives `latency` after it was sent, in order, however many are on their way."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await under_way.get()
                if (wait := due - self._loop.time()) > 0:
                    await asyncio.sleep(wait)
                await self._flows.wait()
                if not data:
                    raise ConnectionResetError("the other side has ended")
                writer.write(data)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(deliver())
            while data := await reader.read(65536):
                under_way.put_nowait((self._loop.time() + self.latency, data))
            under_way.put_nowait((self._loop.time() + self.latency, b""))
