"""The process: two ports in one loop, and a stop that lets requests and streams end."""

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from tenantry_runtime.app import create_app, create_metrics_app
from tenantry_runtime.connection import SYSTEM, Connection, look_after
from tenantry_runtime.draining import Draining
from tenantry_runtime.service import load
from tenantry_runtime.settings import Settings

log = logging.getLogger("tenantry_runtime")


class _Server(uvicorn.Server):
    """uvicorn without signal handlers of its own: the process has one plan for both ports."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(app: ASGIApp, grace: float) -> _Server:
    return _Server(
        uvicorn.Config(
            app,
            loop="none",
            http=Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(grace)),
            backlog=2048,
        )
    )


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; then drain, end what runs, settle and return.

    Raises OSError or ValueError where the credentials or a port can't be had.
    """
    service, file = load(settings)
    listeners = [_listen(settings.host, port) for port in (settings.port, settings.metrics_port)]
    ports = [listener.getsockname()[1] for listener in listeners]
    app = Draining(service.bodies.around(create_app(service)), service)
    api = _server(app, settings.grace_seconds)
    metrics = _server(create_metrics_app(service), 1)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, api)

    await service.start(file)
    running = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip((api, metrics), listeners, strict=True)
    ]
    looking = asyncio.create_task(look_after((api, metrics)))
    log.info("serving on ports %d and %d", *ports)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)

    service.draining = True
    log.info("stopping: draining for at least %g s, then up to %g s", settings.drain_seconds, settings.grace_seconds)
    if not running[0].done():
        await app.quiet(settings.drain_seconds)
    api.should_exit = True
    await asyncio.gather(running[0], return_exceptions=True)
    await service.close()
    metrics.should_exit = True
    await asyncio.gather(running[1], return_exceptions=True)
    looking.cancel()
    log.info("stopped")


def _stop(stop: asyncio.Event, api: _Server) -> None:
    if stop.is_set():  # the second time it is meant
        api.force_exit = True
    stop.set()


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), backlog=2048)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM)  # of each connection that it takes
        return listener
    except OSError as error:
        raise OSError(f"port {port} on {host} can't be had: {error.strerror}") from None


class _JsonLines(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, pod: str) -> None:
        super().__init__()
        self._pod = pod

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{record.msecs:03.0f}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._pod:
            line["pod"] = self._pod
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def main() -> int:
    """The exit status: 0 after a stop, 2 where the service could not begin."""
    settings = Settings()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(settings.pod))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("uvicorn", "psycopg.pool", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        with asyncio.Runner(loop_factory=_loop) as runner:
            runner.run(serve(settings))
    except (OSError, ValueError) as error:
        log.error("the service can't start: %s", error)
        return 2
    return 0


def _loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
