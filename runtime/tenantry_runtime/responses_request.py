"""Reading a request for a response, OpenAI's newer API: it becomes a chat request, and takes the same way.

What a chat request checks is checked there (models, temperature, tokens, tools' number); here is what only
Responses has, and the translation.
"""

from dataclasses import dataclass, replace
from typing import Any

from tenantry_runtime import chat_request, errors, fields, filters
from tenantry_runtime.chat_request import ChatRequest
from tenantry_runtime.config import Configuration
from tenantry_runtime.conversation_items import Item, read_all
from tenantry_runtime.conversation_messages import to_messages

DROPPED = chat_request.TENANTS_OWN | {
    "max_tool_calls",  # of OpenAI's own tools, which are not run here
    "prompt_cache_options",
}
"""Accepted and left out, as chat does."""

_READ = frozenset(
    {
        "background",
        "conversation",
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "reasoning",
        "stream",
        "stream_options",
        "temperature",
        "tenantry",
        "text",
        "tool_choice",
        "tools",
        "top_p",
        "truncation",
    }
)
RESULTS = "file_search_call.results"
_VACUOUS = frozenset(
    {
        "code_interpreter_call.outputs",
        "computer_call_output.output.image_url",
        "message.input_image.image_url",
        "reasoning.encrypted_content",
        "web_search_call.action.sources",
    }
)
"""What may be asked to be included, and is never there: no answer here has such items."""
MAX_RESULTS = 50


@dataclass(frozen=True)
class ResponseRequest:
    """`chat` goes to the model; `echo` is what the response says of its request; `searches`: a file search is due."""

    chat: ChatRequest
    echo: dict[str, Any]
    searches: bool
    results: bool

    @property
    def query(self) -> str:
        """What is searched for; empty where nothing is."""
        question = self.chat.question() if self.searches else ""
        return question if question.strip() else ""


def read(body: dict[str, Any], configuration: Configuration) -> ResponseRequest:
    """A request that may be made; raises 403 for models that are not allowed, and 422 with the field's name."""
    fields.only(body, _READ | DROPPED)
    _kept_nowhere(body)
    items = _input(body.get("input"))
    messages = to_messages(items, orphans=True)
    if not messages:
        raise errors.invalid("input must hold a message, or the output of a function.", "input")
    instructions = fields.text(body, "instructions", longest=1_000_000)
    before = [{"role": "system", "content": instructions}] if instructions else []
    functions, search = _tools(body)
    wanted = search.pop("filters") if search else None
    text, chat_format = _format(body)
    choice, chat_choice = _choice(body, functions, search)
    own = dict(fields.mapping(body, "tenantry") or {})
    for name, instead in (("retrieval", "the tool file_search"), ("conversation", "conversation")):
        if name in own:
            raise errors.invalid(f"tenantry.{name} is for chat: use {instead}.", f"tenantry.{name}")
    conversation = _conversation(body)
    chat: dict[str, Any] = {
        "model": body.get("model"),
        "messages": [*before, *messages],
        "max_tokens": fields.integer(body, "max_output_tokens", 1, 10_000_000),
        "temperature": body.get("temperature"),
        "top_p": fields.number(body, "top_p", 0, 1),
        "stream": body.get("stream"),
        "tenantry": own | {"retrieval": search if chat_choice != "none" and search is not None else False},
        **chat_format,
        **_reasoning(body),
    }
    parallel = fields.flag(body, "parallel_tool_calls", True)
    if functions:
        chat |= {"tools": functions, "tool_choice": chat_choice, "parallel_tool_calls": parallel}
    request = chat_request.read({name: value for name, value in chat.items() if value is not None}, configuration)
    if request.retrieval:
        request = replace(request, retrieval=replace(request.retrieval, filters=wanted))
    request = replace(request, include_usage=True, conversation=conversation, items=tuple(items))
    echo = {
        "instructions": instructions,
        "max_output_tokens": chat["max_tokens"],
        "metadata": fields.labels(body, "metadata"),
        "model": request.model,
        "parallel_tool_calls": parallel,
        "temperature": request.temperature,
        "text": text,
        "tool_choice": choice,
        "tools": body.get("tools") or [],
        "top_p": 1.0 if chat["top_p"] is None else chat["top_p"],
        "truncation": body.get("truncation") or "disabled",
        "reasoning": {"effort": chat.get("reasoning_effort"), "summary": None},
        "conversation": {"id": conversation} if conversation else None,
    }
    searches = request.retrieval is not None
    return ResponseRequest(request, echo, searches, RESULTS in _include(body))


def _kept_nowhere(body: dict[str, Any]) -> None:
    """What would need responses to be kept, or to go on by themselves."""
    if body.get("previous_response_id") is not None:
        raise errors.invalid(
            "previous_response_id is not supported here, for responses are not kept: use a conversation.",
            "previous_response_id",
            "unsupported_field",
        )
    if fields.flag(body, "background"):
        raise errors.invalid("background is not supported here: leave it out.", "background", "unsupported_field")
    if fields.text(body, "truncation") not in (None, "auto", "disabled"):
        raise errors.invalid("truncation must be auto or disabled.", "truncation")
    options = fields.mapping(body, "stream_options") or {}
    fields.only(options, frozenset({"include_obfuscation"}), "stream_options")


def _input(given: Any) -> list[Item]:
    if isinstance(given, str) and given:
        given = [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise errors.invalid("input must be a text, or a list of items.", "input")
    return read_all(given, "input", chat_request.MAX_MESSAGES)


def _conversation(body: dict[str, Any]) -> str | None:
    given = body.get("conversation")
    if isinstance(given, dict):
        fields.only(given, frozenset({"id"}), "conversation")
        given = given.get("id", "")
    if given is not None and not (isinstance(given, str) and fields.is_id(given)):
        raise errors.invalid("conversation must be a conversation's id, or an object with its id.", "conversation")
    return given


def _include(body: dict[str, Any]) -> list[str]:
    given = [] if body.get("include") is None else body["include"]
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise errors.invalid("include must be a list of texts.", "include")
    for name in given:
        if name != RESULTS and name not in _VACUOUS:
            raise errors.invalid(f"{name[:100]} can't be included here: leave it out.", "include", "unsupported_field")
    return given


def _reasoning(body: dict[str, Any]) -> dict[str, Any]:
    given = fields.mapping(body, "reasoning") or {}
    fields.only({k: v for k, v in given.items() if v is not None}, frozenset({"effort"}), "reasoning")
    return {"reasoning_effort": fields.text(given, "effort", longest=20)}


def _format(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the response says of its text, and what chat is told."""
    text = fields.mapping(body, "text") or {}
    fields.only(text, frozenset({"format", "verbosity"}), "text")
    given = fields.mapping(text, "format") or {"type": "text"}
    kind = given.get("type")
    chat: dict[str, Any] = {"verbosity": fields.text(text, "verbosity", longest=20)}
    if kind == "json_object":
        fields.only(given, frozenset({"type"}), "text.format")
        chat["response_format"] = {"type": "json_object"}
    elif kind == "json_schema":
        fields.only(given, frozenset({"type", "name", "schema", "strict", "description"}), "text.format")
        if not fields.text(given, "name", longest=64) or not fields.mapping(given, "schema"):
            raise errors.invalid("text.format needs a name and a schema.", "text.format")
        chat["response_format"] = {
            "type": "json_schema",
            "json_schema": {k: v for k, v in given.items() if k != "type" and v is not None},
        }
    elif kind != "text":
        raise errors.invalid("text.format.type must be text, json_object or json_schema.", "text.format.type")
    return {"format": given, **({"verbosity": chat["verbosity"]} if chat["verbosity"] else {})}, chat


def _tools(body: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Functions as chat has them, and the wish of a file search."""
    given = [] if body.get("tools") is None else body["tools"]
    if not isinstance(given, list) or len(given) > 128:
        raise errors.invalid("tools must be a list of at most 128 tools.", "tools")
    functions: list[dict[str, Any]] = []
    search: dict[str, Any] | None = None
    for index, tool in enumerate(given):
        where = f"tools.{index}"
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind == "function":
            functions.append(_function(tool, where))
        elif kind == "file_search" and search is None:
            search = _file_search(tool, where)
        else:
            raise errors.invalid(
                f"{where}.type must be function or file_search, of which there may be one.", f"{where}.type"
            )
    return functions, search


def _function(tool: dict[str, Any], where: str) -> dict[str, Any]:
    fields.only(tool, frozenset({"type", "name", "description", "parameters", "strict"}), where)
    if not isinstance(tool.get("name"), str) or not tool["name"]:
        raise errors.invalid(f"{where}.name must be the function's name.", f"{where}.name")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type" and v is not None}}


def _file_search(tool: dict[str, Any], where: str) -> dict[str, Any]:
    known = frozenset({"type", "vector_store_ids", "max_num_results", "ranking_options", "filters"})
    fields.only({k: v for k, v in tool.items() if v is not None}, known, where)
    stores = fields.ids({f"{where}.vector_store_ids": tool.get("vector_store_ids")}, f"{where}.vector_store_ids", 100)
    if not stores:
        raise errors.invalid(f"{where}.vector_store_ids must name a vector store.", f"{where}.vector_store_ids")
    ranking = fields.mapping(tool, "ranking_options") or {}
    fields.only(ranking, frozenset({"ranker", "score_threshold"}), f"{where}.ranking_options")
    wish: dict[str, Any] = {"vectorStoreIds": stores, "filters": filters.read(tool.get("filters"), f"{where}.filters")}
    if (most := fields.integer(tool, "max_num_results", 1, MAX_RESULTS)) is not None:
        wish["topK"] = most
    if (least := fields.number(ranking, "score_threshold", -1, 1)) is not None:
        wish["minScore"] = least
    return wish


def _choice(body: dict[str, Any], functions: list[dict[str, Any]], search: dict[str, Any] | None) -> tuple[Any, Any]:
    """What the response says of the choice of tools, and what chat is told."""
    given = body.get("tool_choice")
    if given is None:
        return "auto", None
    if isinstance(given, str) and given in ("auto", "none", "required"):
        # A file search is made before the model is asked: that alone fulfils `required`.
        return given, "auto" if given == "required" and search is not None else given
    if isinstance(given, dict):
        name = given.get("name")
        if given.get("type") == "file_search" and search is not None:
            return given, None
        if given.get("type") == "function" and name in [tool["function"]["name"] for tool in functions]:
            return given, {"type": "function", "function": {"name": name}}
    raise errors.invalid("tool_choice must be auto, none, required, or one of the tools.", "tool_choice")
