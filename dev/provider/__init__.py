"""A stand-in for a model provider: OpenAI's wire format, served by a local embedding model.

It is no language model.  It answers with the sentences of the context that it was given which best match
the question, or says that it does not know; that is enough to show retrieval, streaming, usage and limits
on a machine without a network.  Wherever it shows, it names itself `tenantry-stand-in`.
"""

NAME = "tenantry-stand-in"
"""Its name in ``owned_by`` and ``system_fingerprint``."""

CHAT_MODELS = ("gpt-4o-mini", "gpt-4o")
"""The names under which it answers questions: those that the tiers allow."""

EMBEDDING_MODEL = "wordllama-256"
"""PyPI `wordllama`, whose weights are in the wheel: 256 dimensions."""
DIMENSION = 256
