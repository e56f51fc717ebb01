"""Passwords and tokens that only their name gives away.

``password = ...``, ``"api_key": "..."``, ``user:...@host``, and in a sentence: ``the password is ...``.
"""

import re
from collections.abc import Iterator

from tenantry_runtime.leaks.matching import Followed

STEMS = (b"pass", b"pwd", b"secret", b"key", b"token")
"""Lower-cased, one of these begins the last word of every name of a secret."""

_NAME_AND_SIGN = re.compile(
    r"""(?ix)
    (?: (?P<password> pass(?:word|wort|wd|phrase|code)? (?:[_-]?[0-9]{1,2})? | pwd(?:[_-]?[0-9]{1,2})? )
      | (?P<token> secret (?:[_-]?(?:access[_-]?)?key | [_-]?token)? | key | token )
    )
    \\?["'`]? \]?
    (?: [ \t]{0,4} (?P<sign> => | := | ==? | : | > ) [ \t]{0,4}
      | [ ]{1,2} (?P<verb> is|was|ist|war|lautet) (?: [ ]{1,2} (?:now|still|currently|set[ ]to|jetzt|noch) )?
        [ ]{0,1} :? [ ]{1,2}
    )
    (?P<quote> \\?["'`] )?
    """
)
_QUALIFIED = re.compile(
    r"(?i)(?:access|account|api|app|auth|bearer|bot|encryption|master|oauth|personal|private|refresh|secret|service"
    r"|session|shared|signing|subscription)[_\-. ]?\Z"
)
_QUOTED = {quote: re.compile(rf"[^{quote}\s\\]{{0,200}}+") for quote in "\"'`"}
_BARE = re.compile(r"[^\s\"'`,;&<>()\[\]{}|\\]{0,200}+")
_SAID = re.compile(r"[^\s\"'`,;<>()\[\]{}|\\]{0,200}+")
_STRESS = re.compile(r"[*_~]{1,3}+")
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
        password, verb = named["password"] is not None, named["verb"] is not None
        if not (_is_password_name if password else _is_secret)(text, named):
            continue
        start, quote = named.end(), named["quote"]
        pattern = _QUOTED[quote[-1]] if quote else _SAID if verb else _BARE
        matched = pattern.match(text, start)
        end = matched.end() if matched else start
        if end == len(text) and not final and end - start < 200:
            yield "", Followed(True, start, end)
            continue
        after = text[end : end + 1]
        holds = after in (quote[-1], "\\") and end < len(text) if quote else not _CALL.match(after)
        if holds and verb and not quote:
            start, end = _without_marks(text, start, end)
        value = text[start:end]
        if not holds:
            continue
        if is_said(value, password) if verb else is_password(value, named, after) if password else is_token(value):
            yield ("password" if password else "generic_token"), Followed(False, start, end)


def _without_marks(text: str, start: int, end: int) -> tuple[int, int]:
    """Without what a sentence ends with, and Markdown's stress around it."""
    while end > start and text[end - 1] in ".:":
        end -= 1
    stress = _STRESS.match(text, start, end)
    if stress and text.endswith(stress[0], stress.end(), end):
        return stress.end(), end - len(stress[0])
    return start, end


def _named(text: str, lowered: bytes) -> Iterator[re.Match[str]]:
    for stem in STEMS:
        at = lowered.find(stem)
        while at >= 0:
            named = _NAME_AND_SIGN.match(text, at)
            if named:
                yield named
            at = lowered.find(stem, at + len(stem))


def _is_password_name(text: str, named: re.Match[str]) -> bool:
    """``pass`` also ends other words, and means other things: in a sentence it is no password."""
    at = named.start()
    if named["verb"]:
        return named["password"].lower() != "pass"
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


def is_said(value: str, password: bool) -> bool:
    """Whether a sentence tells a password, or a key: unlike any word, measure, version or name of a standard."""
    if not 6 <= len(value) <= 200 or _PLACEHOLDER.match(value) or _FILLED.search(value) or _PATH.match(value):
        return False
    if not password:
        return is_token(value) and any(map(_is_run_of_a_key, _BETWEEN.split(value)))
    symbol = not _SYMBOLS.isdisjoint(value)
    if (_SCHEME.match(value) and not symbol) or _NAME_IN_CODE.fullmatch(value) or _MEASURE.match(value):
        return False
    return any(map(str.isdigit, value)) and any(map(str.isalpha, value)) and not _NO_PASSWORD.fullmatch(value)


def _is_run_of_a_key(part: str) -> bool:
    return len(part) >= 16 and sum(map(str.isdigit, part)) >= 3 and any(map(str.isalpha, part))


_BETWEEN = re.compile(r"[_.~=/-]")
_MEASURE = re.compile(
    r"[0-9]+(?:[-+.:]?[0-9]+)*[-+/%]?(?:[A-Za-z]{0,12}(?:[-/][A-Za-z]+)*)\Z|[0-9]+\.[0-9]|[0-9]{4}-[0-9]{2}-"
)
_NO_PASSWORD = re.compile(
    r"[A-Z]{2,8}[-_]?[0-9]{1,5}(?:[-./:]\w+)*"  # AES-256, ISO-8859-1, RFC2617, JIRA-1234
    r"|[a-z]{1,4}[0-9]{1,2}"  # arg1, user2
    r"|[^@]+@[^@]+\.[A-Za-z]{2,}"  # an address
    r"|[a-z]+(?:-[a-z]+)*-[0-9]+(?:-[a-z]+)*"  # level-2, top-10-secret
)


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
