"""Certificates and kubeconfigs: every client verifies its server, every server knows its clients."""

from __future__ import annotations

import base64
import ipaddress
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

YEAR = timedelta(days=365)


def write_private(path: Path, content: bytes | str) -> Path:
    """Write a file that only its owner may read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return path


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def signing_key(folder: Path) -> tuple[Path, Path]:
    """A key pair for service account tokens: the private and the public file."""
    private, public = folder / "service-accounts.key", folder / "service-accounts.pub"
    if not public.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(private, _pem(key))
        public.write_bytes(
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        )
    return private, public


class Authority:
    """A certificate authority in a folder, made when it is not there yet."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.certificate = folder / f"{name}.crt"
        key_file = folder / f"{name}.key"
        if not self.certificate.exists():
            key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"tenantry-dev {name}")])
            made = _builder(subject, key, subject, 10 * YEAR).add_extension(
                x509.BasicConstraints(ca=True, path_length=0), critical=True
            )
            made = made.add_extension(_usage(authority=True), critical=True)
            identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
            made = made.add_extension(identifier, critical=False)
            write_private(key_file, _pem(key))
            self.certificate.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        loaded = serialization.load_pem_private_key(key_file.read_bytes(), None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{key_file} holds no elliptic curve key; remove it.")
        self._key = loaded
        self._subject = x509.load_pem_x509_certificate(self.certificate.read_bytes()).subject

    def issue(self, name: str, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()) -> tuple[Path, Path]:
        """A certificate and its key, once made and kept: for a client `user` of `groups`, and for a server
        that is reached at `hosts` (names or addresses)."""
        certificate, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if certificate.exists():
            return certificate, key_file
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        made = _builder(subject, key, self._subject, YEAR)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_usage(authority=False), critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        made = made.add_extension(issuer, critical=False)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, *([ExtendedKeyUsageOID.SERVER_AUTH] if hosts else [])]
        made = made.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if hosts:
            made = made.add_extension(
                x509.SubjectAlternativeName([_general_name(host) for host in hosts]), critical=False
            )
        write_private(key_file, _pem(key))
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return certificate, key_file


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, issuer: x509.Name, lasts: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))  # clocks differ
        .not_valid_after(now + lasts)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def kubeconfig(
    path: Path,
    server: str,
    authority: Path,
    *,
    pair: tuple[Path, Path] | None = None,
    token: str | None = None,
) -> Path:
    """Write a kubeconfig (mode 0600) that holds all it needs: a client certificate or a token."""

    def inline(file: Path) -> str:
        return base64.b64encode(file.read_bytes()).decode()

    user: dict[str, str] = {}
    if pair:
        user = {"client-certificate-data": inline(pair[0]), "client-key-data": inline(pair[1])}
    if token:
        user["token"] = token
    name = "tenantry-dev"
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": inline(authority)}}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }
    return write_private(path, yaml.safe_dump(document, sort_keys=False))
