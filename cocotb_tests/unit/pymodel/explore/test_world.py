"""Agents that share Python objects, and the lock that protects them."""

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from pymodel.effects import Load, Store
from pymodel.explore import Exploration, RwLock, StateView, World, explore
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


def test_shared_state_of_another_picture() -> None:
    """A world may say itself how to picture what it shares."""

    def run(picture: Any) -> Exploration:
        def make() -> World:
            shared = Shared()
            return World({"fault": fault(shared, True), "notifier": notifier(shared)}, shared, picture)

        return explore(make, SparseMem({X: 7}), (LOCK,), observe={"installed": Y})

    good = run(lambda shared: (shared.sequence, shared.in_progress, tuple(shared.names)))
    assert set(good.outcomes) == set(race(True, True).outcomes)


def looping(shared: Shared) -> Generator[Any, Any, int]:
    """Reads what it forgets, among steps of others."""
    for _ in range(3):
        seen = yield Load(X)
        seen = seen * 0
    shared.sequence += 1
    yield Store(Y, shared.sequence)
    return 0


def counting() -> Exploration:
    def make() -> World:
        shared = Shared()
        return World({"a": looping(shared), "b": looping(shared), "n": writer()}, shared)

    def writer() -> Generator[Any, Any, None]:
        for value in range(3):
            yield Store(X, value)

    return explore(make, SparseMem(), (), reduce=False, observe={"x": X, "y": Y})


def lengths(found: Exploration) -> dict[Any, int]:
    return {outcome: len(schedule) for outcome, schedule in found.outcomes.items()}


def test_positions_are_merged_without_losing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outcomes and schedules are those of positions that are whole histories; there are fewer states."""
    merged = counting()
    monkeypatch.setattr("pymodel.explore.world.position", lambda *_: object())
    apart = counting()
    assert lengths(merged) == lengths(apart)
    assert 2 * merged.states < apart.states


def test_worlds_that_stand_are_as_good_as_replays(monkeypatch: pytest.MonkeyPatch) -> None:
    """With none kept every position is reached by a replay; all counts are equal."""
    kept = counting()
    monkeypatch.setattr("pymodel.explore.world._STANDING", 0)
    replayed = counting()
    assert lengths(kept) == lengths(replayed)
    assert (kept.states, kept.transitions) == (replayed.states, replayed.transitions)
    assert kept.schedules == replayed.schedules


@pytest.mark.parametrize("reduce", [False, True], ids=["plain", "reduced"])
def test_agents_apart_see_memory_only(reduce: bool) -> None:
    """They take part like the others, and cost less when they are not held up by what is shared."""

    def reader() -> Generator[Any, Any, int]:
        seen: int = yield Load(Y)
        return seen

    def make(apart: bool) -> World:
        shared = Shared()
        agents = {"notifier": notifier(shared), "fault": fault(shared, False)}
        if apart:
            return World(agents, shared, apart={"reader": reader})
        return World(agents | {"reader": reader()}, shared)

    inside = explore(lambda: make(False), SparseMem({X: 7}), (LOCK,), reduce=reduce, observe={"y": Y})
    outside = explore(lambda: make(True), SparseMem({X: 7}), (LOCK,), reduce=reduce, observe={"y": Y})
    assert {outcome.values for outcome in inside.outcomes} == {outcome.values for outcome in outside.outcomes}
    assert outside.transitions < inside.transitions
    assert inside.participants == outside.participants == ("notifier", "fault", "reader")


def test_check_sees_what_is_shared() -> None:
    """A copy, as it was in that state, with memory and the units."""
    seen: set[tuple[int, int]] = set()

    def check(state: StateView) -> str:
        seen.add((state.shared.in_progress, state.memory.load(Y)))
        assert set(state.units) == {"lock"}
        state.shared.names.append("changed")  # a copy: the agents do not notice
        return "two at once" if state.shared.in_progress > 1 else ""

    def make() -> World:
        shared = Shared()
        return World({"a": notifier(shared), "b": notifier(shared)}, shared)

    found = explore(make, SparseMem({Y: 7}), (LOCK,), reduce=False, check=check)
    assert {outcome.broken for outcome in found.outcomes} == {"", "two at once"}
    assert {(0, 7), (1, 7), (1, 0), (2, 0)} <= seen
