"""A TCP proxy on loopback that makes the way to a server slow, hung or broken, connection by connection."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Literal

from tests.background import Background

Mode = Literal["pass", "hang", "refuse"]
"""`hang`: connections are taken and nothing goes through; `refuse`: they are ended at once."""


class Proxy(Background):
    """May be told to change at any time.

    `accepted` counts connections.  What is held back by `hang` goes through when that ends, as after a broken route.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.target = (host, port)
        self.accepted = 0
        self.latency = 0.0
        """Seconds, each way."""
        self._mode: Mode = "pass"
        self._flows = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    def heal(self) -> None:
        self.latency = 0.0
        self.set("pass")

    def set(self, mode: Mode) -> None:
        """From now on; `refuse` also cuts what is open."""

        def change() -> None:
            self._mode = mode
            (self._flows.clear if mode == "hang" else self._flows.set)()

        self._soon(change)
        if mode == "refuse":
            self.cut()

    def cut(self) -> None:
        """End every open connection without a word."""

        def abort() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._soon(abort)

    # -- in the thread -------------------------------------------------------------

    async def _serve(self) -> None:
        self._flows.set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        await self._until_stopped(server.sockets[0].getsockname()[1])
        server.close()

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
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # also at the end of the proxy, of which asyncio would complain
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
