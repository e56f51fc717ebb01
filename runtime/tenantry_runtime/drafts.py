"""A chat call before it is reserved: what the provider is sent, and the most that it can use."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tenantry_runtime import limits, prompt, tokens
from tenantry_runtime.audit import prompt_digest
from tenantry_runtime.call import Call
from tenantry_runtime.chat_request import ChatRequest
from tenantry_runtime.config import Configuration
from tenantry_runtime.prompt import Passage
from tenantry_runtime.reservation import Need
from tenantry_runtime.retrieval import Hit

MAX_CONTEXT = 4000
"""Tokens of documents that go with a question at most."""


@dataclass(frozen=True)
class Draft:
    """A call before it is reserved: the provider's body, the passages that it holds, and the most that it can use."""

    request: ChatRequest
    body: dict[str, Any]
    hits: list[Hit]
    need: Need


def make(call: Call, request: ChatRequest, hits: list[Hit], searched: int) -> Draft:
    """`searched`: the tokens that finding the passages took."""
    passages = _passages(call.configuration, hits)
    system = prompt.system_prompt(call.configuration, passages)
    body = request.upstream(system, request.max_tokens, end_user(call))
    estimate, bound = tokens.prompt_size(body)
    describe(call, request, hits)
    need = Need(
        kind="chat",
        model=request.model,
        input_tokens=estimate,
        input_bound=bound,
        output_tokens=request.max_tokens,
        choices=request.choices,
        requests=0 if searched else 1,  # the search for its documents has been counted as the request
        again=searched,
        streamed=request.stream,
    )
    return Draft(request, body, hits[: len(passages)], need)


def describe(call: Call, request: ChatRequest, hits: Sequence[Hit]) -> None:
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


def _passages(configuration: Configuration, hits: Sequence[Hit]) -> list[Passage]:
    """As many of the best as leave room: a small tier's minute must also hold the question and its answer."""
    most = limits.most_tokens(configuration.limits)
    room = min(MAX_CONTEXT, most * 3 // 10) if most else MAX_CONTEXT
    result: list[Passage] = []
    for hit in hits:
        room -= tokens.estimate(hit.text) + 24  # its frame
        if room < 0 and result:
            break
        result.append(Passage(hit.file_id, hit.filename, hit.text))
    return result
