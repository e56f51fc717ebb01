"""Ledger, totals, meter, audit and metrics are one number, whatever breaks: three replicas under mixed calls.

TENANTRY_MIXED_CALLS says how many (200 by default), TENANTRY_SEED repeats a run.
"""

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from tenantry_runtime.config import Cache, Limits, ModelPrice, SubjectLimits, UnitPrices
from tests.integration.runtime.stack import Replica, Stack, Tenant, eventually
from tests.integration.runtime.upstream import Upstream, chunk, delta

CALLS = int(os.environ.get("TENANTRY_MIXED_CALLS", "200"))
SEED = int(os.environ.get("TENANTRY_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
WORKERS = 8

SUMS = """
SELECT (SELECT coalesce(sum(cost_nano), 0) FROM ledger),
       (SELECT coalesce(sum(llm_nano + database_nano + vector_nano), 0) FROM totals),
       (SELECT coalesce(sum((details->>'cost_nano')::bigint), 0) FROM audit),
       (SELECT coalesce(sum(month_nano), 0) FROM meter WHERE subject = 'tenant'),
       (SELECT coalesce(sum(tokens_in + tokens_out), 0) FROM ledger),
       (SELECT coalesce(sum(tokens_in + tokens_out), 0) FROM totals)
"""
WITHOUT_OUTCOME = """
SELECT count(*) FROM (
    SELECT id FROM ledger UNION SELECT id FROM audit WHERE phase = 'intent'
) AS calls WHERE NOT EXISTS (SELECT FROM audit a WHERE a.id = calls.id AND a.phase IN ('outcome', 'event'))
"""
TOLD = """
SELECT DISTINCT details->>'request' FROM audit a WHERE phase = 'event' OR (phase = 'intent' AND EXISTS (
    SELECT FROM audit o WHERE o.id = a.id AND o.phase = 'outcome'
))
"""


class Moody(Upstream):
    """A provider that does what the last message tells it to: `mood`, and the usage that it claims."""

    def __init__(self) -> None:
        super().__init__()
        app: Any = self._server.config.app
        app.routes.append(Route("/v1/embeddings", self._embed, methods=["POST"]))

    async def _embed(self, request: Request) -> Response:
        body = json.loads(await request.body())
        texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
        data = [
            {"object": "embedding", "index": index, "embedding": [1.0] + [0.0] * 255} for index, _ in enumerate(texts)
        ]
        return JSONResponse({"object": "list", "data": data, "usage": {"prompt_tokens": sum(map(len, texts))}})

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        order = json.loads(body["messages"][-1]["content"])
        mood, usage = order["mood"], order["usage"]
        if mood in ("500", "429", "400"):
            return JSONResponse({"error": {"message": "No.", "code": "c\u0000d"}}, int(mood))
        if mood == "garbage":
            return PlainTextResponse("{", media_type="application/json")
        if body.get("stream"):
            return StreamingResponse(self._pieces(mood, usage), media_type="text/event-stream")
        return JSONResponse({**self.answer, "usage": usage})

    async def _pieces(self, mood: str, usage: Any) -> Any:
        for event in [delta("word ")] * 5:
            yield b"data: " + json.dumps(event).encode() + b"\n\n"
        if mood == "break":
            raise ConnectionResetError("on purpose")
        if usage:
            yield b"data: " + json.dumps(chunk(choices=[], usage=usage)).encode() + b"\n\n"
        yield b"data: [DONE]\n\n"


class Client:
    """Random calls, each as one user of several; `answered` holds the ids of requests that were answered."""

    def __init__(self, tenant: Tenant, replicas: list[Replica], keys: list[str], seed: int) -> None:
        self.tenant, self.replicas, self.keys = tenant, replicas, keys
        self.chance = random.Random(seed)
        self.answered: list[str] = []
        self.statuses: list[int] = []

    def one(self) -> None:
        chance = self.chance
        what = chance.choices(
            ("chat", "stream", "leave", "files", "models", "search", "stranger"), (8, 6, 2, 3, 1, 2, 1)
        )[0]
        given = chance.randrange(0, 3000)
        usage = {
            "prompt_tokens": given,
            "completion_tokens": chance.randrange(0, 300),
            "prompt_tokens_details": {"cached_tokens": chance.randrange(0, given + 1)},
        }
        order = {
            "mood": chance.choices(("fine", "500", "429", "400", "garbage", "break"), (20, 1, 1, 1, 1, 1))[0],
            "usage": chance.choice((usage, usage, usage, None)),
        }
        if chance.random() < 0.25:  # what others ask too
            order = {"mood": chance.choice(("fine", "break")), "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
        chat = {"messages": [{"role": "user", "content": json.dumps(order)}], "stream": what in ("stream", "leave")}
        key = "tk-nobody" if what == "stranger" else chance.choice(self.keys)
        path, body = {
            "files": ("/v1/files", None),
            "models": ("/v1/models", None),
            "stranger": ("/v1/files", None),
            "search": (f"/v1/vector_stores/{self.tenant.store}/search", {"query": "word " * chance.randrange(1, 9)}),
        }.get(what, ("/v1/chat/completions", chat))
        self.ask(chance.choice(self.replicas), path, body, key, f"user-{chance.randrange(5)}", leave=what == "leave")

    def ask(self, replica: Replica, path: str, body: Any, key: str, user: str, leave: bool) -> None:
        request = urllib.request.Request(replica.url + path, data=json.dumps(body).encode() if body else None)
        request.add_header("Authorization", f"Bearer {key}")
        request.add_header("X-Tenantry-User", user)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                if leave:
                    answer.read(1)
                    self.statuses.append(499)
                    return
                answer.read()
                self.statuses.append(answer.status)
                self.answered.append(answer.headers["x-request-id"])
        except urllib.error.HTTPError as error:
            self.statuses.append(error.code)
            if error.code not in (401, 503):
                self.answered.append(error.headers["x-request-id"])
        except http.client.IncompleteRead:
            eventually(lambda: replica.child.poll() is not None)  # only one that was killed breaks an answer off
            self.statuses.append(0)
        except OSError:
            self.statuses.append(0)  # a replica that was killed


def same(tenant: Tenant) -> tuple[Any, ...]:
    """The sums, in one snapshot: money is the same everywhere at every moment, and so are tokens."""
    (row,) = tenant.sql(SUMS)
    assert len(set(row[:4])) == 1, f"ledger, totals, audit, meter: {row[:4]}"
    assert row[4] == row[5]
    return row


@pytest.mark.parametrize("shared", [False, True])
def test_the_sums_are_the_same_to_the_nano_dollar(stack: Stack, shared: bool) -> None:
    """`shared`: the replicas keep answers, and claim those that are under way."""
    print(f"seed {SEED}, {CALLS} calls")
    with Moody() as moody, ExitStack() as running:
        tenant = stack.tenant(
            provider_url=moody.url,
            cache=Cache(mode="All" if shared else "Off"),
            replicas=3 if shared else 1,
            unit_prices=UnitPrices(database_query_nano=311, vector_search_nano=1009),
            limits=Limits(concurrency=20, per_user=SubjectLimits(requests_per_minute=CALLS)),
            prices={
                "gpt-4o-mini": ModelPrice(input_nano=150, output_nano=600, cached_input_nano=75),
                "wordllama-256": ModelPrice(input_nano=20, output_nano=0),
            },
        )
        replicas = [running.enter_context(tenant.replica()) for _ in range(3)]
        client = replicas[0].client(tenant.key)
        file = client.files.create(file=("a.txt", b"Some words of a document."), purpose="assistants")
        tenant.store = client.vector_stores.create(file_ids=[file.id]).id
        eventually(lambda: client.vector_stores.retrieve(tenant.store).file_counts.completed == 1)
        keys = [tenant.key, tenant.add_key("app", act=True), tenant.add_key("batch", act=True)]
        clients = [Client(tenant, list(replicas), keys, SEED + number) for number in range(WORKERS)]
        done = threading.Semaphore(0)

        def work(own: Client) -> None:
            for _ in range(CALLS // WORKERS):
                own.one()
                done.release()

        def progress(part: float) -> None:
            for _ in range(int(CALLS * part)):
                assert done.acquire(timeout=60)

        with ThreadPoolExecutor(WORKERS) as pool:
            futures = [pool.submit(work, own) for own in clients]
            progress(0.25)
            same(tenant)
            tenant.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'tenantry%'")
            progress(0.15)
            replicas[2].child.kill()  # in the midst of calls
            for own in clients:
                own.replicas = replicas[:2]
            progress(0.2)
            same(tenant)
            stack.postgres.stop()
            time.sleep(4)  # longer than a request waits for a connection
            stack.postgres.start()
            for future in futures:
                future.result(300)

        statuses = [status for own in clients for status in own.statuses]
        answered = {identity for own in clients for identity in own.answered}
        assert statuses.count(200) > CALLS // 3
        assert {200, 401, 499, 503} <= set(statuses), sorted(set(statuses))
        assert same(tenant)[0] > 0

        def all_told() -> bool:
            return answered <= {row[0] for row in tenant.sql(TOLD)}

        eventually(all_told)  # of what was answered nothing lacks its outcome
        # what the dead replica had reserved: its lease ends
        tenant.sql("UPDATE ledger SET expires_at = clock_timestamp() WHERE status = 'reserved'")
        tenant.sql("SELECT expire_reservations()")
        assert tenant.sql(WITHOUT_OUTCOME) == [(0,)]

        def metrics_agree() -> bool:
            spent, *_, tokens = same(tenant)
            return all(
                round(replica.metric("tenantry_cost_dollars_total") * 1e9) == spent
                and round(replica.metric("tenantry_budget_spent_dollars") * 1e9) == spent
                and replica.metric("tenantry_tokens_total") == tokens
                for replica in replicas[:2]
            )

        eventually(metrics_agree)
