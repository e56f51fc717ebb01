"""The demo's three tenants: who they are, a document that only they have, and a question about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Actor:
    """One tenant of the demo.  `fact` must be in the answer to `question`; nobody else's documents hold it."""

    name: str
    display_name: str
    tier: str
    model: str
    owner: str
    title: str
    document: str
    question: str
    fact: str

    @property
    def filename(self) -> str:
        return self.title.lower().replace(" ", "-") + ".md"

    def values(self) -> dict[str, Any]:
        """Its entry in the values of charts/tenants."""
        return {
            "name": self.name,
            "spec": {
                "displayName": self.display_name,
                "tier": self.tier,
                "owners": [{"kind": "User", "name": self.owner}],
                "deletion": {"policy": "Delete"},
            },
        }


ACTORS = (
    Actor(
        name="acme",
        display_name="Acme Corp",
        tier="free",
        model="gpt-4o-mini",
        owner="ada@acme.example",
        title="Returns handbook",
        document=(
            "# Returns\n\n"
            "Acme Corp takes rocket skates back within 45 days.\n"
            "A refund for rocket skates needs the approval code BLUE-HERON-7.\n"
            "Anvils are not taken back.\n"
        ),
        question="Which approval code does a refund for rocket skates need?",
        fact="BLUE-HERON-7",
    ),
    Actor(
        name="globex",
        display_name="Globex Corporation",
        tier="pro",
        model="gpt-4o",
        owner="greta@globex.example",
        title="Reactor manual",
        document=(
            "# Reactor\n\n"
            "The Globex test reactor is shut down with the lever behind panel 12-OSPREY.\n"
            "Globex staff wear grey in the reactor hall.\n"
        ),
        question="Behind which panel is the lever that shuts the test reactor down?",
        fact="12-OSPREY",
    ),
    Actor(
        name="initech",
        display_name="Initech",
        tier="enterprise",
        model="gpt-4o",
        owner="ivo@initech.example",
        title="Report rules",
        document=(
            "# TPS reports\n\n"
            "Every Initech TPS report carries the cover sheet KESTREL-99.\n"
            "Reports are due on Friday at noon.\n"
        ),
        question="Which cover sheet does every TPS report carry?",
        fact="KESTREL-99",
    ),
)


def neighbour(actor: Actor) -> Actor:
    """The one at whose door an actor's credentials are tried: the next, and after the last the first."""
    return ACTORS[(ACTORS.index(actor) + 1) % len(ACTORS)]
