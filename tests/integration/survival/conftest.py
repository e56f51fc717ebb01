"""The same world as the operator's other tests have."""

from tests.integration.operator.conftest import operator, world

__all__ = ["operator", "world"]
