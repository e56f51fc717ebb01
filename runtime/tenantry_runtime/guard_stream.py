"""The leak guard on a streamed answer: each text of each choice passes a window of its own."""

from typing import TYPE_CHECKING, Any

from tenantry_runtime import guard
from tenantry_runtime.leaks import Window

if TYPE_CHECKING:
    from tenantry_runtime.call import Call

Path = tuple[str | int, ...]
"""Where a text of a choice's delta is: fields' names, and the `index` of a list's items."""


class GuardedStream:
    """`feed` returns what may go on of each chunk, `finish` what was held back; `blocked` ends the stream."""

    def __init__(self, call: "Call") -> None:
        self._call = call
        self._detector = call.service.guard.detector
        self._policies = guard.policies(call.configuration)
        self._windows: dict[tuple[int, Path], Window] = {}
        self._logprobs: dict[int, dict[str, Any]] = {}
        self._ended: set[int] = set()
        self._kept: dict[tuple[int, Path], str] | None = {} if guard.keeps_bodies(call) else None
        self._frame: dict[str, Any] = {}
        self.blocked = ""

    def feed(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """The chunk as it may go on; None where all that it held waits."""
        given = chunk.get("choices")
        if not isinstance(given, list) or self.blocked:
            return None if self.blocked else chunk
        if not self._frame:
            self._frame = {name: chunk[name] for name in ("id", "object", "created", "model") if name in chunk}
        choices = [passed for choice in given if (passed := self._choice(choice)) is not None]
        if not choices and given and not chunk.get("usage"):
            return None
        return {**chunk, "choices": choices}

    def finish(self) -> dict[str, Any] | None:
        """What is left where the provider ended without a reason."""
        choices = []
        for index in sorted({index for index, _ in self._windows} - self._ended):
            delta: dict[str, Any] = {}
            self._rest(index, delta)
            if delta:
                choices.append({"index": index, "delta": delta, "finish_reason": None})
        return {**self._frame, "choices": choices} if choices else None

    def tell(self) -> None:
        """Count and audit what was found; once, when the stream is over."""
        for window in self._windows.values():
            guard.tell(self._call, "answer", window.found)
        self._windows.clear()
        if self._kept:
            texts = [{"choice": at, ".".join(map(str, path)): text} for (at, path), text in self._kept.items()]
            self._call.event.full["answer"] = self._call.service.guard.redact(texts)

    def _choice(self, choice: Any) -> dict[str, Any] | None:
        if not isinstance(choice, dict):
            return None
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        given = choice.get("delta")
        delta = self._within(index, (), given if isinstance(given, dict) else {})
        passed = {**choice, "delta": delta}
        if logprobs := passed.pop("logprobs", None):
            self._keep(index, logprobs)
        if choice.get("finish_reason"):
            self._ended.add(index)
            self._rest(index, delta)
            kept = self._logprobs.pop(index, None)
            changed = any(at == index and window.found for (at, _), window in self._windows.items())
            passed["logprobs"] = None if changed else kept
            return passed
        return passed if delta or not given else None

    def _within(self, index: int, path: Path, value: Any) -> Any:
        """A delta with what may go on of its texts; fields of which nothing may yet are left out."""
        if isinstance(value, str):
            return self._feed(index, path, value)
        if isinstance(value, list):
            items = []
            for at, item in enumerate(value):
                number = item.get("index", at) if isinstance(item, dict) else at
                after = self._within(index, (*path, number), item)
                if after != {"index": number} or after == item:
                    items.append(after)
            return items
        if isinstance(value, dict):
            passed = {}
            for name, item in value.items():
                if name in guard.NOT_TEXT:
                    passed[name] = item
                    continue
                after = self._within(index, (*path, name), item)
                if after or not item:
                    passed[name] = after
            return passed
        return value

    def _feed(self, index: int, path: Path, text: str) -> str:
        window = self._windows.get((index, path))
        if window is None:
            window = self._windows[index, path] = Window(self._detector, self._policies)
        after = window.feed(text)
        if path[-1] == "name":  # which comes in one piece
            after += window.finish()
        self.blocked = self.blocked or window.blocked
        self._keep_text(index, path, after)
        return after

    def _keep_text(self, index: int, path: Path, text: str) -> None:
        if self._kept is not None and text:
            self._kept[index, path] = self._kept.get((index, path), "") + text

    def _rest(self, index: int, delta: dict[str, Any]) -> None:
        """Add to a choice's delta what its windows still hold."""
        for (at, path), window in self._windows.items():
            if at == index and not self.blocked:
                if text := window.finish():
                    _add(delta, path, text)
                    self._keep_text(index, path, text)
                self.blocked = window.blocked

    def _keep(self, index: int, logprobs: Any) -> None:
        """They hold the text a second time: they come with the end, if nothing was taken out."""
        if isinstance(logprobs, dict):
            kept = self._logprobs.setdefault(index, {})
            for name, entries in logprobs.items():
                kept[name] = [*(kept.get(name) or []), *entries] if isinstance(entries, list) else kept.get(name)


def _add(delta: dict[str, Any], path: Path, text: str) -> None:
    place: Any = delta
    for name, following in zip(path, (*path[1:], None), strict=True):
        if following is None:
            place[name] = (place.get(name) or "") + text
        elif isinstance(name, int):
            found = next((item for item in place if item.get("index") == name), None)
            if found is None:
                found = {"index": name}
                place.append(found)
            place = found
        else:
            place = place.setdefault(name, [] if isinstance(following, int) else {})
