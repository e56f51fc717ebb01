"""Templates are tried before they are handed on: a bad one leaves the old prompt serving."""

from tenantry.api import Reason
from tenantry.resolve import Problem, Resolved
from tenantry_runtime.prompt import PromptError, try_out

REMEMBERED = 1000


class Prompts:
    """Remembers what is wrong with each prompt: trying one costs a process's time, and most tenants share one."""

    def __init__(self) -> None:
        self._tried: dict[tuple[str, str, str, str], str] = {}
        """Template, name, tier and instructions -> what is wrong; empty if nothing is."""

    def problem(self, resolved: Resolved) -> tuple[Problem, ...] | None:
        """What a person must mend in the template, or None."""
        prompt = (resolved.template, resolved.display_name, resolved.tier, resolved.custom_instructions)
        if prompt not in self._tried:
            if len(self._tried) > REMEMBERED:
                self._tried.clear()
            try:
                try_out(*prompt)
                self._tried[prompt] = ""
            except PromptError as error:
                self._tried[prompt] = str(error)
        if message := self._tried[prompt]:
            return (Problem(Reason.INVALID_TEMPLATE, f"The system prompt template can't be used: {message}"),)
        return None
