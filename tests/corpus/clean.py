"""Texts without a secret, made from a seed: prose, code, and all that looks a little like a key but is none."""

import base64
import hashlib
import inspect
import random
import uuid
from types import ModuleType

from tests.corpus.secrets import ALNUM, BASE64, DIGITS, HEX, LOWER, UPPER, WORD, some

Random = random.Random

SENTENCES = (
    "The returns policy says that goods can be sent back within 45 days.",
    "Your password must have at least 12 characters, one digit and one symbol.",
    "Password: required. Token: optional. API key: see the settings page.",
    "Reset your password: we have sent you a link that holds for 30 minutes.",
    "Our secret: fresh bread, every morning. The key: patience.",
    "An access token expires after 3600 seconds; a refresh token after 30 days.",
    "Set api_key=YOUR_API_KEY or api_key=<your key> and password=${DB_PASSWORD} before you start.",
    "Use postgres://user:password@localhost:5432/db or redis://localhost:6379/0 while you develop.",
    "A PEM file begins with -----BEGIN RSA PRIVATE KEY----- and a certificate with -----BEGIN CERTIFICATE-----.",
    "Keys of OpenAI begin with sk-, those of GitHub with ghp_, those of AWS with AKIA, JWTs with eyJ.",
    "The documentation of AWS uses AKIAIOSFODNN7EXAMPLE wherever a key would stand.",
    "Tokens look like ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx or sk-proj-XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX.",
    "Basic authentication is not basically wrong; Basic understanding of Basic aGVsbG8= helps.",
    "The task-force met at 10:30; desk-4 was empty, and the SKU was SK-2041.",
    "Grüße aus München! Größe: 42, Preis: 1.299,00 €, Rückgabe möglich.",
    "東京の天気は晴れです。パスワードは必要ありません。",
    "Пароль не нужен: достаточно ссылки из письма.",
    "Call +49 89 1234 5678 90 or +1 (415) 555-0132, extension 4111.",
    "It scored 0.4111111111111111 against 3.1415926535897931 before.",
    "The tenant-facing API and the runtime-specific one differ in tenant_id and schema_name.",
    "Emoji are fine too: 👩‍👩‍👧‍👦 🏳️‍🌈 ✅, and so is a zero\u200bwidth space.",
    "compass: N45E12, bypass=off, passed: 12/15, pass: 2024-05-01, passport no. C01X00T47",
    "The password is required! It is case-sensitive, and the password is at least 12 characters long.",
    "A password is 8-16 characters; the passphrase is 256-bit, the password was 90days old and is now expired.",
    "The password is SHA256-hashed, then the password is base64-encoded; before 2024 the password was bcrypt-hashed.",
    "If the password is wrong 3x, the account is locked; where the password is ${{DB_PASSWORD1}}, set it first.",
    "The password is user-specific (see RFC-2617), the password is set to expire on 2026-11-22T10:00:00Z.",
    "My password is not working: the password is in config/app2.yaml, the pwd is ~/projects/shop2.",
    "The password is user2@example.com's own. The key is order-2024-production-eu, its token is the 3rd one.",
    "The password is AES-256 encrypted, its password is PBKDF2-derived; the password is args[1] or param1.",
    "Das Passwort ist falsch. Das Passwort ist 12-stellig und war 30 Tage alt.",
    "The secret is patience; the access key is customer_id_2024_region_name, and the API key is 32 characters long.",
    "|---|:--:|------------------------------------|",
)

CODE = (
    "password = getpass.getpass('Password: ')\n",
    "def login(user: str, password: str | None = None) -> Token: ...\n",
    "password: SecretStr = Field(min_length=12)\n",
    "client = OpenAI(api_key=os.environ['OPENAI_API_KEY'])\n",
    "const token = await auth.getToken(user.id, { scope: 'read:all' });\n",
    "if password == confirm_password: raise ValueError('password1')\n",
    '<input type="password" name="password" id="password2" autocomplete="current-password">\n',
    "secretKeyRef: {name: postgres-credentials-2024, key: password}\n",
    "password: {{ .Values.postgres.password | quote }}\n",
    "PASSWORD_HASHER=argon2id  # password: bcrypt12 before\n",
    "SELECT primary_key, foreign_key FROM keys WHERE key = $1 AND token_count > 4096;\n",
    'max_tokens=4096, "token_type": "Bearer", "total_tokens": 1234\n',
    "for key, value in items: cache_key = f'{key}:{value}'\n",
    "password=self.credentials.password, user=self.credentials.user)\n",
    "PWD=/home/ann/projects/shop2 OLDPWD=/home/ann\n",
    '"password": "string", "passwordConfirm": "string", "token": "string"\n',
    "export TOKEN=$(cat /var/run/secrets/kubernetes.io/serviceaccount/token)\n",
    "image: registry.example.com/shop/api@sha256:{hash}\n",
    '"integrity": "sha512-{sri}"\n',
    "commit {sha1}\nAuthor: Ann <ann@example.com>\n",
    "page_token={token}&sync_token={token}\n",
    "https://cdn.example.com/assets/index-{short}.js?v={sha1}#L10-L20\n",
    "data:image/png;base64,{base64}\n",
    '{{"id": "{uuid}", "etag": "{md5}", "traceparent": "00-{md5}-{span}-01"}}\n',
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{key} ann@laptop\n",
)


def _iban(rng: Random) -> str:
    """In the countries' own lengths (the check digits are not right)."""
    country, bank, digits = rng.choice(
        (("DE", "", 18), ("GB", "NWBK", 14), ("NL", "ABNA", 10), ("ES", "", 20), ("FR", "", 23), ("AT", "", 16))
    )
    text = country + some(rng, DIGITS, 2) + bank + some(rng, DIGITS, digits)
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4)) if rng.random() < 0.6 else text


def _order(rng: Random) -> str:
    return rng.choice(
        (
            f"ORD-{some(rng, DIGITS, 8)}",
            f"{some(rng, DIGITS, 3)}-{some(rng, DIGITS, 7)}-{some(rng, DIGITS, 7)}",
            f"INV-{rng.randint(2015, 2026)}-{some(rng, DIGITS, 6)}",
            f"1Z{some(rng, UPPER + DIGITS, 16)}",
            f"#{some(rng, DIGITS, rng.randint(5, 12))}",
            f"400{some(rng, DIGITS, 10)}",  # EAN-13
            f"978-{some(rng, DIGITS, 1)}-{some(rng, DIGITS, 4)}-{some(rng, DIGITS, 4)}-{some(rng, DIGITS, 1)}",
        )
    )


def _number(rng: Random) -> str:
    def upto(most: int) -> int:
        return rng.randint(1, most)

    return rng.choice(
        (
            f"{upto(40)}.{upto(30)}.{upto(99)}-rc.{upto(9)}+{some(rng, HEX, 7)}",
            str(rng.random()),
            str(rng.randint(1_500_000_000_000, 1_900_000_000_000)),
            str(rng.randint(10**18, 2 * 10**18)),
            f"{upto(255)}.{upto(255)}.{upto(255)}.{upto(255)}:{upto(65535)}",
            f"2026-{upto(12):02}-{upto(28):02}T{upto(23):02}:15:42.{some(rng, DIGITS, 6)}Z",
            f"+{rng.randint(1, 99)} {some(rng, DIGITS, 3)} {some(rng, DIGITS, 4)} {some(rng, DIGITS, 4)}",
            ", ".join(str(rng.randint(1000, 9999)) for _ in range(6)),
            " ".join(str(rng.randint(1, 99)) for _ in range(12)),
        )
    )


def _looks(rng: Random) -> str:
    """What a program might take for a key."""
    return rng.choice(
        (
            str(uuid.UUID(int=rng.getrandbits(128))),
            hashlib.sha256(rng.randbytes(8)).hexdigest(),
            hashlib.sha1(rng.randbytes(8)).hexdigest(),
            hashlib.md5(rng.randbytes(8)).hexdigest(),
            base64.b64encode(rng.randbytes(rng.randint(12, 200))).decode(),
            some(rng, WORD, rng.randint(11, 43)),
            "sha256:" + some(rng, HEX, 64),
            "msg_" + some(rng, ALNUM, 24),
            "chatcmpl-" + some(rng, ALNUM, 29),
            "file-" + some(rng, ALNUM, 24),
            "".join(rng.choice(LOWER) for _ in range(30)),
            "arn:aws:iam::" + some(rng, DIGITS, 12) + ":role/deploy-" + some(rng, LOWER, 6),
            "cache-key-" + some(rng, HEX, 32),
        )
    )


def _code(rng: Random) -> str:
    text = rng.choice(CODE)
    for name, value in {
        "hash": some(rng, HEX, 64),
        "sri": some(rng, BASE64, 86) + "==",
        "sha1": some(rng, HEX, 40),
        "token": some(rng, WORD, 32),
        "short": some(rng, HEX, 8),
        "base64": some(rng, BASE64, 120),
        "uuid": str(uuid.UUID(int=rng.getrandbits(128))),
        "md5": some(rng, HEX, 32),
        "span": some(rng, HEX, 16),
        "key": some(rng, BASE64, 43),
    }.items():
        text = text.replace("{" + name + "}", value)
    return text


def _modules() -> list[ModuleType]:
    """Code and prose that others wrote: the standard library, which handles passwords and keys too."""
    import argparse
    import configparser
    import ftplib
    import getpass
    import hmac
    import http.cookiejar
    import imaplib
    import netrc
    import poplib
    import shlex
    import smtplib
    import tarfile
    import tokenize
    import urllib.request
    import zipfile

    return [
        argparse, configparser, ftplib, getpass, hmac, http.cookiejar, imaplib, netrc, poplib, shlex, smtplib,
        tarfile, tokenize, urllib.request, zipfile,
    ]  # fmt: skip


def library(lines: int = 12) -> list[str]:
    """Pieces of the standard library's source."""
    pieces = []
    for module in _modules():
        source = inspect.getsource(module).splitlines(keepends=True)
        pieces += ["".join(source[at : at + lines]) for at in range(0, len(source), lines)]
    return pieces


def samples(seed: int, count: int) -> list[str]:
    """Paragraphs of sentences, numbers, look-alikes and code."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        parts = [rng.choice((lambda: rng.choice(SENTENCES), lambda: _code(rng)))() for _ in range(rng.randint(1, 4))]
        parts += [
            f"{rng.choice(('Order', 'id', 'ref:', 'see', 'hash', '-', 'is', ''))} {make(rng)}{rng.choice('., ;)')}"
            for make in rng.choices((_iban, _order, _number, _looks), k=rng.randint(1, 4))
        ]
        rng.shuffle(parts)
        made.append(rng.choice((" ", "\n", "\n\n")).join(parts))
    return made
