"""The provider's client against a server of the test's own."""

import asyncio

import pytest

from tenantry_runtime.config import Provider
from tenantry_runtime.provider import NotSentError, ProviderClient

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A thousand events at once, and no end."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD + b"".join(b'data: {"number": %d}\n\n' % number for number in range(1000)))
    await reader.read()
    writer.close()


async def test_an_answer_that_is_only_taken_slowly_ends_in_time_too() -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        client = ProviderClient(Provider(base_url=f"http://127.0.0.1:{port}/v1", api_key="k", timeout_seconds=2))
        try:
            async with client.stream("/chat/completions", {}) as payloads:
                assert await anext(payloads) == b'{"number": 0}'
                assert await anext(payloads) == b'{"number": 1}'
                await asyncio.sleep(2.1)  # as long as the whole answer may take; 998 events wait to be taken
                with pytest.raises(TimeoutError):
                    await anext(payloads)
        finally:
            await client.close()


async def test_why_it_cannot_be_reached_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    client = ProviderClient(Provider(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-secret"))
    for _ in range(3):
        with pytest.raises(NotSentError, match="can't be reached"):
            await client.json("/chat/completions", {})
    (line,) = [record.getMessage() for record in caplog.records]
    assert str(port) in line
    assert "sk-secret" not in line
    await client.close()
