"""Agents that share Python objects, and the lock that protects them."""

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pymodel.effects import Load, Store
from pymodel.explore import Exploration, RwLock, World, explore, freeze
from pymodel.memory import SparseMem

X, Y = 0x100, 0x108


@dataclass(frozen=True)
class Take:
    write: bool


@dataclass(frozen=True)
class Release:
    write: bool


LOCK = RwLock("lock", Take, Release, lambda effect: effect.write)


@dataclass
class Shared:
    sequence: int = 0
    in_progress: int = 0
    names: list[str] = field(default_factory=list)


def fault(shared: Shared, check: bool) -> Generator[Any, Any, str]:
    """A fault handler that looks a page up without the lock and installs it with it (facts C1.5, C2)."""
    before = shared.sequence
    page = yield Load(X)
    yield Take(False)
    if check and (shared.in_progress or shared.sequence != before):
        yield Release(False)
        return "retry"
    yield Store(Y, page)
    yield Release(False)
    return "installed"


def notifier(shared: Shared) -> Generator[Any, Any, None]:
    """The page goes away: its entry is zapped under the lock, the host lets go of it, the sequence is counted."""
    yield Take(True)
    shared.in_progress += 1
    yield Store(Y, 0)
    yield Release(True)
    yield Store(X, 0)
    yield Take(True)
    shared.sequence += 1
    shared.in_progress -= 1
    yield Release(True)


def race(check: bool, reduce: bool) -> Exploration:
    def make() -> World:
        shared = Shared()
        return World({"fault": fault(shared, check), "notifier": notifier(shared)}, shared)

    return explore(make, SparseMem({X: 7}), (LOCK,), reduce=reduce, observe={"installed": Y})


@pytest.mark.parametrize("reduce", [False, True], ids=["plain", "reduced"])
def test_sequence_check_keeps_a_dead_page_out(reduce: bool) -> None:
    """With the check the dead page is never installed after the zap; without it, it is."""
    sound, broken = race(True, reduce), race(False, reduce)
    assert {outcome.values[0] for outcome in sound.outcomes} == {"retry", "installed"}
    assert not any(outcome.word("installed") for outcome in sound.outcomes)
    assert any(outcome.word("installed") == 7 for outcome in broken.outcomes)


def random_world(seed: int) -> tuple[Any, SparseMem]:
    plans = []
    rng = random.Random(seed)
    for _ in range(rng.choice((2, 2, 2, 3))):
        plans.append([(rng.choice("LSRWTX"), rng.choice((X, Y)), rng.randrange(3)) for _ in range(rng.randrange(1, 4))])

    def agent(shared: Shared, plan: list[tuple[str, int, int]]) -> Generator[Any, Any, tuple[int, ...]]:
        seen = []
        for kind, address, value in plan:
            if kind == "L":
                seen.append((yield Load(address)))
            elif kind == "S":
                yield Store(address, value + shared.sequence)
            elif kind == "R":
                seen.append(shared.sequence)
            elif kind == "W":
                shared.sequence = value
            elif kind == "T":
                yield Take(value == 0)
                shared.sequence += 1
                yield Store(address, shared.sequence)
                yield Release(value == 0)
            elif len(shared.names) < 2:
                shared.names.append(str(value))
        return tuple(seen)

    def make() -> World:
        shared = Shared()
        return World({f"a{number}": agent(shared, plan) for number, plan in enumerate(plans)}, shared)

    return make, SparseMem({X: 1})


def test_reduction_agrees_with_plain_enumeration() -> None:
    """100 random worlds: same outcomes, schedules of the same length, fewer moves."""
    plain_moves = reduced_moves = 0
    for seed in range(100):
        make, memory = random_world(seed)
        plain = explore(make, memory, (LOCK,), reduce=False, observe={"x": X, "y": Y})
        reduced = explore(make, memory, (LOCK,), observe={"x": X, "y": Y})
        assert {outcome: len(plain.outcomes[outcome]) for outcome in plain.outcomes} == {
            outcome: len(reduced.outcomes[outcome]) for outcome in reduced.outcomes
        }, seed
        plain_moves += plain.transitions
        reduced_moves += reduced.transitions
    assert reduced_moves < plain_moves


def test_lock_excludes_and_refuses_misuse() -> None:
    """Writers exclude all, readers exclude writers; only the holder gives back."""

    def holder(write: bool):
        def agent() -> Generator[Any, Any, tuple[int, int]]:
            yield Take(write)
            before = yield Load(X)
            yield Store(X, before + 1)
            after = yield Load(X)
            yield Release(write)
            return before, after

        return agent

    found = explore({"a": holder(True), "b": holder(True)}, SparseMem(), (LOCK,))
    assert {outcome.values for outcome in found.outcomes} == {((0, 1), (1, 2)), ((1, 2), (0, 1))}
    found = explore({"a": holder(False), "b": holder(False)}, SparseMem(), (LOCK,))
    assert ((0, 1), (0, 1)) in {outcome.values for outcome in found.outcomes}

    def thief() -> Generator[Any, Any, None]:
        yield Release(True)

    with pytest.raises(ValueError, match="which it does not hold"):
        explore({"a": thief}, SparseMem(), (LOCK,))


def test_world_that_remembers_is_refused() -> None:
    """A world must be made anew each time."""
    leaked = Shared()

    def make() -> World:
        return World({"a": notifier(leaked), "b": notifier(leaked)}, leaked)

    with pytest.raises(ValueError, match="a replay led elsewhere"):
        explore(make, SparseMem(), (LOCK,))


def test_freeze_sees_all_state() -> None:
    """Equal pictures for equal states; aliasing, bound methods and closures count; generators are refused."""

    class Pool:
        def __init__(self) -> None:
            self.next = 0

        def allocate(self) -> int:
            self.next += 1
            return self.next

    one, other = Pool(), Pool()
    assert freeze(one.allocate) == freeze(other.allocate)
    one.allocate()
    assert freeze(one.allocate) != freeze(other.allocate)
    assert freeze(lambda: one.next) != freeze(lambda: other.next)
    assert freeze({"a": [1, {2, 3}, (4,)]}) == freeze({"a": [1, {3, 2}, (4,)]})
    assert freeze([one, one]) != freeze([one, Pool()])
    assert freeze([Shared(1), Shared(1)]) != freeze([Shared(1), Shared(2)])
    loop: list[Any] = []
    loop.append(loop)
    assert hash(freeze(loop)) == hash(freeze(loop))
    for hidden in (iter([1]), (number for number in [1])):
        with pytest.raises(TypeError, match="cannot be seen"):
            freeze(hidden)
