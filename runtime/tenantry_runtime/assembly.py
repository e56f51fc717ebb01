"""A chat answer whole and in pieces: a stream's chunks put together, and an answer taken apart into chunks."""

from collections.abc import Iterator
from typing import Any

_TEXTS = ("content", "refusal", "reasoning_content")
_SHARED = ("id", "created", "model", "system_fingerprint", "service_tier")
_LENGTHS = ("content", "refusal")


class Assembly:
    """Takes a stream's chunks; `answer` is what the provider would have said without streaming.

    Holds about `most` bytes at most: of a longer answer there is none.
    """

    def __init__(self, most: int) -> None:
        self._room = most
        self._broken = False
        self._shared: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._usage: Any = None

    def take(self, chunk: dict[str, Any]) -> None:
        """Add a chunk.  One with `error`, or that is not understood, spoils the answer; nothing is raised."""
        if self._broken:
            return
        try:
            self._take(chunk)
        except (KeyError, TypeError, AttributeError, ValueError):
            self._broken = True
        if self._room < 0 or chunk.get("error"):
            self._broken = True
        if self._broken:
            self._choices.clear()  # it may be much, and is of no use

    def _take(self, chunk: dict[str, Any]) -> None:
        for name in _SHARED:
            if chunk.get(name) is not None:
                self._shared.setdefault(name, chunk[name])
        if chunk.get("usage"):
            self._usage = chunk["usage"]
        for piece in chunk.get("choices") or ():
            choice = self._choices.setdefault(int(piece["index"]), {"texts": {}, "calls": {}, "logprobs": {}})
            self._room -= 64
            if piece.get("finish_reason"):
                choice["finish_reason"] = str(piece["finish_reason"])
            delta = piece.get("delta") or {}
            for name in _TEXTS:
                if delta.get(name) is not None:
                    self._add(choice["texts"], name, delta[name])
            for call in delta.get("tool_calls") or ():
                self._call(choice["calls"].setdefault(int(call["index"]), {}), call)
            for name in _LENGTHS:
                if piece.get("logprobs") and piece["logprobs"].get(name) is not None:
                    choice["logprobs"].setdefault(name, []).extend(piece["logprobs"][name])
                    self._room -= 256 * len(piece["logprobs"][name])

    def _call(self, held: dict[str, Any], call: dict[str, Any]) -> None:
        for name in ("id", "type"):
            if call.get(name):
                held[name] = call[name]
        function = held.setdefault("function", {"name": [], "arguments": []})
        for name, text in (call.get("function") or {}).items():
            if text is not None:
                self._add(function, name, text)

    def _add(self, held: dict[str, list[str]], name: str, text: str) -> None:
        self._room -= 32 + len(text)
        held.setdefault(name, []).append(text)

    def answer(self) -> dict[str, Any] | None:
        """The whole answer; None where it broke off, did not end, or was too long."""
        if self._broken or not self._choices or not all("finish_reason" in c for c in self._choices.values()):
            return None
        choices = []
        for index, held in sorted(self._choices.items()):
            texts = {name: "".join(pieces) for name, pieces in held["texts"].items()}
            message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None, **texts}
            if held["calls"]:
                message["tool_calls"] = [_joined(call) for _, call in sorted(held["calls"].items())]
            logprobs = held["logprobs"] or None
            choices.append(
                {"index": index, "message": message, "logprobs": logprobs, "finish_reason": held["finish_reason"]}
            )
        answer = {"object": "chat.completion", **self._shared, "choices": choices}
        return answer if self._usage is None else {**answer, "usage": self._usage}


def _joined(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "function": {name: "".join(pieces) for name, pieces in call["function"].items()}}


def chunks(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The stream that an answer (one that calls no tools) could have been: its usage comes last, without choices."""
    head = {name: answer[name] for name in _SHARED if name in answer} | {"object": "chat.completion.chunk"}

    def chunk(choice: dict[str, Any], **values: Any) -> dict[str, Any]:
        piece = {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": None}
        return {**head, "choices": [piece | values]}

    for choice in answer["choices"]:
        yield chunk(choice, delta={"role": "assistant", "content": ""})
        delta = {name: choice["message"][name] for name in _TEXTS if choice["message"].get(name)}
        if delta:
            yield chunk(choice, delta=delta, logprobs=choice.get("logprobs"))
        yield chunk(choice, finish_reason=choice["finish_reason"])
    if answer.get("usage"):
        yield {**head, "choices": [], "usage": answer["usage"]}
