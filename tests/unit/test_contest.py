"""When putting back becomes a fight, how it slows down, and when it is over."""

import itertools

import pytest

from tenantry.api import Reason
from tenantry.backends import contest
from tenantry.backends.contest import Contests
from tenantry.backends.errors import BackendError

KEY = ("ResourceQuota", "tenant-acme", "quota")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def fight(contests: Contests, clock: Clock) -> BackendError:
    for _ in range(contest.CORRECTIONS - 1):
        contests.before(KEY)
        contests.corrected(KEY, "'meddler'")
        clock.now += 1
    assert contests.near(KEY)
    with pytest.raises(BackendError) as caught:
        contests.corrected(KEY, "'meddler'")
    return caught.value


def test_a_few_corrections_are_no_fight_and_are_forgotten():
    clock = Clock()
    contests = Contests(clock)
    for _ in range(3 * contest.CORRECTIONS):
        contests.before(KEY)
        contests.corrected(KEY)
        contests.held(KEY)
        clock.now += contest.WINDOW_SECONDS / 3


def test_a_fight_names_object_and_other_and_counts_what_was_put_back():
    error = fight(Contests(clock := Clock()), clock)
    assert error.reason is Reason.CONTESTED
    assert not error.final
    assert "ResourceQuota tenant-acme/quota" in error.message
    assert "'meddler'" in error.message
    assert len(error.corrected) == 1


def test_a_fight_slows_down_and_its_message_stays_the_same():
    clock = Clock()
    contests = Contests(clock)
    said = {fight(contests, clock).message}
    allowed: list[float] = []
    for _ in range(1200):
        clock.now += 1
        try:
            contests.before(KEY)
        except BackendError as error:
            said.add(error.message)
            continue
        allowed.append(clock.now)
        with pytest.raises(BackendError):
            contests.corrected(KEY)
    pauses = [b - a for a, b in itertools.pairwise(allowed)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == contest.LONGEST_PAUSE_SECONDS
    assert len(allowed) < 15
    assert len(said) == 1, "each other message would be a write"


def test_a_fight_is_over_when_nobody_changes_it_back():
    clock = Clock()
    contests = Contests(clock)
    fight(contests, clock)
    clock.now += contest.QUIET_SECONDS - 1
    with pytest.raises(BackendError):
        contests.held(KEY)
    clock.now += 2
    contests.held(KEY)
    contests.before(KEY)
    contests.corrected(KEY)  # the count starts anew


def test_who_wrote_last_is_taken_from_the_managed_fields():
    fields = [
        {"manager": "tenantry", "operation": "Apply", "time": "2026-11-22T10:00:09Z"},
        {"manager": "early", "operation": "Update", "time": "2026-11-22T10:00:01Z"},
        {"manager": "late", "operation": "Update", "time": "2026-11-22T10:00:05Z"},
        {"manager": "status", "operation": "Update", "time": "2026-11-22T10:00:08Z", "subresource": "status"},
    ]
    assert contest.other({"metadata": {"managedFields": fields}}) == "'late'"
    assert contest.other({"metadata": {"managedFields": fields[:1]}}) == ""
    assert contest.other({"metadata": {}}) == ""
