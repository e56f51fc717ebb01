"""A response, OpenAI's newer API, made of a chat answer: the object, and the typed events of a stream."""

import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from tenantry_runtime import conversation_items
from tenantry_runtime.conversation_items import Item
from tenantry_runtime.conversation_messages import answer_items, call_identity, cited
from tenantry_runtime.documents import new_id
from tenantry_runtime.responses_request import ResponseRequest
from tenantry_runtime.retrieval import Hit
from tenantry_runtime.threads import Said

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""OpenAI's words for why an answer is incomplete, by chat's."""


class Answer:
    """One response in the making.  Its items have the ids from which a conversation's are made too."""

    def __init__(self, request: ResponseRequest, hits: Sequence[Hit], message_id: str = "") -> None:
        self._request, self._hits = request, hits
        self._files = {hit.file_id: hit.filename for hit in hits} if request.query else {}
        self.id = new_id("resp_")
        self.message_id = message_id or new_id("msg_")
        self.created_at = int(time.time())

    def shape(self, message: Item, status: str, identity: str) -> list[Item]:
        """The output items of a chat answer's message, as a conversation keeps them."""
        return [*self._search(False), *cited(answer_items(message, status, identity), self._files)]

    def output(self, said: Said) -> list[Item]:
        items = answer_items(said.message, said.status, self.message_id)
        return [*self._search(self._request.results), *cited(items, self._files)]

    def _search(self, results: bool) -> list[Item]:
        if not self._request.query:
            return []
        found = [
            {
                "file_id": hit.file_id,
                "filename": hit.filename,
                "score": round(hit.score, 4),
                "text": hit.text,
                "attributes": hit.attributes,
            }
            for hit in self._hits
        ]
        identity = "fs_" + self.message_id.removeprefix("msg_")
        return [conversation_items.file_search([self._request.query], found if results else None, identity)]

    def object(
        self,
        status: str,
        output: Sequence[Item] = (),
        usage: dict[str, Any] | None = None,
        reason: str | None = None,
        error: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The response as it is now."""
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created_at,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": reason} if status == "incomplete" else None,
            "output": list(output),
            "previous_response_id": None,
            "store": False,
            "usage": usage,
            **self._request.echo,
        }

    def finished(self, said: Said, output: Sequence[Item], usage: Any) -> dict[str, Any]:
        """The response whose answer has come, as far as it did."""
        reason = _INCOMPLETE.get(said.finish_reason)
        return self.object(said.status, output, usage_object(usage), reason)


def usage_object(usage: Any) -> dict[str, Any] | None:
    """Responses' words for chat's usage; None where the provider told none."""
    if not isinstance(usage, dict) or not isinstance(given := usage.get("prompt_tokens"), int):
        return None
    made = usage.get("completion_tokens")
    made = made if isinstance(made, int) else 0
    return {
        "input_tokens": given,
        "input_tokens_details": {
            "cached_tokens": _detail(usage, "prompt_tokens_details", "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": made,
        "output_tokens_details": {
            "reasoning_tokens": _detail(usage, "completion_tokens_details", "reasoning_tokens"),
        },
        "total_tokens": given + made,
    }


def _detail(usage: dict[str, Any], group: str, name: str) -> int:
    details = usage.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return value if isinstance(value, int) else 0


class ResponseEvents:
    """Chat's chunks as the typed events of a response, numbered, in the order in which the SDK expects them."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._said = Said()
        self._usage: Any = None
        self._told: dict[str, Any] = {}
        self._number = 0
        self._opened: list[Item] = []
        """The output's items in the order in which they began, as they were then."""
        self._parts: list[str] = []
        """The message's parts, by kind, likewise."""

    async def events(self, chunks: AsyncGenerator[dict[str, Any], None]) -> AsyncGenerator[bytes, None]:
        """Nothing is yielded before the first chunk has come: a refusal is an answer of its own."""
        async with aclosing(chunks):
            began = False
            async for chunk in chunks:
                if not began:
                    began = True
                    for event in self._begin():
                        yield event
                self._said.feed(chunk)
                if error := chunk.get("error"):
                    for event in self._fail(error):
                        yield event
                    continue
                if "tenantry" in chunk:
                    self._told = {"tenantry": chunk["tenantry"]}
                if chunk.get("usage"):
                    self._usage = chunk["usage"]
                for event in self._more(chunk):
                    yield event
        if not self._said.broken:
            for event in (*(() if began else self._begin()), *self._end()):
                yield event

    def _event(self, kind: str, **values: Any) -> bytes:
        event = orjson.dumps({"type": kind, "sequence_number": self._number, **values})
        self._number += 1
        return b"event: " + kind.encode() + b"\ndata: " + event + b"\n\n"

    def _begin(self) -> Iterator[bytes]:
        response = self._answer.object("in_progress")
        yield self._event("response.created", response=response)
        yield self._event("response.in_progress", response=response)
        for item in self._answer.output(Said()):  # the file search, which is done
            yield self._open({**item, "status": "in_progress", "results": None})
            for state in ("in_progress", "searching", "completed"):
                yield self._event(f"response.file_search_call.{state}", item_id=item["id"], output_index=0)
            yield self._event("response.output_item.done", output_index=0, item=item)

    def _open(self, item: Item) -> bytes:
        self._opened.append(item)
        return self._event("response.output_item.added", output_index=len(self._opened) - 1, item=item)

    def _index(self, identity: str) -> int | None:
        return next((n for n, item in enumerate(self._opened) if item["id"] == identity), None)

    def _more(self, chunk: dict[str, Any]) -> Iterator[bytes]:
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") if isinstance(choice, dict) else None
            if not isinstance(delta, dict):
                continue
            for name, kind in (("content", "output_text"), ("refusal", "refusal")):
                if isinstance(text := delta.get(name), str) and text:
                    yield from self._text(kind, text)
            for piece in delta.get("tool_calls") or ():
                if isinstance(piece, dict):
                    yield from self._call(piece)

    def _text(self, kind: str, text: str) -> Iterator[bytes]:
        identity = self._answer.message_id
        if self._index(identity) is None:
            yield self._open(conversation_items.message("assistant", [], "in_progress", identity))
        if kind not in self._parts:
            self._parts.append(kind)
            yield self._event("response.content_part.added", **self._place(kind), part=_part(kind, ""))
        logprobs: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
        yield self._event(f"response.{kind}.delta", **self._place(kind), delta=text, **logprobs)

    def _place(self, kind: str) -> dict[str, Any]:
        identity = self._answer.message_id
        return {
            "item_id": identity,
            "output_index": self._index(identity),
            "content_index": self._parts.index(kind),
        }

    def _call(self, piece: dict[str, Any]) -> Iterator[bytes]:
        number = piece.get("index", 0)
        held = self._said.calls.get(number) if isinstance(number, int) else None
        if held is None:
            return
        identity = call_identity(self._answer.message_id, number)
        if self._index(identity) is None:
            name = held["function"]["name"]
            yield self._open(conversation_items.function_call(held["id"], name, "", "in_progress", identity))
        function = piece.get("function")
        arguments = function.get("arguments") if isinstance(function, dict) else None
        if isinstance(arguments, str) and arguments:
            yield self._event(
                "response.function_call_arguments.delta",
                item_id=identity,
                output_index=self._index(identity),
                delta=arguments,
            )

    def _end(self) -> Iterator[bytes]:
        output = {item["id"]: item for item in self._answer.output(self._said)}
        finished = [output[item["id"]] for item in self._opened if item["id"] in output]
        for index, item in enumerate(finished):
            if item["type"] == "message":
                yield from self._end_message(item)
            elif item["type"] == "function_call":
                yield self._event(
                    "response.function_call_arguments.done",
                    item_id=item["id"],
                    output_index=index,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            if item["type"] != "file_search_call":
                yield self._event("response.output_item.done", output_index=index, item=item)
        response = self._answer.finished(self._said, finished, self._usage) | self._told
        yield self._event(f"response.{response['status']}", response=response)

    def _end_message(self, item: Item) -> Iterator[bytes]:
        parts = {part["type"]: part for part in item["content"]}
        for kind in self._parts:
            part = parts[kind]
            if kind == "output_text":
                for number, annotation in enumerate(part["annotations"]):
                    yield self._event(
                        "response.output_text.annotation.added",
                        **self._place(kind),
                        annotation_index=number,
                        annotation=annotation,
                    )
                yield self._event("response.output_text.done", **self._place(kind), text=part["text"], logprobs=[])
            else:
                yield self._event("response.refusal.done", **self._place(kind), refusal=part["refusal"])
            yield self._event("response.content_part.done", **self._place(kind), part=part)

    def _fail(self, error: dict[str, Any]) -> Iterator[bytes]:
        """The response that failed, and then the object for which the SDK raises."""
        told = {"code": "server_error", "message": str(error.get("message", ""))}
        response = self._answer.object("failed", self._answer.output(self._said), usage_object(self._usage), error=told)
        yield self._event("response.failed", response=response)
        yield b"event: error\ndata: " + orjson.dumps({"error": error}) + b"\n\n"


def _part(kind: str, text: str) -> Item:
    return conversation_items.output_text(text) if kind == "output_text" else {"type": "refusal", "refusal": text}
