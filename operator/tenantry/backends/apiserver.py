"""The requests that the operator makes, one object or one list each; what is answered to a write is learnt."""

from collections.abc import AsyncIterator, Callable

from tenantry import names
from tenantry.backends.connection import ApiError, Connection, Json
from tenantry.backends.echoes import Echoes
from tenantry.backends.kinds import Kind
from tenantry.backends.observed import Observed

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class ApiServer:
    """Every method raises ApiError.  What the answers say goes into `observed` at once."""

    def __init__(self, connection: Connection, observed: Observed) -> None:
        self.connection = connection
        self.observed = observed
        self.echoes = Echoes()
        self.learn: Callable[[Kind, Json], None] = lambda kind, answer: None
        """Is told what the API server answered to a write of one of our own kinds."""

    # -- reading ---------------------------------------------------------------

    async def get(self, kind: Kind, namespace: str, name: str) -> Json | None:
        """One object, or None."""
        try:
            return await self.connection.request("get", kind.path(namespace, name), resource=kind.plural)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def pages(self, kind: Kind, selector: str = "") -> AsyncIterator[tuple[list[Json], Json]]:
        """All objects of a kind, some hundred at a time, and the list's metadata, whose version they are all as of."""
        params = {"limit": str(kind.page)}
        if selector:
            params["labelSelector"] = selector
        while True:
            page = await self.connection.request("list", kind.path(), resource=kind.plural, params=params)
            meta = page.get("metadata", {})
            items = page.pop("items", None) or []
            for item in items:  # which lack them
                item |= {"apiVersion": kind.api_version, "kind": kind.kind}
            yield items, meta
            del page, items
            if not meta.get("continue"):
                return
            params = {**params, "continue": meta["continue"]}

    async def list_all(self, kind: Kind, selector: str = "") -> list[Json]:
        return [item async for items, _ in self.pages(kind, selector) for item in items]

    # -- writing ---------------------------------------------------------------

    async def create(self, kind: Kind, obj: Json) -> Json | None:
        """Create it; None if there is one of its name already."""
        meta = obj["metadata"]
        try:
            with self.echoes.writing((kind.kind, meta.get("namespace", ""), meta.get("name", ""))):
                made = await self.connection.request(
                    "create",
                    kind.path(meta.get("namespace", "")),
                    resource=kind.plural,
                    body=obj,
                    params={"fieldManager": names.MANAGER},
                )
                self._keep(kind, made)
            return made
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                return None
            raise

    async def apply(self, kind: Kind, body: Json) -> Json:
        """Server-side apply with our field manager; forced, since what we name is ours to say."""
        return await self._patch("apply", kind, body["metadata"], body, APPLY, {"force": "true"})

    async def merge(self, kind: Kind, obj: Json, patch: Json, subresource: str = "") -> Json:
        """A merge patch that only this very object (by UID) takes."""
        meta = obj["metadata"]
        patch = {**patch, "metadata": {**patch.get("metadata", {}), "uid": meta["uid"]}}
        return await self._patch("patch", kind, meta, patch, MERGE, part=subresource)

    async def _patch(
        self,
        verb: str,
        kind: Kind,
        meta: Json,
        body: object,
        content_type: str,
        params: Json | None = None,
        part: str = "",
    ) -> Json:
        with self.echoes.writing((kind.kind, meta.get("namespace", ""), meta["name"])):
            answer = await self.connection.request(
                verb,
                kind.path(meta.get("namespace", ""), meta["name"], part),
                resource=f"{kind.plural}/{part}" if part else kind.plural,
                body=body,
                content_type=content_type,
                params={"fieldManager": names.MANAGER, **(params or {})},
            )
            self._keep(kind, answer)
        return answer

    def _keep(self, kind: Kind, answer: Json) -> None:
        if kind.watched:
            obj = {"apiVersion": kind.api_version, "kind": kind.kind, **answer}
            if kind.group == names.GROUP:
                self.learn(kind, obj)
            else:
                self.observed.put(obj, ours=True)

    async def delete(self, kind: Kind, obj: Json, *, foreground: bool = False) -> None:
        """Delete this very object; another one of its name is left alone.

        `foreground`: it stays until what it owns is gone.
        """
        meta = obj["metadata"]
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Foreground" if foreground else "Background",
            "preconditions": {"uid": meta["uid"]},
        }
        try:
            await self.connection.request(
                "delete", kind.path(meta.get("namespace", ""), meta["name"]), resource=kind.plural, body=body
            )
        except ApiError as error:
            if error.status not in (404, 409):
                raise
