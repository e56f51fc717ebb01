"""Certificates are real: a client refuses another authority's server, a server another authority's client."""

from __future__ import annotations

import base64
import ssl
import stat
from pathlib import Path

import pytest
import yaml

from dev.cluster import certs


def handshake(
    server: tuple[Path, Path], client: tuple[Path, Path], trusts: Path, trusted_clients: Path, name: str
) -> str:
    """Shake hands in memory; the client's user name as the server saw it."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(*server)
    serving.load_verify_locations(trusted_clients)
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=str(trusts))
    asking.load_cert_chain(*client)
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = asking.wrap_bio(down, up, server_hostname=name)
    far = serving.wrap_bio(up, down, server_side=True)
    done = [False, False]
    while not all(done):
        for index, side in enumerate((near, far)):
            try:
                side.do_handshake()
                done[index] = True
            except ssl.SSLWantReadError:
                pass
    seen = far.getpeercert() or {}
    return str(dict(part[0] for part in seen["subject"])["commonName"])  # type: ignore[misc,union-attr,index]


def test_handshakes(tmp_path: Path) -> None:
    ca, other = certs.Authority(tmp_path / "a", "ca"), certs.Authority(tmp_path / "b", "ca")
    server = ca.issue("server", "kube-apiserver", hosts=["10.244.0.1", "kubernetes"])
    client = ca.issue("client", "somebody", ("a-group",))
    stranger = other.issue("client", "stranger")
    for name in ("10.244.0.1", "kubernetes"):
        assert handshake(server, client, ca.certificate, ca.certificate, name) == "somebody"
    for wrong in (
        (server, client, other.certificate, ca.certificate, "kubernetes"),
        (server, stranger, ca.certificate, ca.certificate, "kubernetes"),
        (server, client, ca.certificate, ca.certificate, "elsewhere"),
        (client, client, ca.certificate, ca.certificate, "kubernetes"),  # a client's certificate serves nobody
    ):
        with pytest.raises(ssl.SSLError):
            handshake(*wrong)


def test_files_are_kept_and_private(tmp_path: Path) -> None:
    first = certs.Authority(tmp_path, "ca").issue("x", "x")
    before = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in certs.Authority(tmp_path, "ca").issue("x", "x")] == before
    private, public = certs.signing_key(tmp_path)
    for secret in (first[1], tmp_path / "ca.key", private):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert certs.signing_key(tmp_path) == (private, public)


def test_kubeconfig_holds_all_it_needs(tmp_path: Path) -> None:
    ca = certs.Authority(tmp_path, "ca")
    pair = ca.issue("admin", "admin")
    made = certs.kubeconfig(tmp_path / "config", "https://127.0.0.1:1", ca.certificate, pair=pair)
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    read = yaml.safe_load(made.read_text())
    cluster, user = read["clusters"][0]["cluster"], read["users"][0]["user"]
    assert base64.b64decode(cluster["certificate-authority-data"]) == ca.certificate.read_bytes()
    assert base64.b64decode(user["client-key-data"]) == pair[1].read_bytes()
    assert "insecure-skip-tls-verify" not in cluster
