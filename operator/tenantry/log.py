"""One JSON object per line: time, level, logger, message, and the tenant and reconcile it belongs to."""

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

tenant: ContextVar[str] = ContextVar("tenant", default="")
reconcile_id: ContextVar[str] = ContextVar("reconcile_id", default="")


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if tenant.get():
            line["tenant"] = tenant.get()
        if reconcile_id.get():
            line["reconcileId"] = reconcile_id.get()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str) -> None:
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # kopf tells each event at INFO; what matters of it we say ourselves.
    for noisy in ("kopf", "aiohttp", "asyncio", "pymilvus", "psycopg.pool"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLevelName(level)))
