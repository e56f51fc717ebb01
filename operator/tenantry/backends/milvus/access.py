"""Users, roles and grants, and the proof that they are in force.

Milvus 2.3 answers a change of rights before its proxies know of it, and tells them from a queue in no fixed order, in
which every collection and partition dropped lately waits too: a change may take long to arrive, and of two changes of
one right in quick succession the first may arrive last (a login goes on as administrator after it was none any more).
So after a change the tenant's own login is tried until it may do what it should and is refused what it should not;
in between, what does not show is written once more, which queues it once more.
"""

import asyncio
import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tenantry.api.conditions import Reason
from tenantry.backends.errors import BackendError
from tenantry.backends.milvus.client import Client, Denied, Failure, Login
from tenantry.backends.milvus.protocol import milvus
from tenantry.desired.vectors import Grant, VectorPlan

PROOF_SECONDS = 10.0
SETTLE_SECONDS = 0.3
LONGEST_PAUSE = 0.6
"""Short: Milvus works off what its proxies must learn at random, four at a time, so saying it often helps."""
_LOGIN_REFUSALS = 3
"""So often in a row before a login counts as broken: right after a restart Milvus refuses even good ones."""

_THERE = "already exist"
"""Made since it was looked for, by an attempt whose answer was lost: what it may and its password are proven next."""
_NOWHERE = "tenantry_no_such_collection"
_ANYWHERE = "*"
_PUBLIC = (
    Grant("Collection", _ANYWHERE, "IndexDetail", _ANYWHERE),
    Grant("Global", _ANYWHERE, "DescribeCollection", _ANYWHERE),
    Grant("Global", _ANYWHERE, "ShowCollections", _ANYWHERE),
)
"""What Milvus gives to every user at each start, unless told otherwise."""


@dataclass
class _Taken:
    """What one `ensure` took away: proxies may have to be told again."""

    grants: list[Grant] = field(default_factory=list)
    roles: list[str] = field(default_factory=lambda: ["admin"])


@dataclass(frozen=True)
class _Seen:
    """What a login was seen to do."""

    known: bool
    missing: tuple[str, ...]
    """Privileges that it should have and has not."""
    beyond: bool
    """It is not refused what it should be."""

    @property
    def right(self) -> bool:
        return self.known and not self.missing and not self.beyond

    def words(self) -> str:
        if not self.known:
            return "the login is refused"
        return f"{', '.join(self.missing)} is refused" if self.missing else "collections elsewhere are not refused"


class Access:
    """Rights on one server, written as the region's own login."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def secured(self) -> bool:
        """Whether the server asks for a login at all."""
        try:
            await self._client.ask("ListDatabases", milvus.ListDatabasesRequest(), None)
        except Denied:
            return True
        except Failure:
            return False
        return False

    async def close_public(self) -> list[str]:
        """Take from role `public`, which every user has, all rights; says which there were.

        Milvus gives the default ones back at each restart.  Without its own database (``*``) a revocation
        changes nothing, silently.
        """
        found = await self._grants("public", _ANYWHERE) or set()
        for grant in sorted(found):
            await self._operate("public", grant, milvus.OperatePrivilegeType.Revoke)
        return [f"right {grant.privilege} of role public" for grant in sorted(found)]

    async def ensure(self, plan: VectorPlan, proven: bool) -> list[str]:
        """Role, user and exactly the plan's grants; says what was written.

        `proven` is whether this login was lately seen to work: then it is only tried after a write.
        """
        granted, roles = await asyncio.gather(self._grants(plan.role, plan.place.database), self._roles_of(plan.user))
        written: list[str] = []
        taken = _Taken()
        if granted is None:
            await self._create_role(plan.role)
            written.append(f"role {plan.role}")
        if roles is None:
            await self._create_user(plan.user, plan.password)
            written.append(f"user {plan.user}")
        if plan.role not in (roles or ()):
            await self._member(plan.user, plan.role, True)
            written.append(f"role of user {plan.user}")
        for user in plan.ended:
            if await self._roles_of(user) is not None:
                await self._client.call("DeleteCredential", milvus.DeleteCredentialRequest(username=user))
                written.append(f"user {user}, whose time is over")
        for role in sorted((roles or set()) - {plan.role}):
            await self._member(plan.user, role, False)
            taken.roles.append(role)
            written.append(f"foreign role of user {plan.user}")
        for grant in sorted(set(plan.grants) - (granted or set())):
            await self._operate(plan.role, grant, milvus.OperatePrivilegeType.Grant)
            written.append(f"right {grant.privilege}")
        for grant in sorted((granted or set()) - set(plan.grants)):
            await self._operate(plan.role, grant, milvus.OperatePrivilegeType.Revoke)
            taken.grants.append(grant)
            written.append(f"foreign right {grant.privilege}")
        if written or not proven:
            try:
                written += await self._prove(plan, taken, bool(written))
            except BackendError as error:
                error.corrected = tuple(written)
                raise
        return written

    async def users(self) -> list[str]:
        """The names of all users."""
        answer = await self._client.call("ListCredUsers", milvus.ListCredUsersRequest())
        return list(answer.usernames)

    async def reserve(self, plan: VectorPlan) -> None:
        """Role and user without any right."""
        granted, roles = await asyncio.gather(self._grants(plan.role, plan.place.database), self._roles_of(plan.user))
        if granted is None:
            await self._create_role(plan.role)
        if roles is None:
            await self._create_user(plan.user, plan.password)

    async def remove(self, role: str, users: tuple[str, ...], databases: tuple[str, ...]) -> None:
        """End users first, then their role; fine where they are gone already."""
        for user in users:  # Milvus takes the removal of a user that is not there
            await self._client.call("DeleteCredential", milvus.DeleteCredentialRequest(username=user))
        if not await self._drop_role(role, databases):
            # Someone granted it more than we do: a role goes only when it holds no right anywhere.
            answer = await self._client.call("ListDatabases", milvus.ListDatabasesRequest())
            if not await self._drop_role(role, tuple(answer.db_names)):
                raise BackendError(
                    Reason.VECTORS_REFUSED,
                    f"Milvus keeps role {role}, which holds rights that the operator did not give; revoke them",
                )

    async def _drop_role(self, role: str, databases: tuple[str, ...]) -> bool:
        """Revoke the role's rights in these databases and drop it; False: it holds rights elsewhere."""
        for database in databases:
            found = await self._grants(role, database)
            if found is None:
                return True
            for grant in sorted(found):
                await self._operate(role, grant, milvus.OperatePrivilegeType.Revoke)
        # What it says of a role that is gone or still holds rights is told apart by looking.
        await self._client.call("DropRole", milvus.DropRoleRequest(role_name=role), words="the role")
        return await self._grants(role, databases[0]) is None

    async def _prove(self, plan: VectorPlan, taken: _Taken, changed: bool) -> list[str]:
        """Try the login until it may do all that it should and nothing elsewhere; says what had to be mended."""
        start, refusals = time.monotonic(), 0
        pause = SETTLE_SECONDS if changed else 0.0
        mended: list[str] = []
        while True:
            await asyncio.sleep(pause)
            seen = await self._try(plan)
            if seen.right:
                return mended
            if time.monotonic() - start > PROOF_SECONDS:
                raise BackendError(
                    Reason.VECTORS_REFUSED,
                    f"Milvus took the rights of user {plan.user} but does not apply them yet ({seen.words()}); this is "
                    "tried again, and if it stays, restart Milvus",
                )
            refusals = 0 if seen.known else refusals + 1
            if seen.known:
                await self._repeat(plan, taken, seen)
            elif refusals >= _LOGIN_REFUSALS and not mended:
                await self._replace_user(plan)
                mended.append(f"password of user {plan.user}")
            pause = min(2 * pause or SETTLE_SECONDS, LONGEST_PAUSE)

    async def _try(self, plan: VectorPlan) -> _Seen:
        """What the tenant's own login may do now."""
        login = Login(plan.user, plan.password)

        async def refused(privilege: str, collection: str, database: str) -> bool | None:
            """None: the login itself."""
            try:
                await self._client.ask(privilege, _TRIALS[privilege](collection), login, database)
            except Denied as denied:
                return True if denied.known else None
            except Failure:  # the right holds, and the request was made to be refused for its content
                return False
            return False

        wanted = [grant.privilege for grant in plan.grants if grant.privilege in _TRIALS]
        inside = [refused(privilege, plan.place.collection, plan.place.database) for privilege in wanted]
        beyond = [
            refused("Query", _NOWHERE, plan.place.database),
            refused("Insert", _NOWHERE, plan.place.database),
            refused("ShowCollections", _NOWHERE, "default"),
        ]
        answers = await asyncio.gather(*inside, *beyond)
        missing = [privilege for privilege, no in zip(wanted, answers, strict=False) if no]
        return _Seen(None not in answers, tuple(missing), not all(answers[len(wanted) :]))

    async def _repeat(self, plan: VectorPlan, taken: _Taken, seen: _Seen) -> None:
        """Write again what does not show: Milvus takes what is so already, and tells its proxies again."""
        kinds = milvus.OperatePrivilegeType
        if seen.missing:
            await self._member(plan.user, plan.role, True)
            for grant in plan.grants:
                if grant.privilege in seen.missing or grant.privilege not in _TRIALS:
                    await self._operate(plan.role, grant, kinds.Grant)
        if seen.beyond:
            for role in taken.roles:
                await self._member(plan.user, role, False)
            widest = [Grant(g.scope, _ANYWHERE, g.privilege, g.database) for g in plan.grants if g.target != _ANYWHERE]
            for grant in (*taken.grants, *widest):
                await self._operate(plan.role, grant, kinds.Revoke)
            for grant in _PUBLIC:
                await self._operate("public", grant, kinds.Revoke)

    async def _replace_user(self, plan: VectorPlan) -> None:
        """Another password: Milvus changes one only for who knows the old one, so the user is made anew."""
        await self._client.call("DeleteCredential", milvus.DeleteCredentialRequest(username=plan.user))
        await self._create_user(plan.user, plan.password)
        await self._member(plan.user, plan.role, True)

    # One request each

    async def _grants(self, role: str, database: str) -> set[Grant] | None:
        """A role's grants in a database, and those in every database; None where there is no such role."""
        entity = milvus.GrantEntity(role=milvus.RoleEntity(name=role), db_name=database)
        request = milvus.SelectGrantRequest(entity=entity)
        answer = await self._client.call("SelectGrant", request, words="not found the role")
        if answer is None:
            return None
        return {
            Grant(found.object.name, found.object_name, found.grantor.privilege.name, found.db_name or "default")
            for found in answer.entities
        }

    async def _roles_of(self, user: str) -> set[str] | None:
        request = milvus.SelectUserRequest(user=milvus.UserEntity(name=user), include_role_info=True)
        answer = await self._client.call("SelectUser", request)
        if not answer.results:
            return None
        return {role.name for role in answer.results[0].roles}

    async def _create_role(self, role: str) -> None:
        request = milvus.CreateRoleRequest(entity=milvus.RoleEntity(name=role))
        await self._client.call("CreateRole", request, words=_THERE)

    async def _create_user(self, user: str, password: str) -> None:
        encoded = base64.b64encode(password.encode()).decode()
        request = milvus.CreateCredentialRequest(username=user, password=encoded)
        await self._client.call("CreateCredential", request, words=_THERE)

    async def _member(self, user: str, role: str, joins: bool) -> None:
        kinds = milvus.OperateUserRoleType
        request = milvus.OperateUserRoleRequest(
            username=user, role_name=role, type=kinds.AddUserToRole if joins else kinds.RemoveUserFromRole
        )
        await self._client.call("OperateUserRole", request)

    async def _operate(self, role: str, grant: Grant, kind: int) -> None:
        entity = milvus.GrantEntity(
            role=milvus.RoleEntity(name=role),
            object=milvus.ObjectEntity(name=grant.scope),
            object_name=grant.target,
            db_name=grant.database,
            grantor=milvus.GrantorEntity(privilege=milvus.PrivilegeEntity(name=grant.privilege)),
        )
        request = milvus.OperatePrivilegeRequest(entity=entity, type=kind)
        await self._client.call(
            "OperatePrivilege", request, grant.database if grant.database != _ANYWHERE else "default"
        )


# Requests that show a right without doing anything: Milvus checks the right, then refuses their content.
_TRIALS: dict[str, Callable[[str], Any]] = {
    "Insert": lambda name: milvus.InsertRequest(collection_name=name),
    "Upsert": lambda name: milvus.UpsertRequest(collection_name=name),
    "Query": lambda name: milvus.QueryRequest(collection_name=name),
    "Search": lambda name: milvus.SearchRequest(collection_name=name),
    "DescribeCollection": lambda name: milvus.DescribeCollectionRequest(collection_name=name),
    "ShowCollections": lambda _: milvus.ShowCollectionsRequest(),
}
