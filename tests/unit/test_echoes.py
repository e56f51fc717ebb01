from tenantry.backends.echoes import Echoes
from tenantry.backends.kinds import NAMESPACE

KEY = ("Namespace", "", "tenant-acme")


def event(version: int, name: str = "tenant-acme"):
    meta = {"name": name, "resourceVersion": str(version)}
    return {"type": "MODIFIED", "object": {"apiVersion": "v1", "kind": "Namespace", "metadata": meta}}


def test_what_is_said_during_a_write_is_told_again_after_its_answer():
    echoes, told = Echoes(), []
    echoes.replay = lambda kind, event: told.append(event)
    assert not echoes.defers(NAMESPACE, event(1))
    with echoes.writing(KEY):
        with echoes.writing(KEY):
            assert echoes.defers(NAMESPACE, event(2))
        assert told == [], "another write of it is still under way"
        assert echoes.defers(NAMESPACE, event(3))
        assert not echoes.defers(NAMESPACE, event(4, "tenant-globex"))
    assert told == [event(2), event(3)]
    assert not echoes.defers(NAMESPACE, event(5))


def test_a_write_that_fails_loses_nothing_that_was_said():
    echoes, told = Echoes(), []
    echoes.replay = lambda kind, event: told.append(event)
    try:
        with echoes.writing(KEY):
            echoes.defers(NAMESPACE, event(2))
            raise OSError
    except OSError:
        pass
    assert told == [event(2)]


def test_a_flood_is_cut_to_the_newest():
    echoes, told = Echoes(), []
    echoes.replay = lambda kind, event: told.append(event)
    with echoes.writing(KEY):
        for version in range(100):
            echoes.defers(NAMESPACE, event(version))
    assert told[-1] == event(99)
    assert len(told) < 50
