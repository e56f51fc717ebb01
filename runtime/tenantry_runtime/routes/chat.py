"""POST /v1/chat/completions: the tenant's prompt and documents around the client's messages, metered."""

import hashlib
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from tenantry_runtime import chat_request, errors, prompt, tokens
from tenantry_runtime.answers import json_answer
from tenantry_runtime.call import Call
from tenantry_runtime.chat_request import ChatRequest
from tenantry_runtime.chat_stream import ChatStream
from tenantry_runtime.config import Configuration
from tenantry_runtime.endpoint import Endpoint
from tenantry_runtime.ledger import Need, Reservation, Usage
from tenantry_runtime.prompt import Passage
from tenantry_runtime.provider import NotSentError, usage_of
from tenantry_runtime.retrieval import MAX_QUESTION, Hit, search
from tenantry_runtime.streaming import EventStream

MAX_CONTEXT = 4000
"""Tokens of documents that go with a question at most."""


async def create_completion(call: Call) -> Response:
    request = chat_request.read(await call.json(), call.configuration)
    call.model = request.model
    hits, searched = await _retrieve(call, request)
    passages = _passages(call.configuration, hits)
    system = prompt.system_prompt(call.configuration, passages)
    body = request.upstream(system, request.max_tokens, end_user(call))
    estimate, bound = tokens.prompt_size(body)
    reservation = await call.service.ledger.reserve(
        call.configuration,
        call.caller,
        Need(
            kind="chat",
            model=request.model,
            input_tokens=estimate,
            input_bound=bound,
            output_tokens=request.max_tokens,
            choices=request.choices,
            requests=0 if searched else 1,  # the search for its documents has been counted as the request
            again=searched,
        ),
    )
    body[request.tokens_field] = reservation.granted
    headers = {**reservation.headers, "x-tenantry-max-tokens": str(reservation.granted)}
    if request.stream:
        return await _stream(call, request, reservation, body, estimate, headers)
    return await _whole(call, reservation, body, estimate, headers, hits[: len(passages)])


def end_user(call: Call) -> str:
    """Whom the provider is told: the same user is the same text, which says nothing about who it is."""
    identity = f"{call.configuration.tenant_uid}:{call.caller.user}"
    return hashlib.sha256(identity.encode("utf-8", "replace")).hexdigest()[:32]


async def _retrieve(call: Call, request: ChatRequest) -> tuple[list[Hit], int]:
    """The passages for the question, and the tokens that finding them takes (0: nothing was searched)."""
    wish, question = request.retrieval, request.question()
    if wish is None or not question.strip():
        return [], 0
    if wish.stores is not None:
        known = {row[0] for row in await call.fetch("SELECT id FROM vector_stores WHERE id = ANY(%s)", (wish.stores,))}
        if missing := [store for store in wish.stores if store not in known]:
            raise errors.not_found(f"vector store {missing[0]}")
    before = call.searched
    hits = await search(call, "retrieval", question, top_k=wish.top_k, min_score=wish.min_score, store_ids=wish.stores)
    return hits, max(1, tokens.estimate(question[:MAX_QUESTION])) if call.searched > before else 0


def _passages(configuration: Configuration, hits: Sequence[Hit]) -> list[Passage]:
    """As many of the best as leave room: a small tier's minute must also hold the question and its answer."""
    most = configuration.limits.tokens_per_minute
    room = min(MAX_CONTEXT, most * 3 // 10) if most else MAX_CONTEXT
    result: list[Passage] = []
    for hit in hits:
        room -= tokens.estimate(hit.text) + 24  # its frame
        if room < 0 and result:
            break
        result.append(Passage(hit.file_id, hit.filename, hit.text))
    return result


async def _whole(
    call: Call,
    reservation: Reservation,
    body: dict[str, Any],
    estimate: int,
    headers: dict[str, str],
    hits: Sequence[Hit],
) -> Response:
    # Where the provider's answer is lost, it may have been made: what was sent is owed.
    usage, released = Usage(estimate, 0, estimated=True), False
    try:
        answer = await call.service.provider.json("/chat/completions", body)
        usage = usage_of(answer) or Usage(estimate, _produced(answer), estimated=True)
    except NotSentError as error:
        usage, released = Usage(), True
        raise error.error from None
    finally:
        await call.settle(reservation, usage, released=released)
    documents = [{"file_id": hit.file_id, "filename": hit.filename, "score": round(hit.score, 4)} for hit in hits]
    return json_answer({**answer, "tenantry": {"documents": documents}}, headers)


def _produced(answer: dict[str, Any]) -> int:
    choices = answer.get("choices")
    messages = [choice.get("message") for choice in choices or [] if isinstance(choice, dict)]
    return sum(tokens.estimate(tokens.message_text(message)) for message in messages if isinstance(message, dict))


async def _stream(
    call: Call,
    request: ChatRequest,
    reservation: Reservation,
    body: dict[str, Any],
    estimate: int,
    headers: dict[str, str],
) -> Response:
    stream = ChatStream(call, reservation, estimate, request.include_usage)
    events = stream.events(body)
    try:
        first = await anext(events)  # a refusal of the provider's is an answer of its own, not a broken stream
    except NotSentError as error:
        raise error.error from None

    return EventStream(first, events, headers)


ROUTES = (
    Endpoint(
        method="POST",
        path="/v1/chat/completions",
        summary="An answer to a conversation, from the tenant's documents, whole or as a stream.",
        scope="chat",
        kind="chat",
        handler=create_completion,
        answer_types=("application/json", "text/event-stream"),
        body={
            "type": "object",
            "required": ["messages"],
            "properties": {
                "model": {"type": "string", "description": "One of GET /v1/models; default: the tenant's."},
                "messages": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": chat_request.MAX_MESSAGES,
                    "items": {
                        "type": "object",
                        "required": ["role"],
                        "properties": {"role": {"type": "string"}, "content": {}},
                    },
                },
                "stream": {"type": "boolean"},
                "n": {"type": "integer", "minimum": 1, "maximum": chat_request.MAX_CHOICES},
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                "max_tokens": {"type": "integer", "minimum": 1},
                "max_completion_tokens": {"type": "integer", "minimum": 1},
                "tenantry": {
                    "type": "object",
                    "properties": {
                        "retrieval": {
                            "description": "false: answer without documents.",
                            "oneOf": [
                                {"type": "boolean"},
                                {
                                    "type": "object",
                                    "properties": {
                                        "topK": {"type": "integer", "minimum": 1, "maximum": 50},
                                        "minScore": {"type": "number", "minimum": -1, "maximum": 1},
                                        "vectorStoreIds": {"type": "array", "items": {"type": "string"}},
                                    },
                                },
                            ],
                        }
                    },
                },
            },
        },
    ),
)
