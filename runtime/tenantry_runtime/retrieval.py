"""Finding passages: the question's vector, the nearest chunks, and a check of each before it is shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tenantry_runtime import errors, guard, tokens
from tenantry_runtime.call import Call, log
from tenantry_runtime.filters import Filter, as_sql
from tenantry_runtime.provider import NotSentError
from tenantry_runtime.reservation import Need, Usage
from tenantry_runtime.tokenizer import Unsaid
from tenantry_runtime.vectors import Found, VectorsUnavailableError

MAX_QUESTION = 4000
"""Characters of a question that are embedded."""
SETTLING_SECONDS = 10
"""For so long after a change, searches ask Milvus for its newest state, which is slower."""

_STATE = f"""
SELECT EXISTS (SELECT 1 FROM vector_store_files WHERE status = 'completed'),
       changed_at > clock_timestamp() - interval '{SETTLING_SECONDS} seconds', changed_at
FROM documents_state
"""  # noqa: S608 - a constant of ours
_FOUND = """
FROM vector_store_files v
JOIN files f ON f.id = v.file_id
JOIN vector_stores s ON s.id = v.store_id
WHERE v.status = 'completed'
"""
_KNOWN = f"SELECT v.id::text, v.store_id, v.file_id, f.filename, v.attributes, v.created_at {_FOUND} AND "
_MATCHING = f"""
SELECT v.store_id, v.file_id {_FOUND} AND (%s::text[] IS NULL OR v.store_id = ANY(%s)) AND """
MAX_NAMED = 5000
"""Files that a search may name to Milvus, when a filter matched them; where more match, hits are looked through."""
MAX_LOOKED_THROUGH = 1000
"""Hits that are asked for at most, where many of the nearest are left out."""


@dataclass(frozen=True)
class State:
    """Whether there are documents to find, whether they changed a moment ago, and when."""

    documents: bool
    settling: bool
    changed_at: datetime


@dataclass(frozen=True)
class Hit:
    """A passage of one of the tenant's documents: its chunk of this number, from 0."""

    file_id: str
    store_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, Any]
    chunk: int
    created_at: datetime
    """When the file was put into the store."""

    def citation(self) -> dict[str, Any]:
        """What a client is told of a passage that its answer was made from."""
        return {
            "file_id": self.file_id,
            "filename": self.filename,
            "vector_store_id": self.store_id,
            "chunk": self.chunk,
            "score": round(self.score, 4),
        }


@dataclass(frozen=True)
class _Scope:
    """Where to search: `places` as `Vectors.search` takes them, and how many hits to ask for."""

    stores: Sequence[str] | None
    filters: Filter | None
    places: Mapping[str, Sequence[str]] | None
    limit: int


async def search(
    call: Call,
    kind: str,
    question: str,
    *,
    top_k: int,
    min_score: float,
    store_ids: Sequence[str] | None = None,
    filters: Filter | None = None,
    state: State | None = None,
) -> list[Hit]:
    """The best passages for a question, best first; metered as one call of this kind.

    `filters` are on the files' attributes; `state` is given where it has just been read.  Where no document can be
    found, nothing is embedded, searched or taken from a limit.  Raises refusals, StoreUnavailableError, and 503 where
    Milvus is away.
    """
    if store_ids is not None and not store_ids:
        return []
    if state is None:
        state = next((State(*row) for row in await call.ask(_STATE)), None)
    if state is None or not state.documents:
        return []
    # More than asked for: what was deleted a moment ago may still be found, and is left out below.
    scope = await _scope(call, store_ids, filters, min(2 * top_k + 5, 100))
    if scope is None:
        return []
    embedding = call.configuration.embedding
    question = question[:MAX_QUESTION]
    # A search that a client asked for is the request itself; that of a chat is a part of it.
    own = kind == "search"
    event = call.event if own else call.event.inner("data_access", "vector_stores.search", "vector_store")
    event.basic["characters"] = len(question)
    if own and guard.keeps_bodies(call):
        event.full["query"] = call.service.guard.redact(question)
    need = Need(
        kind=kind,
        model=embedding.model,
        input_tokens=tokens.estimate(question),
        input_bound=tokens.byte_length(question) + tokens.BOUND_PER_CALL,
    )
    reservation = await call.reserve(need, event)
    call.searched += 1
    # Where the provider's answer is lost, it may have been made: what was sent is owed.
    usage: Usage | Unsaid = Unsaid.of_embeddings(embedding.model, question)
    released = False
    try:
        vectors, usage = await call.service.provider.embed(embedding.model, [question], embedding.dimension)
        call.searches += 1
        hits = (await _nearest(call, vectors[0], scope, min_score, top_k, state.settling))[:top_k]
        hits = await call.service.guard.passages(call, hits)
        event.basic["hits"] = len(hits)
        event.detailed["documents"] = [hit.file_id for hit in hits]
    except NotSentError as error:
        usage, released = Usage(), True
        raise error.error from None
    except VectorsUnavailableError:
        raise errors.vectors_unavailable() from None
    finally:
        await call.settle(reservation, usage, released=released)
    await reservation.ensure()
    return hits


async def _scope(call: Call, store_ids: Sequence[str] | None, filters: Filter | None, limit: int) -> _Scope | None:
    """Where to look for files that the filter lets through; None: there are none.

    Attributes are in PostgreSQL only: Milvus is told the ids of the files that match.  Where they are too many to
    name, more hits are asked for, and those of other files left out.
    """
    if filters is None:
        return _Scope(store_ids, None, None if store_ids is None else dict.fromkeys(store_ids, ()), limit)
    stores = None if store_ids is None else list(store_ids)
    condition, values = as_sql(filters, "v.attributes")
    rows = await call.fetch(f"{_MATCHING} ({condition}) LIMIT %s", (stores, stores, *values, MAX_NAMED + 1))
    if not rows:
        return None
    if len(rows) > MAX_NAMED:
        everywhere = None if store_ids is None else dict.fromkeys(store_ids, ())
        return _Scope(store_ids, filters, everywhere, MAX_LOOKED_THROUGH)
    places: dict[str, list[str]] = {}
    for store_id, file_id in rows:
        places.setdefault(store_id, []).append(file_id)
    return _Scope(store_ids, filters, places, limit)


async def _nearest(
    call: Call, vector: list[float], scope: _Scope, min_score: float, top_k: int, newest: bool
) -> list[Hit]:
    """At least `top_k` hits where there are so many: where what is left out below took their places, with more asked.

    It is one search to the ledger, however often Milvus is asked.
    """
    limit, foreign = scope.limit, set[str]()
    while True:
        metric = call.configuration.embedding.metric
        found = await call.service.vectors.search(vector, limit, metric, scope.places, newest)
        if strangers := {hit.id for hit in found if hit.tenant != call.service.vectors.tag} - foreign:
            foreign |= strangers
            _tell_foreign(call, len(strangers), len(foreign))
        near = [hit for hit in found if hit.score >= min_score and hit.id not in foreign]
        hits = await _checked(call, near, scope) if near else []
        whole = len(found) < limit or found[-1].score < min_score  # there is nothing beyond that would count
        if len(hits) >= top_k or whole or limit >= MAX_LOOKED_THROUGH:
            return hits
        limit = min(limit * 8, MAX_LOOKED_THROUGH)


def _tell_foreign(call: Call, new: int, together: int) -> None:
    call.service.metrics.leak(call.configuration, "foreign_hit", new)
    told = call.event.basic.setdefault("leaks", {}).setdefault("search", {})
    told["blocked"] = {"foreign_hit": together}
    log.error("a search found chunks that are not this tenant's: %d were dropped", new)


async def _checked(call: Call, near: Sequence[Found], scope: _Scope) -> list[Hit]:
    """Only what is completely written, not deleted, and let through by the filter."""
    condition = "v.id = ANY(%s::uuid[])"
    values: list[Any] = [sorted({each for hit in near if (each := ingestion_of(hit.id))})]
    if scope.filters:  # again: it may have changed since
        more, parameters = as_sql(scope.filters, "v.attributes")
        condition += f" AND ({more})"
        values += parameters
    known = {row[0].replace("-", ""): row for row in await call.fetch(_KNOWN + condition, values)}
    hits = []
    for hit in near:
        row = known.get(ingestion_of(hit.id))
        if row is None or (row[1], row[2]) != (hit.store_id, hit.file_id):
            continue
        if scope.stores is None or row[1] in scope.stores:
            filename, attributes, created_at = row[3:]
            hits.append(
                Hit(hit.file_id, hit.store_id, filename, hit.score, hit.text, attributes, hit.number, created_at)
            )
    return _distinct(hits)


def _distinct(hits: Sequence[Hit]) -> list[Hit]:
    """The same file may be in several stores: its passage is shown once."""
    return list({(hit.file_id, hit.text): hit for hit in reversed(hits)}.values())[::-1]


def chunk_id(ingestion: str, number: int) -> str:
    """A chunk's id: the ingestion (32 hex digits), and its number."""
    return f"{ingestion}-{number}"


def ingestion_of(identity: str) -> str:
    """The ingestion that wrote a chunk; empty where the id is none of ours."""
    ingestion, _, _ = identity.partition("-")
    return ingestion if len(ingestion) == 32 and all(c in "0123456789abcdef" for c in ingestion) else ""
