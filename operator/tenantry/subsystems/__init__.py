"""The four things that a tenant consists of, each brought about and looked at on its own.

A failure of one is its own condition: it delays neither the others nor another tenant.
"""

from tenantry.subsystems.order import Subsystems

__all__ = ["Subsystems"]
