"""A crash of PostgreSQL: what had been committed, but was not yet on its disk, is gone."""

import asyncio
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from dev.cluster import process
from tenantry_runtime.audit import Event
from tenantry_runtime.config import Limits
from tenantry_runtime.keys import Caller
from tenantry_runtime.ledger import Ledger
from tenantry_runtime.reservation import Need, Reservation, Usage
from tenantry_runtime.store import Row, Store, StoreUnavailableError
from tests.integration.runtime.stack import Stack, Tenant, eventually
from tests.integration.runtime.test_sums import TOLD, same
from tests.integration.runtime.upstream import Upstream

CALLER = Caller("uid-1", "default", "ann", frozenset())
WORKERS = 8
ROUNDS = 2


class Doubtful(Store):
    """Answers as the connection does that breaks between the commit and the disk."""

    away = False

    async def begin(
        self, statement: str, values: Sequence[Any] = (), hurry: bool = True
    ) -> "tuple[list[Row], asyncio.Future[bool] | None]":
        kept: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        kept.set_result(False)
        return (await super().begin(statement, values, hurry))[0], kept

    async def write(self, statement: str, values: Sequence[Any] = ()) -> list[Row]:
        if self.away:
            raise StoreUnavailableError("away")
        return await super().write(statement, values)


async def reserved(tenant: Tenant, books: Ledger) -> Reservation:
    event = Event("api_call", "chat.completions.create", "model", "gpt-4o-mini")
    event.basic["request"] = "req_1"
    need = Need("chat", "gpt-4o-mini", input_tokens=30, input_bound=40, output_tokens=100)
    return await books.reserve(tenant.configuration, CALLER, need, event)


@pytest.mark.parametrize("away", [False, True], ids=["at once", "later"])
async def test_a_call_whose_reservation_was_lost_has_both_rows_and_its_cost(stack: Stack, away: bool) -> None:
    tenant = stack.tenant(limits=Limits(requests_per_minute=60, tokens_per_minute=6000, concurrency=1))
    store = Doubtful(tenant.credentials.postgres, 2)
    await store.open()
    try:
        books = Ledger(store, 60)
        first = await reserved(tenant, books)
        await books.settle(first, Usage(7, 3))
        lost = await reserved(tenant, books)
        with pytest.raises(StoreUnavailableError):
            await lost.ensure()
        tenant.sql("DELETE FROM ledger WHERE id = %s", (lost.id,))
        tenant.sql("DELETE FROM audit WHERE id = %s", (lost.id,))
        store.away = away
        await books.settle(lost, Usage(20, 5))
        assert bool(tenant.sql("SELECT 1 FROM ledger WHERE id = %s", (lost.id,))) != away
        await books.flush()
        ((status, *used),) = tenant.sql(
            "SELECT status, tokens_in, tokens_out, cost_nano, user_name FROM ledger WHERE id = %s", (lost.id,)
        )
        assert (status, used) == ("settled", [20, 5, 20 * 150 + 5 * 600, "ann"])
        rows = tenant.sql("SELECT phase, user_id, details->>'request' FROM audit WHERE id = %s ORDER BY at", (lost.id,))
        assert rows[0] == ("intent", "ann", "req_1")
        assert [row[0] for row in rows] == ["intent", "outcome"]
        assert same(tenant)[0] == 7 * 150 + 3 * 600 + used[2]
        ((requests, tokens, day),) = tenant.sql("SELECT requests, tokens, day_tokens FROM meter")
        assert day == 10 + 25
        assert None not in (requests, tokens)  # null would be full again
        await books.settle(lost, Usage(20, 5))
        assert len(tenant.sql("SELECT 1 FROM audit WHERE id = %s", (lost.id,))) == 2
    finally:
        await store.close()


def test_no_call_is_answered_without_both_rows(stack: Stack) -> None:
    with Upstream() as upstream:
        tenant = stack.tenant(provider_url=upstream.url)
        stop, lock = threading.Event(), threading.Lock()
        answered: set[str] = set()
        refused: set[int] = set()

        def work(client: openai.OpenAI, number: int) -> None:
            while not stop.is_set():
                try:
                    if number % 3:
                        raw = client.chat.completions.with_raw_response.create(
                            model="gpt-4o-mini",
                            messages=[{"role": "user", "content": f"Hello {number}"}],
                            max_tokens=40,
                        )
                    else:
                        raw = client.chat.completions.with_raw_response.create(
                            model="gpt-4o-mini",
                            messages=[{"role": "user", "content": f"Hello {number}"}],
                            max_tokens=40,
                            stream=True,
                        )
                        for _ in raw.parse():
                            pass
                except openai.APIStatusError as error:
                    refused.add(error.status_code)
                    stop.wait(0.05)
                else:
                    with lock:
                        answered.add(raw.headers["x-request-id"])

        def more(count: int) -> None:
            before = len(answered)
            eventually(lambda: len(answered) >= before + count)

        with tenant.replica() as replica, ThreadPoolExecutor(WORKERS) as pool:
            client = replica.client(tenant.key)
            futures = [pool.submit(work, client, number) for number in range(WORKERS)]
            try:
                for _ in range(ROUNDS):
                    more(20)
                    crash(stack)
                    stack.postgres.start()
                more(20)
            finally:
                stop.set()
            for future in futures:
                future.result(60)
            assert refused <= {503}  # none, where the server was back before anybody's patience ended
            eventually(lambda: answered <= {row[0] for row in tenant.sql(TOLD)})
            tenant.settled()
        assert same(tenant)[0] > 0


def crash(stack: Stack) -> None:
    """No flush, no checkpoint: as SIGKILL, but its children are told, and leave the port."""
    running = stack.postgres.process()
    assert running
    os.kill(running.pid, signal.SIGQUIT)
    assert process.wait_gone(running, 60)
    process.reap(running.pid)
