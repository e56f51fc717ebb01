"""Finding passages: the question's vector, the nearest chunks, and a check of each before it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tenantry_runtime import errors, tokens
from tenantry_runtime.call import Call, log
from tenantry_runtime.ledger import Need, Usage
from tenantry_runtime.provider import NotSentError
from tenantry_runtime.vectors import Found, VectorsUnavailableError

MAX_QUESTION = 4000
"""Characters of a question that are embedded."""
SETTLING_SECONDS = 10
"""For so long after a change, searches ask Milvus for its newest state, which is slower."""

_STATE = f"""
SELECT EXISTS (SELECT 1 FROM vector_store_files WHERE status = 'completed'),
       (SELECT changed_at > clock_timestamp() - interval '{SETTLING_SECONDS} seconds' FROM documents_state)
"""  # noqa: S608 - a constant of ours
_KNOWN = """
SELECT v.id::text, v.store_id, v.file_id, f.filename, v.attributes
FROM vector_store_files v
JOIN files f ON f.id = v.file_id
JOIN vector_stores s ON s.id = v.store_id
WHERE v.id = ANY(%s::uuid[]) AND v.status = 'completed'
"""


@dataclass(frozen=True)
class Hit:
    """A passage of one of the tenant's documents."""

    file_id: str
    store_id: str
    filename: str
    score: float
    text: str
    attributes: dict[str, Any]


async def search(
    call: Call, kind: str, question: str, *, top_k: int, min_score: float, store_ids: Sequence[str] | None = None
) -> list[Hit]:
    """The best passages for a question, best first; metered as one call of this kind.

    Where there is no document, nothing is embedded, searched or taken from a limit.  Raises refusals,
    StoreUnavailableError, and 503 where Milvus is away.
    """
    row = await call.one(_STATE)
    if row is None or not row[0]:
        return []
    newest = bool(row[1])
    embedding = call.configuration.embedding
    question = question[:MAX_QUESTION]
    # A search that a client asked for is the request itself; that of a chat is a part of it.
    own = kind == "search"
    event = call.event if own else call.event.inner("data_access", "vector_stores.search", "vector_store")
    event.basic["characters"] = len(question)
    need = Need(
        kind=kind,
        model=embedding.model,
        input_tokens=tokens.estimate(question),
        input_bound=tokens.byte_length(question) + tokens.BOUND_PER_CALL,
    )
    reservation = await call.reserve(need, event)
    call.searched += 1
    usage, released = Usage(), True
    try:
        vectors, usage = await call.service.provider.embed(embedding.model, [question], embedding.dimension)
        released = False
        call.searches += 1
        # More than asked for: what was deleted a moment ago may still be found, and is left out below.
        found = await call.service.vectors.search(
            vectors[0], min(2 * top_k + 5, 100), embedding.metric, store_ids, newest
        )
        hits = await _checked(call, found, top_k, min_score, store_ids)
        hits = await call.service.guard.passages(call, hits)
        event.basic["hits"] = len(hits)
        event.detailed["documents"] = [hit.file_id for hit in hits]
        return hits
    except NotSentError as error:
        raise error.error from None
    except VectorsUnavailableError:
        raise errors.vectors_unavailable() from None
    finally:
        await call.settle(reservation, usage, released=released)


async def _checked(
    call: Call, found: Sequence[Found], top_k: int, min_score: float, store_ids: Sequence[str] | None
) -> list[Hit]:
    """Only what is this tenant's, completely written, not deleted, and near enough."""
    own = []
    for hit in found:
        if hit.tenant == call.service.vectors.tag:
            own.append(hit)
        else:
            call.service.metrics.leak(call.configuration, "foreign_hit")
            log.error("a search found a chunk that is not this tenant's: it was dropped")
    near = [hit for hit in own if hit.score >= min_score]
    if not near:
        return []
    ingestions = sorted({ingestion for hit in near if (ingestion := ingestion_of(hit.id))})
    known = {row[0].replace("-", ""): row for row in await call.fetch(_KNOWN, (ingestions,))}
    hits = []
    for hit in near:
        row = known.get(ingestion_of(hit.id))
        if row and (row[1], row[2]) == (hit.store_id, hit.file_id) and (store_ids is None or row[1] in store_ids):
            hits.append(Hit(hit.file_id, hit.store_id, row[3], hit.score, hit.text, row[4]))
    return _distinct(hits)[:top_k]


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
