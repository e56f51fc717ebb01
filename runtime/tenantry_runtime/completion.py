"""The way of one chat request, which all routes that ask a chat model share: `prepare`, then `whole` or `stream`."""

from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tenantry_runtime import assembly, cache, drafts, errors, threads, tokens
from tenantry_runtime.cache import Found, Ticket
from tenantry_runtime.call import Call
from tenantry_runtime.chat_request import ChatRequest
from tenantry_runtime.chat_stream import ChatStream
from tenantry_runtime.drafts import Draft
from tenantry_runtime.flight import Chunk, Flight, carried
from tenantry_runtime.provider import NotSentError, usage_of
from tenantry_runtime.reservation import Need, Reservation, Usage
from tenantry_runtime.retrieval import MAX_QUESTION, Hit, State, search
from tenantry_runtime.store import Row
from tenantry_runtime.tokenizer import Produced, Unsaid


@dataclass
class Prepared:
    """A call that may be made, and has to be: `whole` or `stream` settles its reservation.

    `body` is what the provider is sent, `hits` the passages that it holds, `headers` what the answer carries.
    `ticket`: the answer may be kept for others; `answer`: it was found there, and nothing is left to be settled.
    `thread`: the conversation that the answer is added to.  `ahead`: of a stream, the chunks after the present one that
    are there already, where that is known.
    """

    request: ChatRequest
    reservation: Reservation
    headers: dict[str, str]
    body: dict[str, Any] = field(default_factory=dict)
    hits: list[Hit] = field(default_factory=list)
    ticket: Ticket | None = None
    answer: dict[str, Any] | None = None
    thread: threads.Thread | None = None
    ahead: Sequence[Chunk] = ()

    def told(self) -> dict[str, Any]:
        """What the client is told of the way to its answer, under `tenantry`."""
        told: dict[str, Any] = {"documents": [hit.citation() for hit in self.hits]}
        if cache.HEADER in self.headers:
            told["cache"] = self.headers[cache.HEADER]
        if self.thread:
            told["conversation"] = self.thread.told()
        return told


async def prepare(call: Call, request: ChatRequest) -> Prepared:
    """Look into the cache; else find the documents, and reserve what the call can cost.

    Raises refusals and StoreUnavailableError.
    """
    call.model = request.model
    thread = await threads.resume(call, request.conversation, request.items) if request.conversation else None
    if thread:
        request = replace(request, history=tuple(thread.history))
        call.event.basic["conversation"] = thread.id
        call.event.detailed |= {"history": len(thread.history), "left_out": thread.left_out}
    request = await call.service.guard.request(call, request)
    if thread:
        thread.items = list(request.items)
    ticket = cache.ticket(call, request)
    if ticket is None:
        return await _prepare(call, request, None, thread)
    early = _Early(call, request)
    try:
        call.event.basic["cache"] = "miss"  # for the intent row of a call that is reserved with the look
        found = await call.service.cache.find(call, ticket, early.reserve if early.fits() else None)
        result = call.event.basic["cache"] = "miss" if found is None else "hit"
        if found is not None:
            prepared = await _found(call, request, found)
        elif early.reservation:
            prepared = _prepared(call, early.draft, early.reservation, ticket)
        else:
            prepared = await _prepare(call, request, ticket)
    except BaseException:
        call.service.cache.give_up(ticket)
        raise
    call.service.cache.watch(prepared, ticket)
    prepared.headers[cache.HEADER] = result
    call.service.metrics.cache(call.configuration, result)
    return prepared


async def _found(call: Call, request: ChatRequest, found: Found) -> Prepared:
    """An answer from the cache is a request to the limits, and to the ledger a call that used nothing."""
    need = Need(kind="chat", model=request.model, input_tokens=0, input_bound=0, counts=False)
    drafts.describe(call, request, found.hits)
    reservation = await call.reserve(need)
    try:
        # What is looked for may have changed since the answer was kept.
        answer = call.service.guard.answer(call, found.answer)
        hits = await call.service.guard.passages(call, found.hits)
    finally:
        await call.settle(reservation, Usage())
    return Prepared(request, reservation, dict(reservation.headers), hits=hits, answer=answer)


async def _prepare(
    call: Call, request: ChatRequest, ticket: Ticket | None, thread: threads.Thread | None = None
) -> Prepared:
    hits, searched = await _retrieve(call, request, ticket.state if ticket else None)
    draft = drafts.make(call, request, hits, searched)
    return _prepared(call, draft, await call.reserve(draft.need), ticket, thread)


def _prepared(
    call: Call,
    draft: Draft,
    reservation: Reservation,
    ticket: Ticket | None,
    thread: threads.Thread | None = None,
) -> Prepared:
    request, body, hits = draft.request, draft.body, draft.hits
    body[request.tokens_field] = reservation.granted
    headers = {**reservation.headers, "x-tenantry-max-tokens": str(reservation.granted)}
    if request.temperature is not None:
        headers["x-tenantry-temperature"] = f"{request.temperature:g}"
    if thread:
        headers |= thread.headers()
        thread.cite({hit.file_id: hit.filename for hit in hits})
        call.queries += 1  # the one that adds the answer, after the settlement which pays for it
    return Prepared(request, reservation, headers, body, hits, ticket, thread=thread)


class _Early:
    """Reserves a call that finds no documents together with the look into the cache."""

    def __init__(self, call: Call, request: ChatRequest) -> None:
        self._call, self._request = call, request
        self.reservation: Reservation | None = None

    def fits(self) -> bool:
        """Whether that is worth trying: it is not where documents are going to be searched."""
        wish = self._request.retrieval
        return wish is None or (wish.stores is None and not self._call.service.cache.documents)

    async def reserve(self, look: tuple[Any, ...], claim: tuple[Any, ...] = ()) -> Row:
        self.draft = drafts.make(self._call, self._request, [], 0)
        searches = self._request.retrieval is not None and bool(self._request.question().strip())
        row, self.reservation = await self._call.look_and_reserve((*look, searches), self.draft.need, claim)
        return row


async def _retrieve(call: Call, request: ChatRequest, state: State | None) -> tuple[list[Hit], int]:
    """The passages for the question, and the tokens that finding them takes (0: nothing was searched)."""
    wish, question = request.retrieval, request.question()
    if wish is None or not question.strip():
        return [], 0
    if wish.stores is not None:
        known = {row[0] for row in await call.fetch("SELECT id FROM vector_stores WHERE id = ANY(%s)", (wish.stores,))}
        if missing := [store for store in wish.stores if store not in known]:
            raise errors.not_found(f"vector store {missing[0]}")
    before = call.searched
    hits = await search(
        call,
        "retrieval",
        question,
        top_k=wish.top_k,
        min_score=wish.min_score,
        store_ids=wish.stores,
        state=state,
        filters=wish.filters,
    )
    return hits, max(1, tokens.estimate(question[:MAX_QUESTION])) if call.searched > before else 0


async def whole(call: Call, prepared: Prepared) -> dict[str, Any]:
    """The provider's answer, or the cache's, with what `told` says.  Raises ApiError where there is none."""
    answer = prepared.answer
    if answer is None:
        try:
            answer = await _provided(call, prepared)
        finally:
            _keep(call, prepared, answer)
    if prepared.thread:
        await prepared.thread.add(call, threads.Said.of(answer))
    return answer | {"tenantry": prepared.told()}


async def _provided(call: Call, prepared: Prepared) -> dict[str, Any]:
    # Where the provider's answer is lost, it may have been made: what was sent is owed.
    usage: Usage | Unsaid = Unsaid.of_chat(prepared.body)
    released = False
    try:
        answer = await call.service.provider.json("/chat/completions", prepared.body)
        usage = usage_of(answer) or Unsaid.of_chat(prepared.body, Produced.of_answer(answer))
        answer = call.service.guard.answer(call, answer)
    except NotSentError as error:
        usage, released = Usage(), True
        raise error.error from None
    finally:
        await call.settle(prepared.reservation, usage, released=released)
    await prepared.reservation.ensure()
    return answer


def _keep(call: Call, prepared: Prepared, answer: dict[str, Any] | None) -> None:
    if prepared.ticket:
        call.service.cache.keep(prepared.ticket, answer, prepared.hits)


async def stream(call: Call, prepared: Prepared) -> AsyncGenerator[Chunk, None]:
    """The answer's chunks, usage included; an object with `error` where it breaks off.

    The first chunk has what `told` says.  Ends once the ledger has the call; closed early, it stops the provider
    (unless others wait for the same answer) and settles what was produced.  Raises ApiError before the first chunk,
    where the provider refuses, or StoreUnavailableError, where the intent may be lost: so get that one before anything
    is sent.
    """
    told: dict[str, Any] | None = {"tenantry": prepared.told()}
    if prepared.answer is not None:
        prepared.ahead = ready = deque(assembly.chunks(prepared.answer))
        while ready:
            chunk = ready.popleft()
            yield chunk | told if told else chunk
            told = None
        return
    chunks = _chunks(call, prepared)
    thread, said = prepared.thread, threads.Said()
    try:
        async for chunk in chunks:
            if told:
                await prepared.reservation.ensure()
            if thread:
                said.feed(chunk)
            yield chunk | told if told else chunk
            told = None
    except NotSentError as error:
        raise error.error from None
    finally:
        await chunks.aclose()
        if thread:
            await thread.add(call, said)


def _chunks(call: Call, prepared: Prepared) -> AsyncGenerator[Chunk, None]:
    """The provider's chunks; put together for the cache where the answer may be kept."""
    chunks = ChatStream(call, prepared.reservation).chunks(prepared.body)
    if prepared.ticket is None:
        return chunks

    def ended(answer: dict[str, Any] | None) -> None:
        _keep(call, prepared, answer)

    flight, pieces = prepared.ticket.flight or Flight(), assembly.Assembly(cache.MAX_ANSWER)
    prepared.ahead = flight.ahead
    return carried(flight, chunks, pieces, ended, call.service.finish)
