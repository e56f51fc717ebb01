"""Where the API server is, and how to say who we are there: a Pod's ServiceAccount, else a kubeconfig.

The official library reads kubeconfigs, with all their ways to log in.  It takes 10 MB and is imported for them only:
in a Pod there is no more to it than an address, a CA and a token in a file, which the kubelet renews.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_SECONDS = 60.0
"""How long a token is believed before its file is read again: the kubelet renews it at 80 % of its hour."""


@dataclass(frozen=True)
class Access:
    server: str
    """``https://HOST:PORT``"""
    authority: str | None = None
    """File of the CA; None: those that the machine trusts."""
    certificate: str | None = None
    key: str | None = None
    authorization: Callable[[], str | None] = lambda: None
    """The header of that name as it must be now; None without a token."""


class Token:
    """A ServiceAccount's."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError."""
        self._file = file
        self._clock = clock
        self._text = file.read_text().strip()
        self._read = clock()

    def __call__(self) -> str:
        if self._clock() - self._read > TOKEN_SECONDS:
            # Where it can't be read, the old one may still do; the API server says so if not.
            with contextlib.suppress(OSError):
                self._text = self._file.read_text().strip() or self._text
            self._read = self._clock()
        return f"Bearer {self._text}"


def access() -> Access:
    """From the Pod's ServiceAccount, else from $KUBECONFIG or ~/.kube/config."""
    return in_cluster() or from_kubeconfig()


def in_cluster(folder: Path | None = None) -> Access | None:
    """None outside of a Pod."""
    folder = folder or SERVICE_ACCOUNT
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    authority = folder / "ca.crt"
    if not host or not port or not authority.is_file():
        return None
    try:
        token = Token(folder / "token")
    except OSError:
        return None
    return Access(f"https://{f'[{host}]' if ':' in host else host}:{port}", str(authority), authorization=token)


def from_kubeconfig(path: Path | str | None = None) -> Access:
    """From one file, else from $KUBECONFIG or ~/.kube/config, in its current context."""
    from kubernetes import client, config

    made = client.Configuration()
    config.load_kube_config(config_file=str(path) if path else None, client_configuration=made)

    def authorization() -> str | None:
        value = made.get_api_key_with_prefix("BearerToken", alias="authorization")
        return str(value) if value else None

    return Access(made.host.rstrip("/"), made.ssl_ca_cert, made.cert_file, made.key_file, authorization)


__all__ = ["Access", "Token", "access", "from_kubeconfig", "in_cluster"]
