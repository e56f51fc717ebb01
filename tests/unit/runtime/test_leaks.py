"""The leak guard's detector: what it finds in the corpus, and that cutting a text in pieces changes nothing."""

import itertools
import random
import time
from collections import Counter, defaultdict

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenantry_runtime.config import leak_hash
from tenantry_runtime.leaks import (
    FOREIGN_TENANT,
    KINDS,
    Detector,
    Identifiers,
    Policies,
    Window,
    apply,
    assignments,
    cards,
    rules,
)
from tenantry_runtime.leaks.detector import LONGEST_RUN
from tests.corpus import clean, secrets

SEED = 20261122
REDACT = Policies("Redact", "Redact")
KEY = b"a region's key, 32 bytes of it.."
FOREIGN = ("tenant-umbrella", "tenant_umbrella", "runtime-umbrella", "6f1c2d3e4a5b4c6d8e7f001122334455", "zeus-9")


def identifiers(*names: str) -> Identifiers:
    return Identifiers(KEY, {len(name) for name in names}, b"".join(leak_hash(KEY, name) for name in names))


DETECTOR = Detector(identifiers(*FOREIGN))


def whole(text: str, policies: Policies = REDACT) -> str:
    return apply(DETECTOR, text, policies).text


def in_pieces(text: str, cuts: list[int], policies: Policies = REDACT) -> tuple[str, Window]:
    window = Window(DETECTOR, policies)
    edges = [0, *sorted({cut % (len(text) + 1) for cut in cuts}), len(text)]
    out = "".join(window.feed(text[a:b]) for a, b in itertools.pairwise(edges))
    return out + window.finish(), window


def test_recall_by_kind() -> None:
    print(f"seed {SEED}")
    asked, met = Counter[str](), Counter[str]()
    for kind, secret, text in secrets.samples(SEED, 60):
        asked[kind] += 1
        met[kind] += secret not in whole(text)
    for kind in asked:
        print(f"{kind:20} {met[kind]:4} of {asked[kind]:4}  {met[kind] / asked[kind]:.1%}")
    assert len(secrets.MADE) >= 20
    assert met.total() >= 0.95 * asked.total()
    assert all(met[kind] >= 0.9 * asked[kind] for kind in asked)


def test_false_positives_by_kind() -> None:
    print(f"seed {SEED}")
    texts = clean.samples(SEED, 4000) + clean.library()
    wrong: defaultdict[str, list[str]] = defaultdict(list)
    for text in texts:
        for finding in DETECTOR.find(text)[0][:1]:
            wrong[finding.kind].append(text[finding.start : finding.end])
    for kind in KINDS:
        print(f"{kind:20} {len(wrong[kind]):4} of {len(texts)}  {len(wrong[kind]) / len(texts):.3%}  {wrong[kind][:3]}")
    assert sum(map(len, wrong.values())) <= 0.001 * len(texts)


PIECES = st.sampled_from(
    [
        *(begin for rule in rules.RULES for begin in rule.begins),
        *("the password is ", "pwd was now ", " is ", "set to ", "**", "Tr0ub4dor&3", "my api key is: "),
        *("password=", "password: '", '"api_key": "', "secret_key = ", "://u:", "@", "@h", "Bearer ", "Q~", ":AA"),
        *("4111 1111 1111 1111", "4111", " 1111", "-1111", "378282246310005", "3782 822463 10005", "305", "-----"),
        *(
            "\\n",
            "\\u000a",
            "\\",
            "\n",
            " ",
            "_",
            "__",
            ".",
            ",",
            "'",
            '"',
            "=",
            ":",
            "é",
            "你好",
            "👩‍👩‍👧",
            "\u0301",
            "İ",
            "K",
        ),
        *FOREIGN,
        *(
            "tenant",
            "-umbrella",
            "TENANT-UMBRELLA",
            "zeus",
            "-9",
            "A" * 16,
            "a1b2c3d4" * 4,
            "aB3dE5gH7jK9" * 3,
            "0" * 33,
            "x" * 95,
        ),
        *(example[1] for example in secrets.samples(SEED, 1)),
    ]
)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=6)), max_size=12).map("".join)
CUTS = st.lists(st.integers(0, 10_000), max_size=30)


@settings(max_examples=300, deadline=None)
@given(TEXTS, CUTS)
@example("x" * 95 + "_sk-" + "a1b2c3d4e5" * 4, [96, 97, 98])
@example("password=" * 700 + "zeus-9", list(range(0, 7000, 500)))
@example("eyJhbGciOiJIUzI1NiJ9." * 300, list(range(0, 7000, 700)))
@example("the password is now set to: **Tr0ub4dor&3**. It is new", list(range(60)))
@example("the password is now", [3, 12, 15, 16])
@example("a password: hunter2 and 4111 1111 1111 1111", list(range(60)))
def test_every_cutting_gives_the_same_text_and_the_same_findings(text: str, cuts: list[int]) -> None:
    together = apply(DETECTOR, text, REDACT)
    out, window = in_pieces(text, cuts)
    assert out == together.text
    assert window.found == together.found
    if len(text) < 1000:
        one_by_one, window = in_pieces(text, list(range(len(text))))
        assert one_by_one == together.text
        assert window.found == together.found


@settings(max_examples=200, deadline=None)
@given(TEXTS, CUTS)
def test_a_block_lets_the_same_text_out_for_every_cutting(text: str, cuts: list[int]) -> None:
    policies = Policies("Block", "Redact")
    together = apply(DETECTOR, text, policies)
    out, window = in_pieces(text, cuts, policies)
    assert (out, window.blocked) == (together.text, together.blocked)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300), CUTS)
def test_text_without_a_finding_stays_as_it_is(text: str, cuts: list[int]) -> None:
    if not DETECTOR.find(text)[0]:
        assert in_pieces(text, cuts)[0] == text


def test_the_corpus_in_pieces() -> None:
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    texts = [text for _, _, text in secrets.samples(SEED, 8)] + clean.samples(SEED, 200)
    rng.shuffle(texts)
    for text in texts:
        cuts = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.choice((1, 5, 40)))))
        assert in_pieces(text, cuts)[0] == whole(text)
    for text in clean.SENTENCES:
        assert in_pieces(text, list(range(len(text))))[0] == text


def test_no_more_is_held_back_than_may_still_become_a_match() -> None:
    for text in (*clean.SENTENCES, "x" * 500, "a b " * 100, "4 " * 50, "- " * 40):
        window = Window(DETECTOR, REDACT)
        for at, character in enumerate(text):
            window.feed(character)
            word = len(text[: at + 1]) - max(text.rfind(" ", 0, at + 1), text.rfind("\n", 0, at + 1))
            assert window.held <= min(word + 40, LONGEST_RUN + 40), text[: at + 1]
    window = Window(DETECTOR, REDACT)
    assert window.feed("Hello, this is plain ") == "Hello, this is plain "
    assert window.feed("prose ") == "prose "
    assert window.feed("tenant-umb") == ""
    assert window.feed("ria") == ""
    assert window.feed(".") == "tenant-umbria."


@pytest.mark.parametrize(
    "text",
    [
        "sk-" * 70_000,
        "sk-ant-" * 30_000,
        "eyJ" * 70_000,
        "eyJaaaaaaaaaaaaaa.aaaaaaaa." * 8_000,
        "-----BEGIN RSA PRIVATE KEY-----" * 6_500,
        "-----BEGIN RSA PRIVATE KEY-----" + "A" * 200_000,
        "-----BEGIN PRIVATE KEY-----\n" + ("A" * 64 + "\n") * 3_000,
        "password=" * 22_000,
        "the password is " * 12_000,
        "the key is now set to " * 9_000,
        "secret=1" * 25_000,
        "secret_key: '" * 15_000,
        "password" + " " * 200_000 + "=",
        "://" * 66_000,
        "://a:" * 40_000,
        "://" + "a" * 200_000,
        "://u:p" + "@" * 200_000,
        "4111 " * 40_000,
        "4" * 200_000,
        "1234567890:AA" * 15_000,
        "aaa1Q~" * 33_000,
        "MTIz" * 50_000,
        "_" * 200_000,
        "\\n" * 100_000,
        "tenant-" * 28_000,
        " ".join(f"tenant-{number}" for number in range(15_000)),
        "SG." + "a" * 16 + "." * 180_000,
        "你" * 200_000,
    ],
    ids=lambda text: text[:20].encode("unicode_escape").decode(),
)
def test_no_text_takes_longer_than_its_length(text: str) -> None:
    """Anything that goes back over a text again and again would take minutes."""
    text = text[:100_000]
    began = time.process_time()
    out = whole(text)
    window = Window(DETECTOR, REDACT)
    pieces = "".join(window.feed(text[at : at + 1000]) for at in range(0, len(text), 1000)) + window.finish()
    assert pieces == out
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    "text",
    [
        "see tenant-umbrella for more",
        "TENANT-Umbrella",
        "tenant-umbrella.svc.cluster.local",
        "**__tenant-umbrella__**",
        "SELECT * FROM tenant_umbrella.orders",
        '{"a": "x\\ntenant-umbrella"}',
        '"\\u000atenant-umbrella"',
        "テナントtenant-umbrellaです",
        "6F1C2D3E4A5B4C6D8E7F001122334455",
        "(zeus-9)",
    ],
)
def test_another_tenants_identifier_is_found(text: str) -> None:
    found = apply(DETECTOR, text, Policies())
    assert found.found == {FOREIGN_TENANT: 1}
    assert found.blocked == FOREIGN_TENANT
    redacted = whole(text)
    assert "[redacted]" in redacted
    assert "umbrella" not in redacted.lower()


@pytest.mark.parametrize("text", ["umbrella", "tenant-umbrellas", "my-tenant-umbrella-x", "zeus 9", "ntenant-umbrella"])
def test_what_only_looks_like_an_identifier_is_not_one(text: str) -> None:
    assert not DETECTOR.find(text)[0]
    assert not DETECTOR.find(text)[0]  # nor when the words are known


def test_a_word_known_to_be_clean_is_still_looked_at_behind_a_backslash() -> None:
    detector = Detector(identifiers("tenant-umbrella"))
    assert not detector.find("ntenant-umbrella")[0]
    assert detector.find("\\ntenant-umbrella")[0]


def test_policies() -> None:
    key = "AK" + "IA" + "Q3R5S7T2V4W6X3Y5"
    text = f"tenant-umbrella uses {key}."
    assert apply(DETECTOR, text, Policies("Warn", "Warn")).text == text
    assert apply(DETECTOR, text, Policies("Warn", "Redact")).text == "tenant-umbrella uses [redacted]."
    assert apply(DETECTOR, text, Policies("Redact", "Warn")).text == f"[redacted] uses {key}."
    blocked = apply(DETECTOR, text, Policies("Warn", "Block"))
    assert (blocked.text, blocked.blocked) == ("tenant-umbrella uses ", "aws_key")
    assert blocked.found == {"aws_key": 1, FOREIGN_TENANT: 1}


@given(st.text("0123456789", min_size=11, max_size=18))
def test_one_wrong_digit_breaks_a_check_digit(digits: str) -> None:
    (right,) = (digit for digit in "0123456789" if cards.luhn(digits + digit))
    number = digits + right
    for at in range(len(number)):
        other = str((int(number[at]) + 1) % 10)
        assert not cards.luhn(number[:at] + other + number[at + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the check digit
        "9111 1111 1111 1111",  # no issuer
        "DE89 4111 1111 1111 1111 00",
        "0.4111111111111111",
        "+4111111111111111",
        "x4111111111111111",
        "4111-1111 1111-1111",
        "411 1111 1111 1111 1",
    ],
)
def test_what_is_no_card_number(text: str) -> None:
    assert not DETECTOR.find(text)[0]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("4111 1111 1111 1111 12/27 123", "[redacted] 12/27 123"),
        ("postgres://app:p@ss4word@db/x", "postgres://app:[redacted]@db/x"),
        ("password = 'Summer2024!' # was: x", "password = '[redacted]' # was: x"),
        ("Authorization: Bearer " + "a1B2c3D4" * 4, "Authorization: Bearer [redacted]"),
        ("the password is Tr0ub4dor&3.", "the password is [redacted]."),
        ("pwd: hunter2!", "pwd: [redacted]"),
        ("The password is now **hunter2**, Bob", "The password is now **[redacted]**, Bob"),
        (
            'Is "Summer2024!" right? The password was "Summer2024!"',
            'Is "Summer2024!" right? The password was "[redacted]"',
        ),
        ("my API key is " + "a1B2c3D4" * 4 + ".", "my API key is [redacted]."),
    ],
)
def test_only_the_secret_is_taken_out(text: str, left: str) -> None:
    assert whole(text) == left


def test_kinds_are_those_of_the_rules() -> None:
    made = (
        {rule.kind for rule in rules.RULES} | {led.kind for led in rules.LED} | {kind for kind, _ in rules.WHOLE_RUNS}
    )
    assert made | {"card_number", "connection_string", "discord_token", "password", FOREIGN_TENANT} == set(KINDS)
    assert assignments.STEMS
