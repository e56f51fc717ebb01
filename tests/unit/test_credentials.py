"""Derived credentials: the same again, each of its own, and never shown."""

import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.credentials import MASTER_BYTES, Credentials, new_master

UID = str(uuid.UUID(int=1))
OTHER = str(uuid.UUID(int=2))
MAKERS: list[Callable[[Credentials, str], str]] = [
    lambda c, uid: c.tenant_postgres(uid),
    lambda c, uid: c.runtime_postgres(uid),
    lambda c, uid: c.runtime_postgres(uid, 1),
    lambda c, uid: c.runtime_postgres(uid, 2),
    lambda c, uid: c.milvus(uid),
    lambda c, uid: c.milvus(uid, 1),
    lambda c, uid: c.milvus(uid, 2),
    lambda c, uid: c.shared_milvus(uid, "a"),
    lambda c, uid: c.shared_milvus(uid, "b"),
    lambda c, uid: c.shared_milvus(uid, "b", 1),
    lambda c, uid: c.access_key(uid),
    lambda c, uid: c.access_key(uid, 1),
]


def test_no_two_are_the_same() -> None:
    masters = [Credentials(bytes([n]) * MASTER_BYTES) for n in (1, 2)]
    made = [make(c, uid).removeprefix("tk-") for c in masters for uid in (UID, OTHER) for make in MAKERS]
    assert len(set(made)) == len(made) == 2 * 2 * len(MAKERS)


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_again(make: Callable[[Credentials, str], str]) -> None:
    master = new_master()
    assert make(Credentials(master), UID) == make(Credentials(master), UID)


def test_they_stay_the_same_from_one_release_to_the_next() -> None:
    """If this fails, every running installation would lose its passwords at the next upgrade."""
    fixed = Credentials(bytes(range(MASTER_BYTES)))
    assert fixed.tenant_postgres(UID) == "Wf3jlofb6FAX4ogWNIB-FaCkuFxW-NE49nuDm5NjObM"
    assert fixed.access_key(UID) == "tk-XXnqWGLNpu0oNLbpEUky12iyR8JIDQkFvXdu90VCb0M"


@given(st.integers(0, 999_999_999))
def test_each_has_256_bits_and_only_letters_digits_and_two_signs(generation: int) -> None:
    key = Credentials(bytes(MASTER_BYTES)).access_key(UID, generation)
    assert key.startswith("tk-")
    assert len(key) == 3 + 43
    assert key[3:].replace("-", "").replace("_", "").isalnum()
    assert key.isascii()


def test_nothing_shows_the_secret() -> None:
    master = new_master()
    made = Credentials(master)
    assert repr(master) not in repr(made)
    assert "master" not in str(made)


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Credentials(b"x" * (MASTER_BYTES - 1))
    assert len(new_master()) == MASTER_BYTES
