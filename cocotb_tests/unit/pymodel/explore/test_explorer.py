"""The explorer on programs whose outcomes are known."""

from collections.abc import Generator
from typing import Any

import pytest

from pymodel.effects import Agent, CompareExchange, Delay, Event, FetchOr, Load, Store, WaitFor
from pymodel.explore import MORE, Choose, Failed, Pending, StateView, TooLarge, UnitMove, diagram, explore
from pymodel.memory import SparseMem

X, Y, Z = 0x100, 0x108, 0x110
BOTH = pytest.mark.parametrize("reduce", [False, True], ids=["plain", "reduced"])


def writer_then_reader(mine: int, other: int):
    def agent() -> Agent[int]:
        yield Store(mine, 1)
        seen: int = yield Load(other)
        return seen

    return agent


@BOTH
def test_store_buffering_is_sequentially_consistent(reduce: bool) -> None:
    """Two stores and two loads: every outcome but the one in which both load the old value."""
    found = explore({"a": writer_then_reader(X, Y), "b": writer_then_reader(Y, X)}, SparseMem(), reduce=reduce)
    assert {outcome.values for outcome in found.outcomes} == {(0, 1), (1, 0), (1, 1)}
    assert {len(schedule) for schedule in found.outcomes.values()} == {4}


def test_plain_enumeration_counts_every_interleaving() -> None:
    """Three agents with two private stores each have 6!/(2!2!2!) = 90 schedules through 27 states."""

    def agent(base: int):
        def run() -> Agent[None]:
            yield Store(base, 1)
            yield Store(base + 8, 1)

        return run

    agents = {str(base): agent(base) for base in (0x100, 0x200, 0x300)}
    plain = explore(agents, SparseMem(), reduce=False)
    assert (plain.schedules, plain.states, plain.transitions) == (90, 27, 54)
    reduced = explore(agents, SparseMem())
    assert (reduced.schedules, reduced.states, reduced.transitions) == (1, 7, 6)


@BOTH
def test_unprotected_increment_loses_an_update(reduce: bool) -> None:
    """Load and store apart lose an increment in some order; a compare-exchange loop never does."""

    def racy() -> Agent[None]:
        value: int = yield Load(X)
        yield Store(X, value + 1)

    def safe() -> Agent[None]:
        value: int = yield Load(X)
        while True:
            seen: int = yield CompareExchange(X, value, value + 1)
            if seen == value:
                return
            value = seen

    found = explore({"a": racy, "b": racy}, SparseMem(), reduce=reduce, observe={"x": X})
    assert {outcome.word("x") for outcome in found.outcomes} == {1, 2}
    found = explore({"a": safe, "b": safe, "c": safe}, SparseMem(), reduce=reduce, observe={"x": X})
    assert {outcome.word("x") for outcome in found.outcomes} == {3}


@BOTH
def test_message_passing_waits(reduce: bool) -> None:
    """Who waits for the flag sees the data; who waits for what never comes is stuck."""

    def sender() -> Agent[None]:
        yield Store(X, 42)
        yield FetchOr(Y, 1)

    def receiver() -> Agent[int]:
        yield WaitFor(Y, 1, 1)
        data: int = yield Load(X)
        return data

    def forgotten() -> Agent[None]:
        yield Event("waits")
        yield WaitFor(Z, 1, 1)

    found = explore({"s": sender, "r": receiver, "f": forgotten}, SparseMem(), reduce=reduce)
    (outcome,) = found.outcomes
    assert outcome.values == (None, 42, None)
    assert outcome.stuck == ("f",)
    assert outcome.named("waits") == [{}]


@BOTH
def test_choices_are_all_taken(reduce: bool) -> None:
    """Each option of a choice leads somewhere, and its schedule says so."""

    def chooser() -> Generator[Any, Any, int]:
        first = yield Choose((1, 2, 3))
        yield Delay(5)
        second = yield Choose((10, 20))
        yield Store(X, first + second)
        return first + second

    def reader() -> Agent[int]:
        value: int = yield Load(X)
        return value

    found = explore({"c": chooser, "r": reader}, SparseMem(), reduce=reduce)
    sums = {1 + 10, 2 + 10, 3 + 10, 1 + 20, 2 + 20, 3 + 20}
    assert {outcome.values for outcome in found.outcomes} == {(s, r) for s in sums for r in (0, s)}
    for schedule in found.outcomes.values():
        assert [step.label for step in schedule if "chooses" in step.label] != []


def test_failed_assertion_is_an_outcome() -> None:
    """An agent that breaks its own assertion ends there, with a schedule; other errors are not swallowed."""

    def asserting() -> Agent[None]:
        value: int = yield Load(X)
        assert value == 0, "x was written"

    def writer() -> Agent[None]:
        yield Store(X, 1)

    found = explore({"a": asserting, "w": writer}, SparseMem())
    first, second = sorted((outcome.values[0] for outcome in found.outcomes), key=str, reverse=True)
    assert first is None
    assert isinstance(second, Failed)
    assert second.text.startswith("x was written")

    def wrong() -> Agent[None]:
        yield Load(X)
        raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        explore({"a": wrong}, SparseMem())


def test_check_ends_a_schedule() -> None:
    """A state that the check objects to is an outcome; plain enumeration meets every state."""

    def agent(address: int):
        def run() -> Agent[None]:
            yield Store(address, 1)
            yield Store(address, 0)

        return run

    def check(state: StateView) -> str:
        return "both are set" if state.memory.load(X) and state.memory.load(Y) else ""

    found = explore({"a": agent(X), "b": agent(Y)}, SparseMem(), reduce=False, check=check)
    assert {outcome.broken for outcome in found.outcomes} == {"", "both are set"}
    broken = next(schedule for outcome, schedule in found.outcomes.items() if outcome.broken)
    assert len(broken) == 2


def test_agent_with_memory_of_its_own_is_refused() -> None:
    """An agent that is no function of its answers is found when it is replayed."""
    runs: list[int] = []

    def forgetful() -> Agent[None]:
        runs.append(1)
        value: int = yield Load(X + 8 * len(runs))
        yield Store(Y, value)

    def writer() -> Agent[None]:
        yield Store(X + 8, 1)

    with pytest.raises(ValueError, match="must be a function of its answers"):
        explore({"a": forgetful, "w": writer}, SparseMem(), reduce=False)


def test_limits_and_misuse() -> None:
    """Too many states, effects that nobody performs, names given twice, agents that only talk."""

    def busy() -> Agent[None]:
        for value in range(9):
            yield Store(X, value)

    with pytest.raises(TooLarge, match="more than 50 states"):
        explore({"a": busy, "b": busy}, SparseMem(), max_states=50)

    def odd() -> Generator[Any, Any, None]:
        yield "hello"

    with pytest.raises(TypeError, match=r"'hello', which nobody here performs"):
        explore({"a": odd}, SparseMem())
    assert explore({"a": odd}, SparseMem(), quiet=(str,)).states == 1

    def endless() -> Agent[None]:
        while True:
            yield Delay(1)

    with pytest.raises(ValueError, match="nothing but events"):
        explore({"a": endless}, SparseMem())
    with pytest.raises(ValueError, match="at least one option"):
        Choose(())
    with pytest.raises(ValueError, match="different names"):
        explore({"light": busy}, SparseMem(), (Blinker(),))


class Blinker:
    """A unit that comes back to where it was."""

    name = "blinker"
    threads = ("light",)

    def start(self, agents: int) -> int:
        return 0

    def takes(self, effect: object) -> bool:
        return False

    def agent_moves(self, who: int, effect: Any, state: Any, memory: SparseMem) -> Pending:
        raise NotImplementedError

    def own_moves(self, which: int, state: int, memory: SparseMem) -> Pending:
        return Pending(frozenset(), frozenset({("blinker",)}), (UnitMove("blinks", 1 - state, answer=MORE),))

    def own_position(self, which: int, state: int) -> int:
        return state


def test_cycle_is_refused() -> None:
    """Reduction needs an acyclic graph, so a cycle is an error and not a wrong answer."""
    with pytest.raises(ValueError, match="has a cycle"):
        explore({}, SparseMem(), (Blinker(),))


def test_diagram_shows_who_does_what() -> None:
    """A column for each participant that acts, a row for each step, events with a star, long runs shortened."""

    def filler() -> Agent[None]:
        for number in range(20):
            yield Store(X + 8 * number, 1)
        yield Event("filled", (("count", 20), ("by", "a")))

    def reader() -> Agent[None]:
        yield WaitFor(X + 8 * 19, 1, 1)

    def idler() -> Agent[None]:
        yield Delay(1)

    found = explore({"fills": filler, "reads": reader, "idles": idler}, SparseMem())
    ((_, schedule),) = found.outcomes.items()
    lines = diagram(schedule, found.participants, width=80).splitlines()
    assert lines[0].split() == ["fills", "reads"]
    assert lines[2].split() == ["1", "store", "0x100", "=", "0x1"]
    assert lines[3].split() == ["...", "18", "more", "..."]
    assert lines[4].split() == ["20", "store", "0x198", "=", "0x1"]
    assert lines[5].split() == ["*", "filled", "count=0x14", "by=a"]
    assert lines[6].split() == ["21", "sees", "0x198", "=", "0x1"]
    assert lines[6].index("sees") > 40
    assert diagram((), found.participants) == "(nothing happens)"


def test_diagram_shortens_steps_that_take_turns() -> None:
    """Pairs that differ in numbers only are one run; what is said in a run ends it."""

    def freezer() -> Agent[None]:
        for number in range(20):
            yield Load(X + 8 * number)
            yield Store(X + 8 * number, 0x5A0)
            if number == 9:
                yield Event("half")

    found = explore({"freezes": freezer}, SparseMem())
    ((_, schedule),) = found.outcomes.items()
    lines = [" ".join(line.split()) for line in diagram(schedule, found.participants, width=60).splitlines()[2:]]
    assert lines == [
        "1 load 0x100 -> 0x0", "2 store 0x100 = 0x5a0", "... 16 more ...",
        "19 load 0x148 -> 0x0", "20 store 0x148 = 0x5a0", "* half",
        "21 load 0x150 -> 0x0", "22 store 0x150 = 0x5a0", "... 16 more ...",
        "39 load 0x198 -> 0x0", "40 store 0x198 = 0x5a0",
    ]  # fmt: skip
