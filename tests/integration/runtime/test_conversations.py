"""Conversations, through the official SDK: each user's own, in pages, bounded, rated, forgotten in time."""

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from tenantry_runtime import conversations, retention
from tenantry_runtime.store import Store
from tests.integration.runtime.stack import Replica, Tenant

HELLO = {"role": "user", "content": "Hello"}
ANSWER = {"role": "assistant", "content": "Hi there"}


@pytest.fixture
def client(scripted: Tenant, replicas: tuple[Replica, Replica]) -> openai.OpenAI:
    return replicas[0].client(scripted.key)


@pytest.fixture(scope="module")
def users(scripted: Tenant, replicas: tuple[Replica, Replica]) -> tuple[openai.OpenAI, openai.OpenAI]:
    """Two users of one tenant's, behind one key that may act for both, on two replicas."""
    key = scripted.add_key("acting", act=True)
    one, two = (
        replica.client(key, default_headers={"X-Tenantry-User": name})
        for replica, name in zip(replicas, ("ann", "bob"), strict=True)
    )
    return one, two


def texts(client: openai.OpenAI, conversation: str) -> list[str]:
    listed = client.conversations.items.list(conversation, order="asc", limit=100)
    return [item.content[0].text for item in listed if item.type == "message"]


def test_a_conversation_from_its_beginning_to_its_end(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[HELLO], metadata={"title": "First"})
    assert made.object == "conversation"
    assert made.metadata == {"title": "First"}
    assert client.conversations.retrieve(made.id) == made
    assert client.conversations.update(made.id, metadata={"title": "Renamed"}).metadata == {"title": "Renamed"}
    assert client.conversations.retrieve(made.id).metadata == {"title": "Renamed"}

    added = client.conversations.items.create(made.id, items=[ANSWER, {"role": "user", "content": "Bye"}])
    assert [item.role for item in added.data] == ["assistant", "user"]
    assert (added.first_id, added.last_id) == (added.data[0].id, added.data[1].id)
    assert added.data[0].content[0].type == "output_text"
    assert client.conversations.items.retrieve(added.first_id, conversation_id=made.id) == added.data[0]
    assert texts(client, made.id) == ["Hello", "Hi there", "Bye"]

    assert client.conversations.items.delete(added.first_id, conversation_id=made.id).id == made.id
    assert texts(client, made.id) == ["Hello", "Bye"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(added.first_id, conversation_id=made.id)

    gone = client.conversations.delete(made.id)
    assert (gone.deleted, gone.object) == (True, "conversation.deleted")
    for ask in (client.conversations.retrieve, client.conversations.delete, client.conversations.items.list):
        with pytest.raises(openai.NotFoundError):
            ask(made.id)


def test_items_of_tools_are_kept(client: openai.OpenAI) -> None:
    made = client.conversations.create(
        items=[
            HELLO,
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "done"},
        ]
    )
    _, call, output = list(client.conversations.items.list(made.id, order="asc"))
    assert (call.type, call.call_id, call.name) == ("function_call", "c1", "f")
    assert (output.type, output.output) == ("function_call_output", "done")
    client.conversations.delete(made.id)


def test_listings_come_in_pages(users: tuple[openai.OpenAI, openai.OpenAI]) -> None:
    one, _ = users
    before = len(list(one.get("/conversations", cast_to=openai.pagination.SyncCursorPage[Any]).data))
    assert before == 0
    made = [one.conversations.create(metadata={"n": str(n)}).id for n in range(5)]
    found: list[str] = []
    query = "?limit=2"
    while True:
        answer = one.get(f"/conversations{query}", cast_to=object)
        assert isinstance(answer, dict)
        found.extend(item["id"] for item in answer["data"])
        if not answer["has_more"]:
            break
        query = f"?limit=2&after={answer['last_id']}"
    assert found == made[::-1]  # newest first
    said = [{"role": "user", "content": str(n)} for n in range(20)]
    one.conversations.items.create(made[0], items=said)
    one.conversations.items.create(made[0], items=said[:5])
    newest = [item.content[0].text for item in one.conversations.items.list(made[0], limit=7)]  # the SDK asks on
    assert newest == [str(n) for n in [*range(20), *range(5)]][::-1]
    for identity in made:
        one.conversations.delete(identity)


def test_another_users_conversation_is_not_there_and_asking_is_audited(
    scripted: Tenant, users: tuple[openai.OpenAI, openai.OpenAI]
) -> None:
    one, two = users
    theirs = one.conversations.create(items=[HELLO, ANSWER])
    answer, question = (item.id for item in one.conversations.items.list(theirs.id))
    rating = f"/conversations/{theirs.id}/items/{answer}/rating"
    for ask in (
        lambda: two.conversations.retrieve(theirs.id),
        lambda: two.conversations.update(theirs.id, metadata={}),
        lambda: two.conversations.delete(theirs.id),
        lambda: two.conversations.items.create(theirs.id, items=[HELLO]),
        lambda: two.conversations.items.list(theirs.id),
        lambda: two.conversations.items.retrieve(answer, conversation_id=theirs.id),
        lambda: two.conversations.items.delete(question, conversation_id=theirs.id),
        lambda: two.post(rating, body={"rating": "up"}, cast_to=object),
    ):
        with pytest.raises(openai.NotFoundError, match="No such"):
            ask()
    rows = scripted.sql(
        "SELECT action, status, user_id FROM audit WHERE event_type = 'access_denied' AND resource_id = ANY(%s)",
        ([theirs.id, answer, question],),
    )
    assert {row[1:] for row in rows} == {("404", "bob")}
    assert sorted(row[0].removeprefix("conversations.") for row in rows) == [
        "delete",
        "items.create",
        "items.delete",
        "items.list",
        "items.rate",
        "items.retrieve",
        "retrieve",
        "update",
    ]
    listed = two.get(f"/conversations?after={theirs.id}", cast_to=object)
    assert isinstance(listed, dict)
    assert listed["data"] == []
    assert texts(one, theirs.id) == ["Hello", "Hi there"]
    one.conversations.delete(theirs.id)


def test_the_keys_scope_is_asked_for(scripted: Tenant, replicas: tuple[Replica, Replica]) -> None:
    key = scripted.add_key("chat-only", scopes=("chat",))
    with pytest.raises(openai.PermissionDeniedError, match="scope conversations"):
        replicas[0].client(key).conversations.create()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"items": [{"type": "reasoning"}]}, "items.0.type"),
        ({"items": "x"}, "items"),
        ({"items": {}}, "items"),
        ({"items": [HELLO] * 21}, "items"),
        ({"metadata": {"a": ["x"]}}, "metadata"),
        ({"user": "someone"}, "user"),
    ],
)
def test_what_is_wrong_is_named(client: openai.OpenAI, body: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as refused:
        client.post("/conversations", body=body, cast_to=object)
    assert refused.value.param == param


def test_a_conversation_and_a_users_number_of_them_are_bounded(scripted: Tenant, client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[HELLO])
    for column, value in (("items", conversations.MAX_ITEMS - 1), ("bytes", conversations.MAX_BYTES - 10)):
        scripted.sql(f"UPDATE conversations SET {column} = %s WHERE id = %s", (value, made.id))
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.conversations.items.create(made.id, items=[HELLO, ANSWER])
        assert refused.value.code == "conversation_full"
        scripted.sql("UPDATE conversations SET items = 1, bytes = 100 WHERE id = %s", (made.id,))
    assert texts(client, made.id) == ["Hello"]
    client.conversations.items.create(made.id, items=[HELLO, ANSWER])
    ((counted, size, real, real_size),) = scripted.sql(
        "SELECT c.items, c.bytes - 100, count(*), sum(i.bytes) FROM conversations c "
        "JOIN conversation_items i ON i.conversation_id = c.id WHERE c.id = %s AND i.position > 0 GROUP BY c.id",
        (made.id,),
    )
    assert (counted - 1, size) == (real, real_size)
    client.conversations.delete(made.id)

    busy = scripted.add_key("busy", user="busy")
    scripted.sql(
        "INSERT INTO conversations (id, user_name) SELECT 'conv_many' || n, 'busy' FROM generate_series(1, %s) n",
        (conversations.MAX_CONVERSATIONS,),
    )
    theirs = client.with_options(api_key=busy)
    with pytest.raises(openai.PermissionDeniedError) as many:
        theirs.conversations.create()
    assert many.value.code == "conversation_limit_reached"
    theirs.conversations.delete("conv_many1")
    theirs.conversations.create()
    scripted.sql("DELETE FROM conversations WHERE user_name = 'busy'")


def test_requests_at_once_are_put_in_order_and_none_is_lost(
    scripted: Tenant, replicas: tuple[Replica, Replica]
) -> None:
    clients = [replica.client(scripted.key) for replica in replicas]
    made = clients[0].conversations.create().id

    def add(number: int) -> None:
        for turn in range(3):
            said = [{"role": "user", "content": f"{number}-{turn}-{part}"} for part in range(4)]
            clients[number % 2].conversations.items.create(made, items=said)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = texts(clients[0], made)
    assert len(found) == len(set(found)) == 6 * 3 * 4
    for place in range(0, len(found), 4):  # what came together is together
        stem = found[place].rpartition("-")[0]
        assert found[place : place + 4] == [f"{stem}-{part}" for part in range(4)]
    for number in range(6):  # and each client's own in its order
        own = [text for text in found if text.startswith(f"{number}-")]
        assert own == sorted(own)
    clients[0].conversations.delete(made)


def test_a_statement_that_is_run_twice_adds_once(scripted: Tenant, client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[HELLO])
    kept = scripted.sql("SELECT user_name FROM conversations WHERE id = %s", (made.id,))[0][0]
    item = json.loads(client.conversations.items.list(made.id).data[0].to_json()) | {"id": "msg_twice"}

    async def twice() -> None:
        store = Store(scripted.credentials.postgres, 1)
        await store.open()
        for _ in range(2):
            assert await conversations.append(store, made.id, kept, [item], whole=False)
        assert not await conversations.append(store, made.id, "somebody-else", [item | {"id": "m"}], whole=True)
        await store.close()

    asyncio.run(twice())
    assert texts(client, made.id) == ["Hello", "Hello"]
    client.conversations.delete(made.id)


def test_an_answer_is_rated(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[HELLO, ANSWER])
    answer, question = (item.id for item in client.conversations.items.list(made.id))

    def rate(item: str, **body: Any) -> dict[str, Any]:
        path = f"/conversations/{made.id}/items/{item}/rating"
        said = client.post(path, body=body, cast_to=object)
        assert isinstance(said, dict)
        return said

    first = rate(answer, rating="up", comment="Good.")
    assert (first["rating"], first["comment"], first["item_id"]) == ("up", "Good.", answer)
    assert rate(answer, rating="up", comment="Good.") == first
    shown = client.conversations.items.retrieve(answer, conversation_id=made.id)
    assert shown.model_extra["tenantry"]["rating"] == "up"
    assert rate(answer, rating="down")["comment"] == ""
    assert rate(answer, rating=None)["rating"] is None
    assert "tenantry" not in client.conversations.items.retrieve(answer, conversation_id=made.id).model_extra
    for body in ({"rating": 5}, {"rating": "best"}, {}, {"rating": "up", "comment": "x" * 2001}, {"stars": 1}):
        with pytest.raises(openai.UnprocessableEntityError):
            rate(answer, **body)
    with pytest.raises(openai.UnprocessableEntityError, match="Only an assistant's"):
        rate(question, rating="up")
    with pytest.raises(openai.NotFoundError):
        rate("msg_unknown", rating="up")
    client.conversations.delete(made.id)


def test_what_its_retention_no_longer_keeps_is_deleted_in_batches(scripted: Tenant, client: openai.OpenAI) -> None:
    young, old = (client.conversations.create(items=[HELLO]).id for _ in range(2))
    scripted.sql(
        "INSERT INTO conversations (id, user_name) SELECT 'conv_old' || n, 'old' FROM generate_series(1, %s) n",
        (retention.BATCH,),
    )
    scripted.sql(
        "UPDATE conversations SET last_item_at = clock_timestamp() - interval '8 days' "
        "WHERE user_name = 'old' OR id = %s",
        (old,),
    )
    scripted.sql("UPDATE conversations SET last_item_at = last_item_at - interval '6 days' WHERE id = %s", (young,))

    async def clean() -> list[int]:
        store = Store(scripted.credentials.postgres, 1)
        await store.open()
        deleted = [await retention.forget(store, 7) for _ in range(3)]
        await store.close()
        return deleted

    async def kept_house() -> None:
        """As each replica does it, by the tenant's own setting."""
        store, loaded = Store(scripted.credentials.postgres, 1), asyncio.Event()
        loaded.set()
        await store.open()
        setting = scripted.configuration.model_copy(update={"conversations_retention_days": 7})
        service: Any = SimpleNamespace(
            store=store, live=SimpleNamespace(loaded=loaded, current=setting), ledger=SimpleNamespace(events={})
        )
        house = asyncio.create_task(retention.keep_house(service))
        async with asyncio.timeout(60):
            while await store.fetch("SELECT 1 FROM conversations WHERE user_name = 'older'"):
                await asyncio.sleep(0.05)
        house.cancel()
        await store.close()

    scripted.sql("TRUNCATE audit")
    assert asyncio.run(clean()) == [retention.BATCH, 1, 0]
    told = scripted.sql("SELECT event_type, action, resource_id, user_id, key_uid, details FROM audit")
    assert len({row[2] for row in told}) == retention.BATCH + 1
    ((*what, details),) = (row for row in told if row[2] == old)
    assert what == ["deletion", "conversations.expire", old, "tenantry-runtime", ""]
    assert (details["rule"], details["days"]) == ("conversations.retentionDays", 7)
    assert details["user"] != "old"
    scripted.sql(
        "INSERT INTO conversations (id, user_name, last_item_at) "
        "VALUES ('conv_older', 'older', clock_timestamp() - interval '8 days')"
    )
    asyncio.run(kept_house())
    assert texts(client, young) == ["Hello"]
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(old)
    assert scripted.sql("SELECT count(*) FROM conversation_items WHERE conversation_id = %s", (old,)) == [(0,)]
    client.conversations.delete(young)
