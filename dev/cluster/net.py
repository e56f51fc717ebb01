"""TCP ports: free, taken, answering."""

from __future__ import annotations

import random
import socket


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listens on, below those the system gives to clients.

    A client that keeps trying a server that has just stopped can be given that server's own port otherwise.
    """
    for _ in range(200):
        port = random.randint(20000, 32000)
        if can_bind(host, port) and can_bind("", port):
            return port
    raise OSError(f"No free port between 20000 and 32000 on {host}.")


def can_bind(host: str, port: int) -> bool:
    """Whether a server could listen on this address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def answers(host: str, port: int, timeout: float = 1.0) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((host, port), timeout).close()
    except OSError:
        return False
    return True
