"""The pure half: names, verifiers, what a plan says, and what a difference becomes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import re

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors as pg
from psycopg import sql

from tenantry.api.conditions import Reason
from tenantry.backends.postgres import errors
from tenantry.credentials import FIRST, Logins
from tenantry.desired import database
from tenantry.desired.postgres import inside, keys, scram, seen, shared
from tenantry.desired.postgres.statements import grants, statement, word
from tenantry.desired.postgres.things import MAKERS, Things
from tenantry_runtime.config import AccessKeyRow, Configuration, Documents, Embedding, Prompt
from tests import samples

UID = "0b9d3c52-7c1f-4f4e-9a57-3a2f5f0f8e11"
EMPTY_SHARED = seen.Shared("admin", {}, (), {"tenantry": seen.SeenThing("admin", frozenset())})
EMPTY_INSIDE = seen.Inside({}, {}, {}, ())


def plan(level: str = "Schema", logins: Logins = FIRST) -> database.DatabasePlan:
    resolved = dataclasses.replace(samples.resolved("acme-eu"), uid=UID, database_isolation=level)  # type: ignore[arg-type]
    configuration = Configuration(
        tenant="acme-eu",
        tenant_uid=UID,
        display_name="Acme",
        tier="free",
        region="main",
        default_model="m",
        allowed_models=("m",),
        prices={},
        prompt=Prompt(template="t"),
        documents=Documents(max_files=1, max_file_bytes=1),
        embedding=Embedding(model="e", dimension=8),
    )
    return database.plan(resolved, samples.credentials(), configuration, logins)


def text(*statements: sql.Composable) -> str:
    return "\n".join(one.as_string(None) for one in statements)


def test_the_longest_names_fit_postgresql() -> None:
    things = Things("a" * 40, UID)
    every = (*things.roles, *things.schemas, *things.retained, things.database, things.channel)
    assert max(len(name.encode()) for name in every) <= 63
    assert len(set(things.roles)) == 6


def test_one_of_a_few_makes_a_tenants_roles() -> None:
    makers = {Things("acme", f"{number}").maker for number in range(2000)}
    assert len(makers) == MAKERS
    assert Things("acme", UID).maker == Things("another", UID).maker
    made = plan()
    first = seen.SeenRole(frozenset({"inherit"}), -1, False, made.things.comment, True, {})
    ours = dataclasses.replace(EMPTY_SHARED, roles={made.things.owner: first, made.things.group: first})
    assert shared.maker(made, EMPTY_SHARED) == made.things.maker
    assert shared.maker(made, ours) is None, "the admin made them"
    assert shared.maker(made, dataclasses.replace(ours, made=frozenset(ours.roles))) == made.things.maker


def test_owners_are_closed_where_the_server_can_do_it() -> None:
    made = plan()
    things = made.things
    whole = seen.SeenRole(frozenset({"inherit"}), -1, False, things.comment, True, {})
    there = dataclasses.replace(EMPTY_SHARED, roles=dict.fromkeys(things.roles, whole), made=frozenset(things.roles))
    left_open = dataclasses.replace(there, settable=frozenset(things.owners))
    both = f'"{things.owner}", "{things.runtime_owner}"'
    for state, opens in ((EMPTY_SHARED, False), (there, True), (left_open, False)):
        opening, closing = shared.opening(made, state), shared.closing(made, state)
        assert bool(opening) == opens
        assert closing
        assert text(*closing.statements) == f"GRANT {both} TO CURRENT_USER WITH SET FALSE"
    half = dataclasses.replace(there, settable=frozenset({things.owner}))
    opening = shared.opening(made, half)
    assert opening
    assert text(*opening.statements) == f'GRANT "{things.runtime_owner}" TO CURRENT_USER WITH SET TRUE'
    for level, state in (
        ("Database", there),
        ("Schema", dataclasses.replace(there, options=False)),
        ("Schema", dataclasses.replace(there, made=frozenset())),
    ):
        assert shared.opening(plan(level), state) is None
        assert shared.closing(plan(level), state) is None


def test_no_two_tenants_share_a_name() -> None:
    one, other = Things("acme", UID), Things("acme-runtime", UID)
    assert not set(one.roles) & set(other.roles)
    assert not set(one.schemas) & set(other.schemas)


def test_a_comment_says_whose_a_thing_is() -> None:
    things = Things("acme", UID)
    assert things.owns(things.comment)
    assert things.owns(things.comment + " password=0123")
    for comment in (None, "", "made by hand", things.comment + "0", "x " + things.comment):
        assert not things.owns(comment)


def test_the_verifier_is_postgresqls() -> None:
    made = scram.verifier("pencil", "user")
    matched = re.fullmatch(r"SCRAM-SHA-256\$(\d+):([^$]+)\$([^:]+):(.+)", made)
    assert matched is not None
    salted = hashlib.pbkdf2_hmac("sha256", b"pencil", base64.b64decode(matched[2]), int(matched[1]))
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    assert base64.b64decode(matched[3]) == stored
    assert base64.b64decode(matched[4]) == hmac.digest(salted, b"Server Key", "sha256")
    assert len({made, scram.verifier("pencil", "other"), scram.verifier("pencils", "user")}) == 3
    with pytest.raises(ValueError, match="ASCII"):
        scram.verifier("bleistift-ü", "user")


def test_a_plan_keeps_its_secrets() -> None:
    made = plan(logins=Logins(1, database_previous=True))
    passwords = [role.password for role in made.roles if role.login]
    assert len(set(passwords)) == 3
    for password in passwords:
        assert password not in repr(made)
        for correction in shared.corrections(made, EMPTY_SHARED):
            assert password not in text(*correction.statements)


def test_only_the_runtimes_logins_have_few_rounds() -> None:
    """A tenant's own programs may refuse fewer than 4096."""
    made = plan()
    rounds = {role.name: role.iterations for role in made.roles if role.login}
    assert rounds == {made.things.login: 4096, made.things.slot("a"): scram.FEW}
    sql_text = text(*(s for c in shared.corrections(made, EMPTY_SHARED) for s in c.statements))
    assert sql_text.count("SCRAM-SHA-256$4096:") == 1
    assert sql_text.count(f"SCRAM-SHA-256${scram.FEW}:") == 1


def test_only_logins_have_limits_and_settings() -> None:
    for role in plan().roles:
        assert (role.connection_limit > 0) == bool(role.settings)
        assert role.login <= bool(role.settings)
    assert [role.name for role in plan().roles if role.login] == ["tenant_acme_eu", "tenant_acme_eu__runtime_a"]


@pytest.mark.parametrize("level", ["Schema", "Database"])
def test_from_nothing_in_an_order_that_can_run(level: str) -> None:
    made = plan(level)
    wanted = shared.corrections(made, EMPTY_SHARED)
    roles = text(*(s for c in wanted for s in c.statements))
    within = text(*(s for c in inside.corrections(made, EMPTY_INSIDE) for s in c.statements))
    for role in made.roles:
        create = roles.index(f'CREATE ROLE "{role.name}" WITH ')
        member = "ROLE CURRENT_USER" in roles[create:].splitlines()[0]
        assert member == (role.name in made.things.owners), "the operator is a member of who owns"
    regional = {"role tenantry_connect", f"role {made.things.maker}", "grants on database tenantry"}
    assert {c.what for c in wanted if c.shared} == regional
    tenants_own = [c for c in wanted if not c.shared]
    assert all(c.last == ('GRANT "tenantry_connect" TO' in text(*c.statements)) for c in tenants_own)
    assert ("CREATE DATABASE" in roles) == (level == "Database")
    assert shared.corrections(made, EMPTY_SHARED)[-1].alone == (level == "Database")
    order = [
        "ALTER DEFAULT PRIVILEGES",
        "CREATE SCHEMA",
        "SET LOCAL search_path",
        "CREATE TABLE ledger",
        "RESET search_path",
    ]
    order += ['GRANT SELECT ON TABLE "tenant_acme_eu__runtime"."access_keys"', 'INSERT INTO "tenant_acme_eu__runtime"']
    places = [within.index(part) for part in order]
    assert places == sorted(places)
    assert 'ALTER ROLE "tenant_acme_eu__runtime_b" WITH PASSWORD' not in roles


entries = st.tuples(st.sampled_from(["", "a", "b"]), st.sampled_from(["SELECT", "INSERT", "UPDATE"]))


@given(st.sets(entries), st.dictionaries(entries, st.booleans()))
def test_grants_lead_exactly_to_what_is_wanted(
    want: set[tuple[str, str]], granted: dict[tuple[str, str], bool]
) -> None:
    acl = frozenset((*entry, passed_on) for entry, passed_on in granted.items())
    now = dict(granted)
    for line in grants(statement("TABLE {}", "t"), want, acl):
        matched = re.fullmatch(
            r"(GRANT|REVOKE)( GRANT OPTION FOR)? ([A-Z, ]+) ON TABLE \"t\" (?:TO|FROM) (\S+)( CASCADE)?", text(line)
        )
        assert matched is not None
        role = "" if matched[4] == "PUBLIC" else matched[4].strip('"')
        for privilege in matched[3].split(", "):
            if matched[2] or matched[1] == "GRANT":
                now[role, privilege] = False
            else:
                del now[role, privilege]
    assert now == dict.fromkeys(want, False)
    assert grants(statement("TABLE {}", "t"), want, frozenset((*entry, False) for entry in want)) == ()


def test_a_keyword_is_a_keyword() -> None:
    assert text(word("SELECT")) == "SELECT"
    with pytest.raises(ValueError, match="no keyword"):
        word("SELECT; DROP")


def test_keys_differ_only_where_they_differ() -> None:
    things = Things("acme", UID)
    one = AccessKeyRow(uid="1", name="n", namespace="ns", key_sha256="a" * 64, scopes=("chat",))
    assert keys.correction(things, [one], [keys.row(one)]) is None
    assert keys.correction(things, [], []) is None
    changed = keys.correction(things, [one], [("1", *("x",) * 7, 0), ("2", *("x",) * 7, 0)])
    assert changed is not None
    assert "DELETE" in text(*changed.statements)
    assert text(*changed.statements).endswith(f'NOTIFY "tenantry_{UID.replace("-", "")}"')


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (pg.InsufficientPrivilege("x"), Reason.DATABASE_REFUSED),
        (pg.ReadOnlySqlTransaction("x"), Reason.DATABASE_UNAVAILABLE),
        (pg.TooManyConnections("x"), Reason.DATABASE_UNAVAILABLE),
        (pg.DiskFull("x"), Reason.DATABASE_UNAVAILABLE),
        (pg.QueryCanceled("x"), Reason.DATABASE_UNAVAILABLE),
        (pg.LockNotAvailable("x"), Reason.DATABASE_UNAVAILABLE),
        (pg.AdminShutdown("x"), Reason.DATABASE_UNAVAILABLE),
        (pg.ConnectionFailure("x"), Reason.DATABASE_UNAVAILABLE),
        (psycopg.OperationalError("server closed the connection"), Reason.DATABASE_UNAVAILABLE),
        (pg.ObjectInUse("x"), Reason.DATABASE_REFUSED),
        (pg.DuplicateObject("x"), Reason.RETRYING),
        (pg.UniqueViolation("x"), Reason.RETRYING),
        (pg.DeadlockDetected("x"), Reason.RETRYING),
        (pg.SyntaxError("x"), Reason.DATABASE_REFUSED),
    ],
)
def test_errors_become_sentences(error: psycopg.Error, reason: Reason) -> None:
    made = errors.running(error, "grants on schema tenant_acme")
    assert made.reason is reason
    assert made.message.startswith(("PostgreSQL", "Another session", "Somebody else"))
