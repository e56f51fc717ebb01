"""TCP ports: free, taken, answering."""

from __future__ import annotations

import socket


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


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
