"""Start, stop, crash, and the database going away and coming back."""

import asyncio
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from pydantic import SecretStr

from dev.cluster import net
from tenantry_runtime import store
from tenantry_runtime.draining import QUIET_SECONDS
from tests.integration.runtime.stack import ROOT, Stack, Tenant, eventually, get, process
from tests.integration.runtime.upstream import Upstream, delta
from tests.proxy import Proxy

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def tenant(stack: Stack, upstream: Upstream) -> Tenant:
    return stack.tenant(provider_url=upstream.url)


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **options)


def test_a_stop_lets_a_stream_end(tenant: Tenant, upstream: Upstream) -> None:
    whole = "Some words come first, and two more"
    upstream.events = [delta(whole[:23]), 2, delta(whole[23:])]
    tenant.reset()
    with tenant.replica(TENANTRY_GRACE_SECONDS="60") as replica:
        stream = iter(ask(replica.client(tenant.key), stream=True))
        first = next(stream).choices[0].delta.content
        assert first
        assert len(first) < len(whole)
        replica.child.send_signal(signal.SIGTERM)
        assert first + "".join(piece.choices[0].delta.content or "" for piece in stream) == whole
        assert replica.child.wait(60) == 0
        assert "stopped" in replica.log.read_text()
        assert get(f"{replica.url}/livez")[0] == 0
    assert tenant.sql("SELECT status FROM ledger") == [("settled",)]


def test_no_secret_is_told_and_a_stop_is_told_before_the_port_closes(tenant: Tenant, upstream: Upstream) -> None:
    with tenant.replica(TENANTRY_DRAIN_SECONDS="6") as replica:
        ask(replica.client(tenant.key))
        with pytest.raises(openai.AuthenticationError):
            ask(replica.client("tk-wrong-but-secret"))
        shown = replica.log.read_text() + replica.metrics() + get(f"{replica.url}/")[1].decode()
        credentials = tenant.credentials
        for secret in (
            tenant.key,
            "tk-wrong-but-secret",
            credentials.postgres.password.get_secret_value(),
            credentials.provider.api_key.get_secret_value(),
        ):
            assert secret not in shown
        replica.child.send_signal(signal.SIGTERM)
        eventually(lambda: get(f"{replica.url}/readyz")[0] == 503, timeout=5, every=0.05)
        assert get(f"{replica.url}/livez")[0] == 200
        assert replica.child.wait(60) == 0


def test_a_stop_takes_requests_for_as_long_as_they_come(tenant: Tenant, upstream: Upstream) -> None:
    """Nodes that have not heard of the Pod's end still send to it, and clients keep their connections."""
    with tenant.replica(TENANTRY_DRAIN_SECONDS="1") as replica, httpx.Client(trust_env=False) as kept:

        def listed(client: httpx.Client) -> httpx.Response:
            headers = {"Authorization": f"Bearer {tenant.key}"}
            return client.get(f"{replica.url}/v1/models", headers=headers, timeout=30).raise_for_status()

        assert "connection" not in listed(kept).headers
        replica.child.send_signal(signal.SIGTERM)
        eventually(lambda: "draining" in replica.log.read_text(), every=0.05)
        assert listed(kept).headers["connection"] == "close"
        until = time.monotonic() + 2 * QUIET_SECONDS
        while time.monotonic() < until:
            with httpx.Client(trust_env=False) as anew:
                assert listed(anew).headers["connection"] == "close"
            time.sleep(0.2)
        assert replica.child.wait(60) == 0


def test_a_killed_replica_leaves_no_phantom_spend(tenant: Tenant, upstream: Upstream) -> None:
    upstream.gate.clear()
    tenant.reset()
    with tenant.replica() as replica, ThreadPoolExecutor(1) as pool:
        call = pool.submit(ask, replica.client(tenant.key))
        eventually(lambda: upstream.asked)
        replica.child.kill()
        with pytest.raises(openai.APIConnectionError):
            call.result(60)
    upstream.gate.set()
    ((reserved,),) = tenant.sql("SELECT reserved_nano FROM ledger WHERE status = 'reserved'")
    assert reserved > 0
    # its lease (the provider's timeout and a minute) runs out
    tenant.sql("UPDATE ledger SET expires_at = clock_timestamp()")
    with tenant.replica() as replica:
        eventually(lambda: tenant.sql("SELECT status, cost_nano FROM ledger") == [("expired", 0)])
        told = "SELECT phase, status, error FROM audit ORDER BY at"
        assert tenant.sql(told) == [("intent", "", ""), ("outcome", "", "expired")]
        ask(replica.client(tenant.key))
    assert tenant.sql("SELECT month_nano FROM meter") == [(tenant.spent(),)]


def test_without_its_database_it_refuses_and_comes_back(stack: Stack, tenant: Tenant, upstream: Upstream) -> None:
    upstream.gate.clear()
    tenant.reset()
    with tenant.replica() as replica, ThreadPoolExecutor(1) as pool:
        client = replica.client(tenant.key)
        running = pool.submit(ask, client)  # its settlement has to wait for the database
        eventually(lambda: upstream.asked)
        client.models.list()  # answered once its row, and the intent before it, are on the disk
        stack.postgres.stop()
        try:
            for _ in range(2):
                with pytest.raises(openai.InternalServerError) as refused:
                    ask(client)
                assert refused.value.status_code == 503
                assert refused.value.code == "store_unavailable"
                assert int(refused.value.response.headers["retry-after"]) >= 1
                assert refused.value.body["retryAfter"] > 0
            upstream.gate.set()
            assert running.result(60).choices[0].message.content == "Hello there"
            assert get(f"{replica.url}/readyz")[0] == 503
            assert get(f"{replica.url}/livez")[0] == 200
            assert len(upstream.asked) == 1  # nothing was asked for free
            assert get(replica.metrics_url)[0] == 200
        finally:
            stack.postgres.start()

        def answered() -> bool:
            try:
                return bool(ask(client).choices)
            except openai.InternalServerError:
                return False

        eventually(answered)
        eventually(replica.ready)
        # the call that ended meanwhile is in the ledger with what it used
        used = "SELECT tokens_in FROM ledger WHERE status = 'settled' AND model <> ''"
        eventually(lambda: len(tenant.sql(used)) >= 2)
        assert set(tenant.sql(used)) == {(20,)}
        # and the configuration is listened to again
        tenant.configure(temperature=0.25)
        eventually(lambda: bool(ask(client)) and upstream.asked[-1]["temperature"] == 0.25)


def test_a_database_that_says_nothing_is_away(stack: Stack, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does whose host has gone: its connections stay open, and nothing comes."""
    monkeypatch.setattr(store, "STATEMENT_SECONDS", 1.0)
    monkeypatch.setattr(store, "TRANSACTION_SECONDS", 1.0)

    async def within(used: store.Store, proxy: Proxy) -> None:
        async with used.transaction() as connection:
            proxy.set("hang")
            await connection.execute("SELECT 3")

    async def asked(proxy: Proxy) -> None:
        postgres = tenant.credentials.postgres.model_copy(update={"port": proxy.port})
        used = store.Store(postgres, 2)
        await used.open()
        try:
            assert await used.one("SELECT 1") == (1,)
            proxy.set("hang")
            async with asyncio.timeout(30):
                with pytest.raises(store.StoreUnavailableError):
                    await used.one("SELECT 2")
            proxy.heal()
            async with asyncio.timeout(30):
                while not await used.healthy():
                    await asyncio.sleep(0.1)
                with pytest.raises(store.StoreUnavailableError):
                    await within(used, proxy)
        finally:
            proxy.heal()
            await used.close()

    with Proxy("127.0.0.1", stack.postgres.port) as proxy:
        asyncio.run(asked(proxy))


def test_new_credentials_are_taken_over_without_a_failed_request(tenant: Tenant, upstream: Upstream) -> None:
    with tenant.replica() as replica:
        client = replica.client(tenant.key)
        ask(client)
        old, new = f"{tenant.schema}_a", f"{tenant.schema}_b"
        tenant.sql(f"CREATE ROLE {new} LOGIN PASSWORD 'other' IN ROLE {tenant.schema}")
        postgres = tenant.credentials.postgres.model_copy(update={"user": new, "password": SecretStr("other")})
        fresh = tenant.file.with_suffix(".new")
        fresh.write_text(tenant.credentials.model_copy(update={"postgres": postgres}).to_json())
        fresh.replace(tenant.file)

        def taken_over() -> bool:
            ask(client)  # raises where a request fails
            return bool(tenant.sql("SELECT 1 FROM pg_stat_activity WHERE usename = %s", (new,)))

        eventually(taken_over)
        tenant.sql(f"ALTER ROLE {old} NOLOGIN")
        tenant.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (old,))
        for _ in range(5):
            ask(client)
        tenant.configure(temperature=0.75)
        eventually(lambda: bool(ask(client)) and upstream.asked[-1]["temperature"] == 0.75)


def test_it_starts_before_its_database_and_its_configuration(stack: Stack) -> None:
    late = stack.tenant()
    late.sql("DELETE FROM configuration")
    log = stack.folder / "late.log"
    ports = [net.free_port(), net.free_port()]
    settings = {
        "TENANTRY_CREDENTIALS": str(late.file),
        "TENANTRY_HOST": "127.0.0.1",
        "TENANTRY_PORT": str(ports[0]),
        "TENANTRY_METRICS_PORT": str(ports[1]),
        "TENANTRY_DRAIN_SECONDS": "0",
    }
    url = f"http://127.0.0.1:{ports[0]}"
    with process(["-m", "tenantry_runtime"], log, settings):
        eventually(lambda: get(f"{url}/livez")[0] == 200)
        assert get(f"{url}/readyz")[0] == 503
        with pytest.raises(openai.InternalServerError, match="no configuration yet"):
            openai.OpenAI(base_url=f"{url}/v1", api_key=late.key, max_retries=0).models.list()
        assert get(f"http://127.0.0.1:{ports[1]}/metrics")[0] == 200
        late.configure()
        eventually(lambda: get(f"{url}/readyz")[0] == 200)


@pytest.mark.parametrize("content", ["", "{}", '{"postgres": {"password": "s3cret-value"}}'])
def test_unusable_credentials_end_it_with_a_sentence_and_no_secret(content: str, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(content)
    ended = subprocess.run(
        [sys.executable, "-m", "tenantry_runtime"],
        env={"TENANTRY_CREDENTIALS": str(file), "PATH": "/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "no valid credentials file" in ended.stderr
    assert "s3cret-value" not in ended.stderr
