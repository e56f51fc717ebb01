"""The model provider: an OpenAI-compatible endpoint, spoken to over a thin client of ours (`http_client.py`).

Its refusals never reach a client as they are: a wrong key of ours is no 401 of theirs.
"""

import asyncio
import base64
import contextlib
import logging
from array import array
from collections.abc import AsyncIterator
from typing import Any, TypeGuard

import orjson

from tenantry_runtime import errors
from tenantry_runtime.config import Provider
from tenantry_runtime.http_client import Answer, Client, HttpError, NotReachedError, Target
from tenantry_runtime.reservation import Usage
from tenantry_runtime.tokenizer import Unsaid

log = logging.getLogger(__name__)

MAX_ANSWER = 36 * 1024 * 1024
"""Bytes of a whole answer: 2,048 embeddings of 3,072 numbers in base64, as the SDKs ask for them, are 34."""
_MAX_EVENT = 4 * 1024 * 1024


class NotSentError(Exception):
    """The provider refused or could not be reached: nothing was used.  `error` is what the client is told."""

    def __init__(self, error: errors.ApiError) -> None:
        super().__init__(error.message)
        self.error = error


class ProviderClient:
    """One pool of connections; `replace` takes other credentials over for the calls to come."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._client = Client()
        self._told = False  # that it can't be reached

    @property
    def timeout_seconds(self) -> float:
        return self._provider.timeout_seconds

    def replace(self, provider: Provider) -> None:
        self._provider = provider

    async def close(self) -> None:
        self._client.close()

    async def _post(self, path: str, body: dict[str, Any]) -> Answer:
        """An answer with status 200, to be closed.  Raises NotSentError for any other, and where there is none."""
        provider = self._provider
        try:
            target = Target.of(provider.base_url.rstrip("/") + path, provider.api_key.get_secret_value())
            answer = await self._client.post(target, orjson.dumps(body), provider.timeout_seconds)
        except NotReachedError as error:
            if not self._told:
                log.warning("the model provider can't be reached: %s", error.__cause__ or error)
            self._told = True
            raise NotSentError(errors.upstream_failed("The model provider can't be reached. Try again.")) from None
        except TimeoutError:
            raise errors.upstream_failed("The model provider did not answer in time. Try again.", 504) from None
        except HttpError:
            raise errors.upstream_failed("The connection to the model provider broke. Try again.") from None
        self._told = False
        if answer.status != 200:
            try:
                raise NotSentError(await _refusal(answer))
            finally:
                answer.close()
        return answer

    async def json(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """A whole answer.  Raises NotSentError, or ApiError where the call may have been used."""
        answer = await self._post(path, body)
        try:
            said = orjson.loads(await answer.read(MAX_ANSWER))
        except TimeoutError:
            raise errors.upstream_failed("The model provider did not answer in time. Try again.", 504) from None
        except (HttpError, ValueError):
            raise errors.upstream_failed("The model provider's answer was broken. Try again.") from None
        finally:
            answer.close()
        if not isinstance(said, dict):
            raise errors.upstream_failed("The model provider's answer was broken. Try again.")
        return said

    @contextlib.asynccontextmanager
    async def stream(self, path: str, body: dict[str, Any]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The payloads of an answer's server-sent events, ``[DONE]`` left out.

        Leaving the block closes the connection, which stops the provider's work.  The time that an answer may take
        ends for one too that has come and is only taken slowly: asking for its next payload raises TimeoutError.
        """
        deadline = asyncio.get_running_loop().time() + self.timeout_seconds
        answer = await self._post(path, body)
        try:
            yield _events(answer, deadline)
        finally:
            answer.close()

    async def embed(self, model: str, texts: list[str], dimension: int) -> tuple[list[list[float]], Usage | Unsaid]:
        """One vector of `dimension` numbers a text, and what that used.  Raises as `json` does."""
        body: dict[str, Any] = {"model": model, "input": texts, "encoding_format": "base64"}
        if model.startswith("text-embedding-3"):
            body["dimensions"] = dimension
        answer = await self.json("/embeddings", body)
        try:
            rows = sorted(answer["data"], key=lambda row: int(row["index"]))
            vectors = [_vector(row["embedding"]) for row in rows]
        except (KeyError, TypeError, ValueError):
            raise errors.upstream_failed("The model provider's embeddings were broken. Try again.") from None
        if len(vectors) != len(texts) or any(len(vector) != dimension for vector in vectors):
            raise errors.upstream_failed(
                f"The model provider's embeddings do not have the {dimension} dimensions of this tenant's vectors."
            )
        return vectors, usage_of(answer) or Unsaid.of_embeddings(model, texts)


def usage_of(answer: dict[str, Any]) -> Usage | None:
    """What the provider says was used, or None where it says nothing that can be counted."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    given, made = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not _is_count(given) or not _is_count(made):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(given, made, cached_tokens=min(cached, given) if _is_count(cached) else 0)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _vector(value: Any) -> list[float]:
    if isinstance(value, str):
        packed = array("f")
        packed.frombytes(base64.b64decode(value))
        return packed.tolist()
    return [float(number) for number in value]


async def _refusal(answer: Answer) -> errors.ApiError:
    """What a client is told of the provider's refusal; its own sentence only where the request was at fault."""
    status = answer.status
    if status in (401, 403):
        return errors.upstream_failed("The model provider refuses this service's own credentials: tell the operator.")
    if status == 429:
        return errors.unavailable("The model provider is busy. Try again shortly.", "upstream_busy", 5)
    if status >= 500 or status < 400:
        return errors.upstream_failed("The model provider failed. Try again.")
    try:
        async with asyncio.timeout(5):
            error = orjson.loads(await answer.read(65_536))["error"]
        message, param, code = str(error["message"])[:1000], error.get("param"), error.get("code")
    except (TimeoutError, HttpError, ValueError, KeyError, TypeError, AttributeError):
        message, param, code = "The model provider refused the request.", None, None
    return errors.ApiError(
        400,
        message,
        code=code if isinstance(code, str) else None,
        param=param if isinstance(param, str) else None,
    )


async def _events(answer: Answer, deadline: float) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    buffer = b""
    async for piece in answer.pieces():
        buffer += piece
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if loop.time() > deadline:
                raise TimeoutError
            if line.startswith(b"data:"):
                payload = line[5:].strip()
                if payload == b"[DONE]":
                    return
                yield payload
        if len(buffer) > _MAX_EVENT:
            raise HttpError("an event is too long")
