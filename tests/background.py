"""A server on loopback in a thread of its own, beside tests that block."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Self


class Background:
    """Runs from `start()` to `stop()`, or inside a `with`.  `port` is known once it has started."""

    def __init__(self) -> None:
        self.port = 0
        self._loop = asyncio.new_event_loop()
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
        self._soon(self._stopping.set)
        self._thread.join(10)

    def _soon(self, change: Callable[[], None]) -> None:
        """Have it done in the server's thread."""
        self._loop.call_soon_threadsafe(change)

    # -- in the thread -------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._whole())
        self._loop.close()

    async def _whole(self) -> None:
        await self._serve()
        # What still hangs in a stopped server would else be complained of when the process ends.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self) -> None:
        """Listen, then wait in `_until_stopped`, then stop listening."""
        raise NotImplementedError

    async def _until_stopped(self, port: int) -> None:
        self.port = port
        self._started.set()
        await self._stopping.wait()
