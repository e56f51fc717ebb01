"""A streamed answer on its way from the provider, settled wherever it ends."""

import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

import orjson

from tenantry_runtime import errors, guard
from tenantry_runtime.call import Call
from tenantry_runtime.guard_stream import GuardedStream
from tenantry_runtime.http_client import HttpError
from tenantry_runtime.provider import NotSentError, usage_of
from tenantry_runtime.reservation import Reservation, Usage
from tenantry_runtime.tokenizer import Produced, Unsaid

log = logging.getLogger(__name__)


class ChatStream:
    """Asks the provider for usage always; whoever sends the chunks on hides it from a client that did not ask."""

    def __init__(self, call: Call, reservation: Reservation) -> None:
        self._call = call
        self._reservation = reservation
        self._body: dict[str, Any] = {}
        self._guarded = GuardedStream(call)
        self._usage: Usage | None = None
        self._produced = Produced()
        self._started = False
        self._settled = False

    async def chunks(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The provider's chunks, and an object with `error` where it fails; ends once the ledger has the call.

        Raises NotSentError before the first chunk, where the provider refuses.  Closed early (the client went
        away), it stops the provider and settles what was produced.
        """
        service = self._call.service
        self._body = body
        sent = True
        try:
            try:
                async with service.provider.stream("/chat/completions", body) as payloads:
                    async for payload in payloads:
                        chunk = self._chunk(payload)
                        if chunk is not None and (passed := self._guarded.feed(chunk)):
                            yield passed
                        if self._guarded.blocked:
                            break
                if rest := self._guarded.finish():
                    yield rest
                if self._guarded.blocked:
                    yield self._withheld()
            except (HttpError, TimeoutError):
                self._reservation.event.error = "upstream_error"
                yield errors.upstream_failed("The model provider's answer broke off. Try again.").body()
            except errors.ApiError as error:
                # The provider did not even begin in time: still an answer of its own, if nothing was sent yet.
                if not self._started:
                    raise
                self._reservation.event.error = "upstream_error"
                yield error.body()
            await self._settle()
        except NotSentError:
            sent = False
            raise
        finally:
            await self._settle(released=not sent)

    def _withheld(self) -> dict[str, Any]:
        error = guard.withheld(self._guarded.blocked)
        self._reservation.event.error = error.code or ""
        return error.body()

    def _chunk(self, payload: bytes) -> dict[str, Any] | None:
        """The chunk, counted; None for what is none."""
        if not self._started:
            self._started = True
            took = time.monotonic() - self._call.started
            self._call.service.metrics.first_token(self._call.configuration, self._call.model, took)
        try:
            chunk = orjson.loads(payload)
        except ValueError:
            log.warning("the provider sent an event that is no JSON: it is passed over")
            return None
        if not isinstance(chunk, dict):
            return None
        if chunk.get("error"):
            self._reservation.event.error = "upstream_error"
            return errors.upstream_failed("The model provider failed in mid-answer. Try again.").body()
        for choice in chunk.get("choices") or []:
            if isinstance(choice, dict):
                self._produced.add(choice.get("index"), choice.get("delta"))
        if usage := usage_of(chunk):
            self._usage = usage
        return chunk

    async def _settle(self, released: bool = False) -> None:
        if self._settled:
            return
        self._settled = True
        self._guarded.tell()
        usage: Usage | Unsaid = Usage()
        if not released:
            usage = self._usage or Unsaid.of_chat(self._body, self._produced)
        await self._call.settle(self._reservation, usage, released=released)
