"""Access keys and configuration: what changes holds on every replica at the next request, or within a second."""

import time
from typing import Any

import openai
import pytest

from tenantry_runtime.config import Limits
from tests.integration.runtime.stack import Replica, Tenant, eventually
from tests.integration.runtime.upstream import Upstream

HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(scope="module")
def tenant(scripted: Tenant, replicas: tuple[Replica, Replica]) -> Tenant:
    scripted.apply(replicas, limits=Limits(), budget=None)
    return scripted


def ask(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o-mini", messages=HELLO, **options)


def refused(client: openai.OpenAI, code: str = "invalid_api_key") -> bool:
    try:
        ask(client)
    except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
        return error.code == code
    return False


@pytest.mark.parametrize("told", [True, False], ids=["told", "untold"])
def test_a_deleted_key_is_refused_by_each_replica_within_a_second(
    tenant: Tenant, replicas: tuple[Replica, Replica], told: bool
) -> None:
    key = tenant.add_key("doomed")
    clients = [replica.client(key) for replica in replicas]
    for client in clients:
        ask(client)
    tenant.delete_key(key)
    if told:  # as the operator does; without it a key is remembered for half a second
        tenant.notify()
    else:
        time.sleep(1)
    for client in clients:
        eventually(lambda client=client: refused(client), timeout=1, every=0.01)
        assert refused(client)


def test_an_expired_key_is_refused(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    key = tenant.add_key("short", expires_at=time.time() + 3600)
    clients = [replica.client(key) for replica in replicas]
    for client in clients:
        ask(client)
    tenant.sql("UPDATE access_keys SET expires_at = extract(epoch FROM now()) - 1 WHERE name = 'short'")
    time.sleep(1)
    assert all(refused(client) for client in clients)


def test_a_wrong_key_comes_before_anything_else(replicas: tuple[Replica, Replica], upstream: Upstream) -> None:
    client = replicas[0].client("tk-wrong")
    for request in (
        lambda: ask(client),
        lambda: client.chat.completions.create(model="gpt-9", messages=[]),
        lambda: client.files.retrieve("file-x"),
        lambda: client.models.list(),
    ):
        with pytest.raises(openai.AuthenticationError):
            request()
    assert not upstream.asked


def test_a_key_does_what_its_scopes_say(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    client = replicas[0].client(tenant.add_key("narrow", scopes=("embeddings",)))
    with pytest.raises(openai.PermissionDeniedError, match="scope chat"):
        ask(client)
    with pytest.raises(openai.PermissionDeniedError, match="scope documents"):
        client.vector_stores.list()
    assert client.models.list().data


def test_only_a_key_with_the_right_acts_for_users(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    tenant.reset()
    for act, user in ((True, "default"), (False, "")):
        client = replicas[0].client(tenant.add_key(f"app-{act}", user=user, act=act))
        ask(client, extra_headers={"X-Tenantry-User": "jose", "X-Forwarded-User": "admin"}, user="somebody")
    users = [row[0] for row in tenant.sql("SELECT user_name FROM ledger ORDER BY at")]
    assert users == ["jose", "app-False"]
    assert len({asked["user"] for asked in upstream.asked}) == 2
    with pytest.raises(openai.UnprocessableEntityError):
        ask(replicas[0].client(tenant.add_key("app", act=True)), extra_headers={"X-Tenantry-User": "x" * 200})


def test_a_suspended_tenant_is_told_so(tenant: Tenant, replicas: tuple[Replica, Replica]) -> None:
    clients = [replica.client(tenant.key) for replica in replicas]
    tenant.configure(suspended=True)
    try:
        for client in clients:
            eventually(lambda client=client: refused(client, "tenant_suspended"))
        with pytest.raises(openai.AuthenticationError):  # a stranger learns nothing
            ask(replicas[0].client("tk-wrong"))
    finally:
        tenant.configure(suspended=False)
    for client in clients:
        eventually(lambda client=client: not refused(client, "tenant_suspended"))


def test_a_change_shows_in_the_next_answers_and_a_broken_one_does_not(
    tenant: Tenant, replicas: tuple[Replica, Replica], upstream: Upstream
) -> None:
    client = replicas[0].client(tenant.key)

    def told() -> str:
        ask(client)
        return str(upstream.asked[-1]["messages"][0]["content"])

    started = time.monotonic()
    tenant.configure(prompt=tenant.configuration.prompt.model_copy(update={"custom_instructions": "Speak Latin."}))
    eventually(lambda: "Speak Latin." in told())
    assert time.monotonic() - started < 10
    broken = tenant.configuration.model_copy(
        update={"prompt": tenant.configuration.prompt.model_copy(update={"template": "{% for x in y %}"})}
    )
    tenant.write(broken.canonical(), broken.digest())
    eventually(lambda: "the new configuration is refused" in replicas[0].log.read_text())
    foreign = tenant.configuration.model_copy(update={"tenant_uid": "0" * 32, "display_name": "Other"})
    tenant.write(foreign.canonical(), foreign.digest())
    eventually(lambda: "another tenant's" in replicas[0].log.read_text())
    assert "Speak Latin." in told()
    assert replicas[0].ready()
