"""The way of one chat request, which all routes that ask a chat model share: `prepare`, then `whole` or `stream`."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from tenantry_runtime import errors, prompt, tokens
from tenantry_runtime.audit import prompt_digest
from tenantry_runtime.call import Call
from tenantry_runtime.chat_request import ChatRequest
from tenantry_runtime.chat_stream import ChatStream
from tenantry_runtime.config import Configuration
from tenantry_runtime.ledger import Need, Reservation, Usage
from tenantry_runtime.prompt import Passage
from tenantry_runtime.provider import NotSentError, usage_of
from tenantry_runtime.retrieval import MAX_QUESTION, Hit, search

MAX_CONTEXT = 4000
"""Tokens of documents that go with a question at most."""


@dataclass
class Prepared:
    """A call that may be made, and has to be: `whole` or `stream` settles its reservation.

    `body` is what the provider is sent, `estimate` the tokens of its input, `hits` the passages that it holds,
    `headers` what the answer carries.
    """

    request: ChatRequest
    reservation: Reservation
    body: dict[str, Any]
    estimate: int
    hits: list[Hit]
    headers: dict[str, str]

    def documents(self) -> list[dict[str, Any]]:
        """What the client is told of the passages."""
        return [hit.citation() for hit in self.hits]


async def prepare(call: Call, request: ChatRequest) -> Prepared:
    """Find the documents and reserve what the call can cost.  Raises refusals and StoreUnavailableError."""
    call.model = request.model
    request = await call.service.guard.request(call, request)
    hits, searched = await _retrieve(call, request)
    passages = _passages(call.configuration, hits)
    system = prompt.system_prompt(call.configuration, passages)
    body = request.upstream(system, request.max_tokens, end_user(call))
    estimate, bound = tokens.prompt_size(body)
    _describe(call, request, hits)
    reservation = await call.reserve(
        Need(
            kind="chat",
            model=request.model,
            input_tokens=estimate,
            input_bound=bound,
            output_tokens=request.max_tokens,
            choices=request.choices,
            requests=0 if searched else 1,  # the search for its documents has been counted as the request
            again=searched,
        )
    )
    body[request.tokens_field] = reservation.granted
    headers = {**reservation.headers, "x-tenantry-max-tokens": str(reservation.granted)}
    return Prepared(request, reservation, body, estimate, hits[: len(passages)], headers)


def _describe(call: Call, request: ChatRequest, hits: Sequence[Hit]) -> None:
    """What the audit keeps of a request, but for its bodies."""
    call.event.basic |= {
        "prompt_digest": prompt_digest(call.configuration),
        "messages": len(request.messages),
        "characters": sum(len(tokens.message_text(message)) for message in request.messages),
    }
    call.event.detailed |= {
        "stream": request.stream,
        "choices": request.choices,
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
        "documents": [hit.file_id for hit in hits],
    }


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


async def whole(call: Call, prepared: Prepared) -> dict[str, Any]:
    """The provider's answer, with the documents under `tenantry`.  Raises ApiError where there is none."""
    # Where the provider's answer is lost, it may have been made: what was sent is owed.
    usage, released = Usage(prepared.estimate, 0, estimated=True), False
    try:
        answer = await call.service.provider.json("/chat/completions", prepared.body)
        usage = usage_of(answer) or Usage(prepared.estimate, _produced(answer), estimated=True)
        answer = call.service.guard.answer(call, answer)
    except NotSentError as error:
        usage, released = Usage(), True
        raise error.error from None
    finally:
        await call.settle(prepared.reservation, usage, released=released)
    return {**answer, "tenantry": {"documents": prepared.documents()}}


def _produced(answer: dict[str, Any]) -> int:
    choices = answer.get("choices")
    messages = [choice.get("message") for choice in choices or [] if isinstance(choice, dict)]
    return sum(tokens.estimate(tokens.message_text(message)) for message in messages if isinstance(message, dict))


async def stream(call: Call, prepared: Prepared) -> AsyncGenerator[dict[str, Any], None]:
    """The provider's chunks, usage included; an object with `error` where the answer breaks off.

    Ends once the ledger has the call; closed early, it stops the provider and settles what was produced.  Raises
    ApiError before the first chunk, where the provider refuses: so get that one before anything is sent.
    """
    chunks = ChatStream(call, prepared.reservation, prepared.estimate).chunks(prepared.body)
    try:
        async for chunk in chunks:
            yield chunk
    except NotSentError as error:
        raise error.error from None
    finally:
        await chunks.aclose()
