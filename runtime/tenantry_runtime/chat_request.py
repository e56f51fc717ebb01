"""Reading a chat request: what is checked, what passes through to the provider, and what never does."""

import re
from dataclasses import dataclass
from typing import Any

from tenantry_runtime import errors, fields, filters, tokens
from tenantry_runtime.config import Configuration
from tenantry_runtime.conversation_items import Item
from tenantry_runtime.conversation_messages import from_messages
from tenantry_runtime.filters import Filter

PASSED = frozenset(
    {
        "frequency_penalty",
        "function_call",
        "functions",
        "logit_bias",
        "logprobs",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "response_format",
        "seed",
        "stop",
        "tool_choice",
        "tools",
        "top_logprobs",
        "top_p",
        "verbosity",
    }
)
"""Sent to the provider as they come."""

TENANTS_OWN = frozenset(
    {"prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user"}
)
"""Who asks is the key's business; what a provider keeps, and at which price it serves, the tenant's."""
DROPPED = TENANTS_OWN | {"metadata"}
"""Accepted and left out."""

_READ = frozenset(
    {
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "model",
        "n",
        "stream",
        "stream_options",
        "temperature",
        "tenantry",
    }
)
_ROLES = frozenset({"developer", "system", "user", "assistant", "tool", "function"})
_PARTS = frozenset({"text", "refusal"})
_TOOLS = ("custom", "function")
"""Kinds of tools that the client runs itself."""
MAX_MESSAGES = 2000
MAX_CHOICES = 8
_REASONING = re.compile(r"(?:ft:)?(?:o\d|gpt-5)")
"""Models of OpenAI's that refuse `max_tokens`, and every temperature but their own."""


@dataclass(frozen=True)
class RetrievalWish:
    """`stores` None: all of the tenant's."""

    top_k: int
    min_score: float
    stores: list[str] | None
    filters: Filter | None = None


@dataclass(frozen=True)
class ChatRequest:
    """`temperature` None: the model takes none.  `cache` False: never answered from the cache, and not kept there."""

    model: str
    messages: list[dict[str, Any]]
    passed: dict[str, Any]
    choices: int
    temperature: float | None
    max_tokens: int
    tokens_field: str
    stream: bool
    include_usage: bool
    retrieval: RetrievalWish | None
    cache: bool
    conversation: str | None = None
    """What the call goes on from; `items` is what it adds to it, `history` what was said in it before."""
    items: tuple[Item, ...] = ()
    history: tuple[dict[str, Any], ...] = ()

    def question(self) -> str:
        """The text of the last message of the user's."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return tokens.message_text(message)
        return ""

    def upstream(self, system: str, granted: int, user: str) -> dict[str, Any]:
        """The body for the provider: our system prompt first, then all that the client said.

        What was said before comes behind the system messages with which a request begins.
        """
        head = 0
        while head < len(self.messages) and self.messages[head]["role"] in ("system", "developer"):
            head += 1
        said = [*self.messages[:head], *self.history, *self.messages[head:]]
        body: dict[str, Any] = {
            **self.passed,
            "model": self.model,
            "messages": [{"role": "system", "content": system}, *said],
            self.tokens_field: granted,
            "user": user,
        }
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.choices != 1:
            body["n"] = self.choices
        if self.stream:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        return body


def read(body: dict[str, Any], configuration: Configuration) -> ChatRequest:
    """A request that may be made; raises 403 for models that are not allowed, and 422 with the field's name."""
    fields.only(body, PASSED | DROPPED | _READ)
    model = fields.text(body, "model", longest=200) or configuration.default_model
    if model not in configuration.allowed_models:
        raise errors.ApiError(
            403,
            f"The model {model} is not in this tenant's tier: use one of {', '.join(configuration.allowed_models)}.",
            code="model_not_allowed",
            kind="permission_error",
            param="model",
            extra={"allowed": configuration.allowed_models},
        )
    messages = _messages(body.get("messages"))
    ceiling = configuration.max_tokens_per_request
    wished = fields.integer(body, "max_completion_tokens", 1, 10_000_000)
    reasoning = _REASONING.match(model) is not None
    newer = wished is not None or reasoning
    if wished is None:
        wished = fields.integer(body, "max_tokens", 1, 10_000_000)
    # Asked for more than the tenant's, a request gets the tenant's: as with tokens, it may lower but not exceed.
    temperature = min(float(fields.number(body, "temperature", 0, 2, 2) or 0), configuration.temperature)
    options = fields.mapping(body, "stream_options") or {}
    stream = fields.flag(body, "stream")
    if options and not stream:
        raise errors.invalid("stream_options is for streams only: set stream, or leave it out.", "stream_options")
    _tools(body)
    own = fields.mapping(body, "tenantry") or {}
    fields.only(own, frozenset({"retrieval", "cache", "conversation"}), "tenantry")
    choices = fields.integer(body, "n", 1, MAX_CHOICES, 1) or 1
    conversation = _conversation(own, choices)
    return ChatRequest(
        model=model,
        messages=messages,
        passed={name: body[name] for name in PASSED if body.get(name) is not None},
        choices=choices,
        temperature=None if reasoning else temperature,
        max_tokens=min(wished or ceiling, ceiling),
        tokens_field="max_completion_tokens" if newer else "max_tokens",
        stream=stream,
        include_usage=fields.flag(options, "include_usage"),
        retrieval=_retrieval(own, configuration),
        cache=conversation is None and fields.flag(own, "cache", True),
        conversation=conversation,
        items=tuple(from_messages(messages)) if conversation else (),
    )


def _messages(messages: Any) -> list[dict[str, Any]]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise errors.invalid(f"messages must be a list of 1 to {MAX_MESSAGES} messages.", "messages")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise errors.invalid(f"{where} must be an object.", where)
        if not isinstance(message.get("role"), str) or message["role"] not in _ROLES:
            raise errors.invalid(f"{where}.role must be one of {', '.join(sorted(_ROLES))}.", f"{where}.role")
        content = message.get("content")
        if content is None and message["role"] == "assistant":
            continue
        if isinstance(content, str):
            continue
        # Other parts (images, sound) have prices of their own, which the ledger does not know yet.
        if not isinstance(content, list) or not all(
            isinstance(part, dict) and part.get("type") in _PARTS and isinstance(part.get(part["type"]), str)
            for part in content
        ):
            raise errors.invalid(f"{where}.content must be a text, or a list of text parts.", f"{where}.content")
        if any(message_part for message_part in message if message_part == "audio"):
            raise errors.invalid(f"{where}.audio is not supported here: leave it out.", f"{where}.audio")
    return messages


def _tools(body: dict[str, Any]) -> None:
    for name in ("tools", "functions"):
        value = body.get(name)
        if value is not None and (
            not isinstance(value, list) or len(value) > 128 or not all(isinstance(item, dict) for item in value)
        ):
            raise errors.invalid(f"{name} must be a list of at most 128 objects.", name)
    for index, tool in enumerate(body.get("tools") or []):
        # What a provider runs by itself (a search of the web, code) has prices that the ledger does not know.
        if tool.get("type") not in _TOOLS:
            where = f"tools.{index}.type"
            raise errors.invalid(f"{where} must be one of {', '.join(_TOOLS)}.", where)


def _conversation(own: dict[str, Any], choices: int) -> str | None:
    given = own.get("conversation")
    if given is None:
        return None
    if not isinstance(given, str) or not fields.is_id(given):
        raise errors.invalid("tenantry.conversation must be a conversation's id.", "tenantry.conversation")
    if choices != 1:
        raise errors.invalid("n must be 1 in a conversation, which goes on from one answer.", "n")
    return given


def _retrieval(own: dict[str, Any], configuration: Configuration) -> RetrievalWish | None:
    """The tenant's setting, unless the request says otherwise; `retrieval: false` asks for none."""
    setting = configuration.retrieval
    if own.get("retrieval") is False:
        return None
    wish = {} if own.get("retrieval") is True else fields.mapping(own, "retrieval") or {}
    fields.only(wish, frozenset({"topK", "minScore", "vectorStoreIds", "filters"}), "tenantry.retrieval")
    score = fields.number(wish, "minScore", -1, 1)
    return RetrievalWish(
        top_k=fields.integer(wish, "topK", 1, 50) or setting.top_k,
        min_score=setting.min_score if score is None else score,
        stores=fields.ids(wish, "vectorStoreIds", 100) or None,
        filters=filters.read(wish.get("filters"), "tenantry.retrieval.filters"),
    )
