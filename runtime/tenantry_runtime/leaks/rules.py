"""Keys that tell who made them, by what they begin with.

The shapes follow the rules of gitleaks (MIT; github.com/gitleaks/gitleaks, config/gitleaks.toml) and the plugins of
detect-secrets (Apache-2.0; github.com/Yelp/detect-secrets), written anew as steps: see `matching`.
"""

import base64
import binascii
import re
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from tenantry_runtime.leaks.matching import CUT, Maybe, Step, edge, run

WORD = r"A-Za-z0-9_\-"
_ALNUM = "A-Za-z0-9"
_HEX = "0-9a-f"
_END = edge(_ALNUM)


@dataclass(frozen=True)
class Rule:
    """`steps` follow one of `begins`; `holds` looks at what would be taken out.

    `apart`: what begins must not continue a word, not even after ``_`` or ``-``.
    `in_run`: `begins` and what follows are one run of 16 or more letters, digits, ``_`` and ``-``.
    `hint`: where it is not `in_run`, a short text that it can't be without; empty: such a run somewhere after it.
    """

    kind: str
    begins: tuple[str, ...]
    steps: tuple[Step, ...]
    holds: Callable[[str], bool] | None = None
    apart: bool = False
    in_run: bool = True
    hint: str = ""


def _mixed(key: str) -> bool:
    body = key.partition("-")[2]
    return any(c.isdigit() for c in body) and any(c.isalpha() for c in body)


def _mixed_token(token: str) -> bool:
    return any(c.isdigit() for c in token) and any(c.isalpha() for c in token)


def _real(key: str) -> bool:
    """Not one of AWS' documentation."""
    return not key.endswith("EXAMPLE")


def _digit(key: str) -> bool:
    return any(c.isdigit() for c in key)


def _numbered(key: str) -> bool:
    return sum(c.isdigit() for c in key) >= 6


def _random(key: str) -> bool:
    """With a digit, or with large letters among small ones: unlike words."""
    body = key[6:]
    return _digit(body) or (body != body.lower() and body != body.upper())


def _json_web_token(token: str) -> bool:
    """Its first part is a JSON object that names an algorithm (RFC 7515, 4.1.1)."""
    head = token.partition(".")[0]
    try:
        header = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


def _basic(credentials: str) -> bool:
    """User and password of HTTP's basic scheme (RFC 7617)."""
    try:
        user, colon, password = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        return False
    return bool(colon and password) and (user + password).isprintable()


def _ends(*kinds: str) -> tuple[str, ...]:
    return tuple(f"-----BEGIN {kind}-----" for kind in kinds)


_BREAK = run(r"\s\\nr", 0, 12)
"""Between lines; in a JSON text a line's end is two characters."""
_HEADER = Maybe((run("A-Za-z-", 4, 20), ": ", run(r"^\n\r\\", 0, 100), run(r"\s\\nr", 1, 12)))

RULES: tuple[Rule, ...] = (
    Rule("openai_key", ("sk-proj-", "sk-svcacct-", "sk-admin-"), (run(WORD, 40, 240),)),
    Rule("openai_key", ("sk-", "sk-or-v1-"), (run(_ALNUM, 32, 64), _END), _mixed),
    Rule("anthropic_key", ("sk-ant-",), (run(WORD, 24, 240),), _mixed),
    Rule("aws_key", ("AKIA", "ASIA", "ABIA", "ACCA"), (run("A-Z0-9", 16), _END), _real),
    Rule("aws_key", ("ABSK",), (run("A-Za-z0-9+/", 100, 300), run("=", 0, 2))),
    Rule("gcp_key", ("AIza",), (run(WORD, 35), edge(WORD))),
    Rule("gcp_key", ("GOCSPX-",), (run(WORD, 28), edge(WORD))),
    Rule("gcp_key", ("ya29.",), (run(WORD + ".", 60, 1024),), apart=True, in_run=False),
    Rule(
        "azure_key",
        ("AccountKey=", "SharedAccessKey="),
        (CUT, run("A-Za-z0-9+/", 40, 100), run("=", 0, 2)),
        in_run=False,
        hint="Key=",
    ),
    Rule("github_token", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), (run("A-Za-z0-9_", 36, 255),)),
    Rule("github_token", ("github_pat_",), (run("A-Za-z0-9_", 50, 255),)),
    Rule(
        "gitlab_token",
        ("glpat-", "gldt-", "glft-", "glffct-", "glsoat-", "glrt-", "glptt-", "glcbt-", "glimt-", "glagent-", "gloas-"),
        (run(WORD, 20, 300), Maybe((".", run("0-9a-z", 2), ".", run("0-9a-z", 7, 9)))),
        _random,
    ),
    Rule("gitlab_token", ("GR1348941",), (run(WORD, 20, 50),)),
    Rule(
        "slack_token",
        ("xoxb-", "xoxp-", "xoxa-", "xoxr-", "xoxs-", "xoxo-", "xoxe-", "xapp-"),
        (run("A-Za-z0-9-", 16, 255),),
        _numbered,
    ),
    Rule("slack_token", ("xoxe.xoxb-", "xoxe.xoxp-"), (run("A-Za-z0-9-", 60, 255),), apart=True, in_run=False),
    Rule(
        "slack_token",
        ("hooks.slack.com/services/T", "hooks.slack.com/workflows/T", "hooks.slack.com/triggers/T"),
        (run("A-Za-z0-9/", 30, 100),),
        apart=True,
        in_run=False,
    ),
    Rule(
        "stripe_key",
        ("sk_live_", "sk_test_", "sk_prod_", "rk_live_", "rk_test_", "rk_prod_", "whsec_"),
        (run(_ALNUM, 16, 255),),
        _random,
    ),
    Rule("twilio_key", ("SK",), (run(_HEX, 32), _END)),
    Rule("sendgrid_key", ("SG.",), (run(WORD, 16, 32), ".", run(WORD, 30, 64)), apart=True, in_run=False),
    Rule("npm_token", ("npm_",), (run(_ALNUM, 36), _END)),
    Rule("pypi_token", ("pypi-AgEIcHlwaS5vcmc", "pypi-AgENdGVzdC5weXBpLm9yZw"), (run(WORD, 50, 1024),)),
    Rule("huggingface_token", ("hf_", "api_org_"), (run(_ALNUM, 34), _END)),
    Rule("digitalocean_token", ("dop_v1_", "doo_v1_", "dor_v1_"), (run(_HEX, 64), _END)),
    Rule("databricks_token", ("dapi",), (run(_HEX, 32), Maybe(("-", run("0-9", 1))), _END)),
    Rule("mailgun_key", ("key-", "pubkey-"), (run(_HEX, 32), edge(WORD)), apart=True),
    Rule("tenantry_key", ("tk-",), (run(WORD, 40, 64), edge(WORD)), _mixed, apart=True),
    Rule(
        "discord_token",
        ("discord.com/api/webhooks/", "discordapp.com/api/webhooks/"),
        (run("0-9", 16, 20), "/", run(WORD, 40, 100)),
        apart=True,
        in_run=False,
    ),
    Rule(
        "jwt",
        ("eyJ",),
        (run(WORD, 13, 512), ".", run(WORD, 8, 8192), Maybe((".", run(WORD + ".", 0, 8192)))),
        _json_web_token,
    ),
    Rule(
        "private_key",
        _ends(
            "PRIVATE KEY",
            "RSA PRIVATE KEY",
            "EC PRIVATE KEY",
            "DSA PRIVATE KEY",
            "OPENSSH PRIVATE KEY",
            "ENCRYPTED PRIVATE KEY",
            "PGP PRIVATE KEY BLOCK",
        ),
        (
            _BREAK,
            _HEADER,
            _HEADER,
            _HEADER,
            run("A-Za-z0-9+/=", 40, 100),
            run(r"A-Za-z0-9+/=\s\\", 0, 16384),
            Maybe(("-----END ", run(" A-Z0-9", 3, 40), "-----")),
        ),
        apart=True,
        in_run=False,
        hint="-----BEGIN ",
    ),
    Rule(
        "generic_token",
        ("Bearer ", "bearer "),
        (CUT, run(r"A-Za-z0-9._~+/=\-", 20, 4096)),
        _mixed_token,
        apart=True,
        in_run=False,
        hint="earer ",
    ),
    Rule(
        "password",
        ("Basic ", "basic "),
        (CUT, run("A-Za-z0-9+/", 8, 512), run("=", 0, 2)),
        _basic,
        apart=True,
        in_run=False,
        hint="asic ",
    ),
)


@dataclass(frozen=True)
class Led:
    """A key with what gives it away in its midst: `lead` is what stands before `mark`, `tail` an unfinished lead."""

    kind: str
    mark: str
    lead: re.Pattern[str]
    tail: re.Pattern[str]
    steps: tuple[Step, ...]


def _apart(characters: str) -> str:
    """Not within a word of these characters; an escape's last letter, as in ``\\n``, is no part of a word."""
    return rf"(?:(?<![{characters}])|(?<=\\[nrtbf]))"


_DIGITS = rf"(?:{_apart('A-Za-z0-9_')}|(?<=bot))[0-9]{{8,10}}"
_BEFORE = _apart(r"A-Za-z0-9_~.\-")
LED: tuple[Led, ...] = (
    Led(
        "telegram_token",
        ":A",
        re.compile(rf"{_DIGITS}\Z"),
        re.compile(rf"{_DIGITS}:?\Z"),
        (run(WORD, 34, 36), edge(WORD)),
    ),
    Led(
        "azure_key",
        "Q~",
        re.compile(rf"{_BEFORE}[A-Za-z0-9_~.]{{3}}[0-9]\Z"),
        re.compile(rf"{_BEFORE}(?:[A-Za-z0-9_~.]{{1,3}}|[A-Za-z0-9_~.]{{3}}[0-9]Q?)\Z"),
        (run(r"A-Za-z0-9_~.\-", 31, 34), edge(WORD)),
    ),
)

DISCORD = re.compile(rf"[MNO](?:(?<![{WORD}.].)|(?<=\\[nrtbf].))[{WORD}]{{23,27}}\.")  # its first letter first: faster
DISCORD_STEPS: tuple[Step, ...] = (run(WORD, 6), ".", run(WORD, 27, 40), edge(WORD))
DISCORD_LENGTHS = range(24, 30)
"""Of the first run, with an escape's letter before it or without."""

WHOLE_RUNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("mailgun_key", re.compile(rf"{_apart(WORD)}[{_HEX}]{{32}}-[{_HEX}]{{8}}-[{_HEX}]{{8}}(?![{WORD}])")),
    ("azure_key", re.compile(rf"{_apart(WORD)}[{_ALNUM}]{{52}}JQQJ9[9DH][{_ALNUM}]{{26}}(?![{WORD}])")),
)
"""Keys without a beginning of their own: a whole run of letters, digits, ``_`` and ``-``, of `WHOLE_LENGTHS`."""
WHOLE_LENGTHS = frozenset({50, 51, 84, 85})


def discord_owner(first: str) -> bool:
    """A Discord token's first part is its owner's number in base64."""
    try:
        number = base64.urlsafe_b64decode(first + "=" * (-len(first) % 4))
    except (ValueError, binascii.Error):
        return False
    return number.isdigit() and 16 <= len(number) <= 20
