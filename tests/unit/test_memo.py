from tenantry.memo import Memo


def test_what_was_noted_holds_for_a_time_and_for_what_was_asked():
    now = [0.0]
    memo = Memo(10, lambda: now[0])
    assert not memo.holds("a", "secret", "1")
    memo.note("a", "secret", "1")
    assert memo.holds("a", "secret", "1")
    assert not memo.holds("a", "secret", "2")
    assert not memo.holds("a", "rows", "1")
    assert not memo.holds("b", "secret", "1")
    now[0] = 10
    assert not memo.holds("a", "secret", "1")
    assert memo.held("a", "secret", "1"), "if it differs now, somebody else changed it"
    assert not memo.held("a", "secret", "2")


def test_all_of_one_is_forgotten_and_nothing_of_another():
    memo = Memo(10)
    for uid in ("a", "b"):
        memo.note(uid, "secret", "1")
        memo.note(uid, "rows", "1")
    memo.forget("a")
    memo.forget("never there")
    assert not memo.knows("a", "rows")
    assert not memo.held("a", "secret", "1")
    assert memo.holds("b", "rows", "1")
