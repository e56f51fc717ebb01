"""Passwords and tokens that only their name gives away: ``password = ...``, ``"api_key": "..."``, ``user:...@host``."""

import re
from collections.abc import Iterator

from tenantry_runtime.leaks.matching import Followed

STEMS = (b"pass", b"pwd", b"secret", b"key", b"token")
"""Lower-cased, one of these begins the last word of every name of a secret."""

_NAME_AND_SIGN = re.compile(
    r"""(?ix)
    (?: (?P<password> pass(?:word|wd|phrase|code)? (?:[_-]?[0-9]{1,2})? | pwd(?:[_-]?[0-9]{1,2})? )
      | (?P<token> secret (?:[_-]?(?:access[_-]?)?key | [_-]?token)? | key | token )
    )
    \\?["'`]? \]? [ \t]{0,4}
    (?P<sign> => | := | ==? | : | > )
    [ \t]{0,4}
    (?P<quote> \\?["'`] )?
    """
)
_QUALIFIED = re.compile(
    r"(?i)(?:access|account|api|app|auth|bearer|bot|encryption|master|oauth|personal|private|refresh|secret|service"
    r"|session|shared|signing|subscription)[_\-. ]?\Z"
)
_QUOTED = {quote: re.compile(rf"[^{quote}\s\\]{{0,200}}+") for quote in "\"'`"}
_BARE = re.compile(r"[^\s\"'`,;&<>()\[\]{}|\\]{0,200}+")
_CALL = re.compile(r"[(\[{]")

_PLACEHOLDER = re.compile(
    r"(?i)[<{\[]|\$[({]|\$[a-z_]+\Z|%[({]|%[a-z_]+%|your|my[_-]?(?:pass|secret|key|token)"
    r"|(?:example|changeme|placeholder|redacted|none|null|true|false|undefined|test|dummy|sample|secret|passw(?:or)?d"
    r"|pass|pwd|string|token)[_-]?\Z"
)
_FILLED = re.compile(r"(?i)x{4}|example|\*{3}|\.{3}|\$\{|\{\{|<[a-z _-]+>")
_SCHEME = re.compile(r"(?i)(?:sha|md|bcrypt|argon|scrypt|pbkdf|utf|base|aes|rsa|hs|rs|es|oauth|v|h|p)-?[0-9]")
_WORD = r"[A-Za-z]*[0-9]{0,3}"
_NAME_IN_CODE = re.compile(rf"[A-Za-z_]{_WORD}(?:[._]{_WORD})+".replace("{_WORD}", _WORD))
_PATH = re.compile(r"(?:~|\.{0,2}|[A-Za-z]:)[/\\]|[a-z][a-z0-9+.-]*://")
_COMPOUND = re.compile(r"(?i)(?:[^a-z]|db|user|root|admin|smtp|ftp|sql|mail|login|sudo)\Z")
_SYMBOLS = frozenset("!@#$%^*+?~=|/&")


def assigned(text: str, lowered: bytes, final: bool) -> Iterator[tuple[str, Followed]]:
    """What is given to a name that says it is a secret, with its kind.  `lowered`: `text`, a byte a character."""
    for named in _named(text, lowered):
        password = named["password"] is not None
        if not (_is_password_name if password else _is_secret)(text, named):
            continue
        start, quote = named.end(), named["quote"]
        pattern = _QUOTED[quote[-1]] if quote else _BARE
        matched = pattern.match(text, start)
        end = matched.end() if matched else start
        if end == len(text) and not final and end - start < 200:
            yield "", Followed(True, start, end)
            continue
        after = text[end : end + 1]
        holds = after in (quote[-1], "\\") and end < len(text) if quote else not _CALL.match(after)
        value = text[start:end]
        if holds and (is_password(value, named, after) if password else is_token(value)):
            yield ("password" if password else "generic_token"), Followed(False, start, end)


def _named(text: str, lowered: bytes) -> Iterator[re.Match[str]]:
    for stem in STEMS:
        at = lowered.find(stem)
        while at >= 0:
            named = _NAME_AND_SIGN.match(text, at)
            if named:
                yield named
            at = lowered.find(stem, at + len(stem))


def _is_password_name(text: str, named: re.Match[str]) -> bool:
    """``pass`` also ends other words, and means other things."""
    at = named.start()
    return named["password"].lower() != "pass" or not at or _COMPOUND.search(text, max(0, at - 5), at) is not None


def _is_secret(text: str, named: re.Match[str]) -> bool:
    """`key` and `token` alone name many harmless things."""
    word, at = named["token"].lower(), named.start()
    if word.startswith("secret") or _QUALIFIED.search(text, max(0, at - 14), at):
        return True
    before = text[at - 1 : at]
    return word == "token" and not (before and (before.isalnum() or before in "_-."))


def is_password(value: str, named: re.Match[str], after: str) -> bool:
    """Whether this may be a password: not a placeholder, a name in code, a path, or a word."""
    if not len(value) >= 6 or _PLACEHOLDER.match(value) or _FILLED.search(value) or _PATH.match(value):
        return False
    digit, letter = any(map(str.isdigit, value)), any(map(str.isalpha, value))
    symbol = not _SYMBOLS.isdisjoint(value)
    if _SCHEME.match(value) and not symbol:
        return False
    if named["password"].lower() == "pass" and not (digit and letter and len(value) >= 8):
        return False
    if named["quote"]:
        return digit or (symbol and letter) or value.count("-") >= 3
    if _NAME_IN_CODE.fullmatch(value) or (value.isidentifier() and after and after in ",)"):
        return False
    if named["sign"] in ("==", ">") and not (digit and symbol):
        return named["sign"] == ">" and digit and letter and len(value) >= 8
    return letter and (digit or symbol)


def is_token(value: str) -> bool:
    """Whether this may be a key: long, mixed, and of more variety than words have."""
    if not len(value) >= 16 or _PLACEHOLDER.match(value) or _FILLED.search(value):
        return False
    if value.count("/") > 2 and _PATH.match(value):
        return False
    if not _TOKEN.fullmatch(value) or _NAME_IN_CODE.fullmatch(value):
        return False
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and len(set(value)) >= 8


_TOKEN = re.compile(r"[A-Za-z0-9+/=_.~-]+")
_USER = re.compile(r"[A-Za-z0-9._%+~$&=!*-]{0,64}+:")
_UNTIL_HOST = re.compile(r"[^\s/\"'<>`\\|]{0,200}+")


def in_addresses(text: str, final: bool) -> Iterator[Followed]:
    """The passwords of ``scheme://user:password@host``."""
    at = text.find("://")
    while at >= 0:
        named = _USER.match(text, at + 3)
        if named:
            start = named.end()
            rest = _UNTIL_HOST.match(text, start)
            end = rest.end() if rest else start
            if end == len(text) and not final and end - start < 200:
                yield Followed(True, start, end)
            else:
                host = text.rfind("@", start, end)
                if start < host < end - 1 and is_given(text[start:host]):
                    yield Followed(False, start, host)
        at = text.find("://", at + 3)


def is_given(password: str) -> bool:
    """Whether an address holds a password, not a place for one."""
    return not (_PLACEHOLDER.match(password) and len(password) < 12) and not _FILLED.search(password)
