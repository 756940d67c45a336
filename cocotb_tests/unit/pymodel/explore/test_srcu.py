"""Sleepable RCU: who synchronizes waits for the readers of before, and for no others."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import pytest

from pymodel.effects import Load, Store, WaitFor
from pymodel.explore import Exploration, Srcu, explore
from pymodel.memory import SparseMem

Body = Generator[Any, Any, Any]
VALID, FREED, GO = 0x100, 0x108, 0x110


@dataclass(frozen=True)
class Enter:
    pass


@dataclass(frozen=True)
class Leave:
    pass


@dataclass(frozen=True)
class Synchronize:
    pass


SRCU = Srcu("srcu", Enter, Leave, Synchronize)


def reader() -> Body:
    """Looks whether the object is valid, then uses it."""
    yield Enter()
    valid = yield Load(VALID)
    freed = (yield Load(FREED)) if valid else 0
    yield Leave()
    return freed


def writer(waits: bool) -> Body:
    yield Store(VALID, 0)
    if waits:
        yield Synchronize()
    yield Store(FREED, 1)


def race(waits: bool, readers: int = 1, reduce: bool = True) -> Exploration:
    agents = {"writer": lambda: writer(waits)} | {f"r{number}": reader for number in range(readers)}
    return explore(agents, SparseMem({VALID: 1}), (SRCU,), reduce=reduce)


@pytest.mark.parametrize("reduce", [False, True], ids=["plain", "reduced"])
@pytest.mark.parametrize("readers", [1, 2])
def test_nothing_is_freed_under_a_reader(readers: int, reduce: bool) -> None:
    """With the wait no reader of the valid object sees it freed; without, one does. Nobody waits forever."""
    sound, broken = race(True, readers, reduce), race(False, readers, reduce)
    assert not any(any(outcome.values[1:]) for outcome in sound.outcomes)
    assert not any(outcome.stuck for outcome in sound.outcomes)
    assert any(any(outcome.values[1:]) for outcome in broken.outcomes)


def test_later_readers_are_not_waited_for() -> None:
    """A reader that enters after the wait began may stay for as long as it likes."""

    def early() -> Body:
        yield Enter()
        yield Store(GO, 1)
        yield Leave()

    def late() -> Body:
        yield WaitFor(GO, 1, 1)
        yield Enter()
        yield WaitFor(FREED, 1, 1)
        yield Leave()

    def waiting() -> Body:
        yield WaitFor(GO, 1, 1)
        yield Synchronize()
        yield Store(FREED, 1)

    found = explore({"early": early, "late": late, "writer": waiting}, SparseMem(), (SRCU,))
    assert any(not outcome.stuck for outcome in found.outcomes), "the late reader came behind the wait"
    assert any(set(outcome.stuck) == {"late", "writer"} for outcome in found.outcomes), "or before it"


def test_misuse_is_refused() -> None:
    """Entering twice and leaving without having entered."""

    def twice() -> Body:
        yield Enter()
        yield Enter()

    def thief() -> Body:
        yield Leave()

    for agent in (twice, thief):
        with pytest.raises(ValueError, match="must enter srcu once and leave it once"):
            explore({"a": agent}, SparseMem(), (SRCU,))
