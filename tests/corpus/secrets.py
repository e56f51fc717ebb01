"""Texts that hold a secret, made from a seed: real-looking keys, and what people and programs write around them.

No key is in this file: each is put together from what its maker's keys begin with and random characters, so that the
repository holds nothing that a scanner would find.
"""

import base64
import json
import random
import string
from collections.abc import Callable

LOWER, UPPER, DIGITS = string.ascii_lowercase, string.ascii_uppercase, string.digits
ALNUM = LOWER + UPPER + DIGITS
WORD = ALNUM + "-_"
HEX = "0123456789abcdef"
BASE64 = ALNUM + "+/"
BASE32 = UPPER + "234567"

Random = random.Random


def some(rng: Random, characters: str, size: int) -> str:
    return "".join(rng.choices(characters, k=size))


def _openai(rng: Random) -> str:
    marker = "T3Blbk" + "FJ"
    if rng.random() < 0.3:
        return "sk" + "-" + some(rng, ALNUM, 20) + marker + some(rng, ALNUM, 20)
    size = rng.choice((58, 74))
    return (
        "sk" + rng.choice(("-proj-", "-svcacct-", "-admin-")) + some(rng, WORD, size) + marker + some(rng, WORD, size)
    )


def _anthropic(rng: Random) -> str:
    return "sk-" + "ant-" + rng.choice(("api03-", "admin01-")) + some(rng, WORD, 93) + "AA"


def _aws(rng: Random) -> str:
    return rng.choice(("AK", "AS")) + "IA" + some(rng, BASE32, 16)


def _aws_secret(rng: Random) -> str:
    return some(rng, BASE64, 40)


def _gcp(rng: Random) -> str:
    if rng.random() < 0.2:
        return "GOC" + "SPX-" + some(rng, WORD, 28)
    return "AI" + "za" + some(rng, WORD, 35)


def _azure(rng: Random) -> str:
    if rng.random() < 0.5:
        return (
            some(rng, ALNUM + "_~.", 3)
            + some(rng, DIGITS, 1)
            + "Q"
            + "~"
            + some(rng, ALNUM + "_-", rng.randint(31, 34))
        )
    return some(rng, ALNUM, 52) + "JQ" + "QJ99" + some(rng, ALNUM, 26)


def _azure_storage(rng: Random) -> str:
    return base64.b64encode(rng.randbytes(64)).decode()


def _github(rng: Random) -> str:
    if rng.random() < 0.3:
        return "github" + "_pat_" + some(rng, ALNUM, 22) + "_" + some(rng, ALNUM, 59)
    return "gh" + rng.choice("pousr") + "_" + some(rng, ALNUM, 36)


def _gitlab(rng: Random) -> str:
    return "gl" + rng.choice(("pat", "dt", "rt", "ptt")) + "-" + some(rng, WORD, rng.choice((20, 26)))


def _slack(rng: Random) -> str:
    if rng.random() < 0.3:
        path = "T" + some(rng, UPPER + DIGITS, 10) + "/B" + some(rng, UPPER + DIGITS, 10) + "/" + some(rng, ALNUM, 24)
        return "hooks." + "slack.com/services/" + path
    return "xo" + rng.choice(("xb", "xp")) + f"-{some(rng, DIGITS, 12)}-{some(rng, DIGITS, 12)}-{some(rng, ALNUM, 24)}"


def _stripe(rng: Random) -> str:
    return rng.choice("sr") + "k_" + rng.choice(("live", "test")) + "_" + some(rng, ALNUM, rng.choice((24, 99)))


def _twilio(rng: Random) -> str:
    return "S" + "K" + some(rng, HEX, 32)


def _sendgrid(rng: Random) -> str:
    return "S" + "G." + some(rng, WORD, 22) + "." + some(rng, WORD, 43)


def _npm(rng: Random) -> str:
    return "np" + "m_" + some(rng, ALNUM, 36)


def _pypi(rng: Random) -> str:
    return "pypi-" + "AgEIcHlwaS5vcmc" + some(rng, WORD, rng.randint(100, 160))


def _huggingface(rng: Random) -> str:
    return "h" + "f_" + some(rng, LOWER + UPPER, 34)


def _digitalocean(rng: Random) -> str:
    return "do" + rng.choice("por") + "_v1_" + some(rng, HEX, 64)


def _databricks(rng: Random) -> str:
    return "da" + "pi" + some(rng, HEX, 32) + rng.choice(("", "-2"))


def _telegram(rng: Random) -> str:
    return some(rng, "123456789", 1) + some(rng, DIGITS, rng.randint(7, 9)) + ":A" + "A" + some(rng, WORD, 33)


def _discord(rng: Random) -> str:
    owner = str(rng.randint(10**17, 10**18 - 1)).encode()
    first = base64.urlsafe_b64encode(owner).decode().rstrip("=")
    return f"{first}.{some(rng, WORD, 6)}.{some(rng, WORD, rng.choice((27, 38)))}"


def _mailgun(rng: Random) -> str:
    if rng.random() < 0.5:
        return "ke" + "y-" + some(rng, HEX, 32)
    return f"{some(rng, HEX, 32)}-{some(rng, HEX, 8)}-{some(rng, HEX, 8)}"


def _private_key(rng: Random) -> str:
    kind = rng.choice(("RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED ", "PGP "))
    block = " BLOCK" if kind == "PGP " else ""
    width, lines = (70 if kind == "OPENSSH " else 64), rng.randint(2, 26)
    body = [some(rng, BASE64, width) for _ in range(lines)] + [some(rng, BASE64, rng.randint(4, 60)) + "=="]
    head = []
    if kind == "RSA " and rng.random() < 0.3:
        head = ["Proc-Type: 4,ENCRYPTED", f"DEK-Info: AES-128-CBC,{some(rng, UPPER + DIGITS, 32)}", ""]
    if kind == "PGP ":
        head = ["Version: GnuPG v2", ""]
    dashes = "-" * 5
    ends = [f"{dashes}{word} {kind}PRIVATE KEY{block}{dashes}" for word in ("BEGIN", "END")]
    text = "\n".join([ends[0], *head, *body, ends[1]])
    return text.replace("\n", "\\n") if rng.random() < 0.3 else text


def _jwt(rng: Random) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    head = {"alg": rng.choice(("HS256", "RS256", "ES256")), "typ": "JWT", "kid": some(rng, HEX, rng.choice((0, 8, 32)))}
    body = {"sub": some(rng, DIGITS, 10), "iat": rng.randint(10**9, 2 * 10**9), "scope": "read write"}
    return f"{part(head)}.{part(body)}.{some(rng, WORD, rng.choice((43, 342)))}"


def _tenantry(rng: Random) -> str:
    return "t" + "k-" + base64.urlsafe_b64encode(rng.randbytes(32)).decode().rstrip("=")


def _luhn(digits: str) -> str:
    """With its check digit (ISO/IEC 7812-1), counted here in another way than the guard does."""
    doubled = "0246813579"
    total = sum(int(doubled[int(d)] if (len(digits) - i) % 2 else d) for i, d in enumerate(digits))
    return digits + str(-total % 10)


def _card(rng: Random) -> str:
    prefix = rng.choice(("4", "51", "55", "2221", "2720", "34", "37", "6011", "644", "65", "36", "305", "3530", "62"))
    size = {"34": 15, "37": 15, "36": 14, "305": 14}.get(prefix, 16)
    digits = _luhn(prefix + some(rng, DIGITS, size - len(prefix) - 1))
    separator = rng.choice(("", " ", "-"))
    groups = {16: (4, 8, 12, 16), 15: (4, 10, 15), 14: (4, 10, 14)}[size]
    return separator.join(digits[a:b] for a, b in zip((0, *groups), groups, strict=False))


def _password(rng: Random, symbols: str = "!@#$%^*-_+=?.~") -> str:
    """As people choose them, and as managers of passwords do."""
    if rng.random() < 0.4:
        word = rng.choice(("Summer", "winter", "Dragon", "hunter", "Monkey", "Berlin", "qwerty", "Phoenix"))
        return word + rng.choice(("2024", "99", "1", "123")) + rng.choice(("!", "", "#", "?!"))
    while True:
        made = some(rng, ALNUM + symbols, rng.randint(8, 24))
        if any(c in DIGITS for c in made) and any(c.isalpha() for c in made):
            return made


MADE: dict[str, Callable[[Random], str]] = {
    "anthropic": _anthropic,
    "aws": _aws,
    "azure": _azure,
    "card number": _card,
    "databricks": _databricks,
    "digitalocean": _digitalocean,
    "discord": _discord,
    "gcp": _gcp,
    "github": _github,
    "gitlab": _gitlab,
    "huggingface": _huggingface,
    "jwt": _jwt,
    "mailgun": _mailgun,
    "npm": _npm,
    "openai": _openai,
    "private key": _private_key,
    "pypi": _pypi,
    "sendgrid": _sendgrid,
    "slack": _slack,
    "stripe": _stripe,
    "telegram": _telegram,
    "tenantry": _tenantry,
    "twilio": _twilio,
}
"""By maker or kind: secrets that are known by themselves, wherever they stand."""

AROUND = (
    "{}",
    "My key is {}. What is wrong with it?",
    "Bitte prüfe ({}) für mich – danke!",
    "鍵は{}です。",
    "KEY={}\n",
    'const key = "{}";',
    "curl -H 'X-Key: {}' https://api.example.com/v1/things",
    '{{"key": "{}", "id": 17}}',
    '"first line\\n{}\\nlast line"',
    "it starts here:\n\n    {}\n\nand there it ends",
    "`{}`, <b>{}</b>",
    "[2026-11-22 10:01:02] ERROR refused: {}",
)

PASSWORDS = (
    ("password={}", False),
    ("password: {}\n", False),
    ("DB_PASSWORD={}\nDB_HOST=db1", False),
    ("PGPASSWORD={} psql -h db1", False),
    ("Server=db1;User Id=app;Password={};Encrypt=true", False),
    ("https://example.com/login?user=ann&password={}&next=2", False),
    ("spring.datasource.password = {}", False),
    ("run it with --password={} and --verbose", False),
    ("<password>{}</password>", False),
    ("Login: ann\nPasswort/password: {}\n", False),
    ('password = "{}"', True),
    ("'passwd' => '{}',", True),
    ('{{"user": "ann", "password": "{}"}}', True),
    ('{{\\"user\\": \\"ann\\", \\"password\\": \\"{}\\"}}', True),
    ('connect(host="db1", password="{}")', True),
    ('passphrase: "{}"', True),
    ("$pwd = '{}';", True),
)
"""What stands around a password, and whether quotes end it."""

SAID = (
    "The password is {}.",
    "My password is {}, but it does not work",
    "the password is {} and the user is ann",
    "For the shop's database the password is still {}",
    'Its password is "{}".',
    "The new passphrase is `{}` (please keep it)",
    "The password is now **{}**.",
    "Hi Bob,\nthe root password was {}\nCheers",
    "PASSWORD IS {}",
    "pwd is {}",
    "The password is: {}",
    "Das Passwort ist {}.",
    "Passwort: {}",
    "pwd: {}",
)
"""Sentences that tell one, as people write them."""

TOKENS = (
    "aws_secret_access_key = {}",
    "AWS_SECRET_ACCESS_KEY={}\n",
    '"SecretAccessKey": "{}"',
    "client_secret: {}",
    'api_key="{}"',
    'const apiKey = "{}";',
    "X-Api-Key: {}",
    "Authorization: Bearer {}",
    '"access_token": "{}", "expires_in": 3600',
)

ADDRESSES = (
    "postgres://app:{}@db1:5432/shop",
    "postgresql://app:{}@10.0.0.5/shop?sslmode=require",
    "mysql://root:{}@mysql.internal:3306/crm",
    "mongodb+srv://svc:{}@cluster0.ab1cd.mongodb.net/?retryWrites=true",
    "redis://:{}@cache:6379/0",
    "amqp://guest:{}@rabbit//",
    "https://ann:{}@git.example.com/repo.git",
)


def samples(seed: int, each: int) -> list[tuple[str, str, str]]:
    """(kind, secret, text that holds it): `each` of every kind."""
    rng = random.Random(seed)
    made = []
    for kind, make in MADE.items():
        for _ in range(each):
            secret = make(rng)
            made.append((kind, secret, rng.choice(AROUND).replace("{{", "{").replace("}}", "}").replace("{}", secret)))
    for _ in range(2 * each):
        around, quoted = rng.choice(PASSWORDS)
        secret = _password(rng, "!@#$%^*-_+=?.~&;,()/|<> "[: -1 if quoted else 14])
        made.append(("password", secret, around.replace("{{", "{").replace("}}", "}").replace("{}", secret)))
    for _ in range(each):
        secret = _azure_storage(rng)
        text = f"DefaultEndpointsProtocol=https;AccountName=shop;AccountKey={secret};EndpointSuffix=core.windows.net"
        made.append(("azure storage", secret, text))
        secret = _aws_secret(rng) if rng.random() < 0.5 else some(rng, ALNUM, rng.randint(24, 48))
        made.append(("token by name", secret, rng.choice(TOKENS).replace("{}", secret)))
        secret = _password(rng, "!@#$%^*-_+=?~&")
        made.append(("password in a sentence", secret, rng.choice(SAID).replace("{}", secret)))
        secret = base64.b64encode(f"ann:{_password(rng)}".encode()).decode()
        made.append(("basic authentication", secret, f"curl -H 'Authorization: Basic {secret}' https://example.com"))
        secret = some(rng, ALNUM + "!$%^*-_+=.~", rng.randint(8, 24))
        made.append(("connection string", secret, rng.choice(ADDRESSES).replace("{}", secret)))
    return made
