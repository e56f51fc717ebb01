"""Passwords as PostgreSQL stores them, so that none is ever in a statement or in the server's log.

Source: RFC 5802 section 3, RFC 7677, and PostgreSQL's src/common/scram-common.c for the text form.
"""

import base64
import hashlib
import hmac

ITERATIONS = 4096
"""PostgreSQL's own default, for a login that any client may use: some JDBC drivers refuse fewer (RFC 7677)."""

FEW = 1
"""For a login that only the runtime uses, with libpq, which takes any number.

Rounds slow down who guesses, and nobody guesses 256 random bits.  With 4096 a login costs the client 5.5 ms of CPU
instead of 1.1 (libpq), and a new role 1 ms each the operator, which computes the verifier, and PostgreSQL, which tries
the empty password against it.
"""


def verifier(password: str, role: str, iterations: int = ITERATIONS) -> str:
    """``SCRAM-SHA-256$4096:salt$StoredKey:ServerKey`` of an ASCII password (others would need SASLprep).

    The salt is derived, so that equal passwords of a role give equal text.  That is sound only because the
    password is a random key of 256 bits.
    """
    if not password.isascii():
        raise ValueError("a generated password has ASCII characters only")
    salt = _keyed(password, f"salt/{role}")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client = hmac.new(salted, b"Client Key", hashlib.sha256).digest()
    server = hmac.new(salted, b"Server Key", hashlib.sha256).digest()
    stored = hashlib.sha256(client).digest()
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${_text(stored)}:{_text(server)}"


def digest(password: str, role: str) -> str:
    """32 hexadecimal characters that tell two passwords apart; anybody may read them (a role's comment)."""
    return _keyed(password, f"digest/{role}").hex()[:32]


def _keyed(password: str, purpose: str) -> bytes:
    return hmac.new(password.encode(), purpose.encode(), hashlib.sha256).digest()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
