"""Templates are tried before they are handed on: a bad one leaves the old prompt serving."""

import hashlib

from tenantry.api import Reason
from tenantry.resolve import Problem, Resolved
from tenantry_runtime.prompt import PromptError, try_out

REMEMBERED = 1000


class Prompts:
    """Remembers what is wrong with each prompt: trying one costs a process's time, and most tenants share one."""

    def __init__(self) -> None:
        self._tried: dict[bytes, str] = {}
        """Digest of template, name, tier and instructions -> what is wrong; empty if nothing is."""

    def problem(self, resolved: Resolved) -> tuple[Problem, ...] | None:
        """What a person must mend in the template, or None."""
        prompt = (resolved.template, resolved.display_name, resolved.tier, resolved.custom_instructions)
        digest = hashlib.sha256(repr(prompt).encode()).digest()
        if digest not in self._tried:
            if len(self._tried) > REMEMBERED:
                self._tried.clear()
            try:
                try_out(*prompt)
                self._tried[digest] = ""
            except PromptError as error:
                self._tried[digest] = str(error)
        if message := self._tried[digest]:
            return (Problem(Reason.INVALID_TEMPLATE, f"The system prompt template can't be used: {message}"),)
        return None
