"""A TCP relay before a server that can be told to be slow, silent or away."""

import asyncio
import contextlib
import threading
from typing import Literal

Mode = Literal["open", "slow", "silent", "away"]
SLOW_SECONDS = 2.0
"""The delay of each piece of an answer in mode `slow`."""


class Relay:
    """Listens on a free loopback port and passes everything on to `port`, according to `mode`.

    `away` refuses connections, `silent` takes them and never answers.  Choose the mode before `start()`.
    """

    def __init__(self, port: int, mode: Mode = "open") -> None:
        self._to = port
        self._mode = mode
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0

    def start(self) -> None:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = int(self._server.sockets[0].getsockname()[1])
        if self._mode == "away":
            self._server.close()
        return port

    async def _close(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            if self._mode == "silent":
                while await reader.read(1 << 16):
                    pass
                return
            with contextlib.suppress(OSError):
                answers, asks = await asyncio.open_connection("127.0.0.1", self._to)
                try:
                    delay = SLOW_SECONDS if self._mode == "slow" else 0
                    await asyncio.gather(_pass(reader, asks, 0), _pass(answers, writer, delay))
                finally:
                    asks.close()
        finally:
            self._tasks.discard(task)
            writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    while data := await reader.read(1 << 16):
        if delay:
            await asyncio.sleep(delay)
        writer.write(data)
        await writer.drain()
    writer.close()
