"""What must not pass: secrets, and other tenants' identifiers, in whole texts and in texts that come in pieces."""

from tenantry_runtime.leaks.detector import Detector, Finding
from tenantry_runtime.leaks.identifiers import NO_IDENTIFIERS, Identifiers
from tenantry_runtime.leaks.kinds import FOREIGN_TENANT, KINDS
from tenantry_runtime.leaks.window import MARK, REDACT, Policies, Window, apply

__all__ = [
    "FOREIGN_TENANT",
    "KINDS",
    "MARK",
    "NO_IDENTIFIERS",
    "REDACT",
    "Detector",
    "Finding",
    "Identifiers",
    "Policies",
    "Window",
    "apply",
]
