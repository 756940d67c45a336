"""Agents run effect by effect at chosen cycles."""

import random
from typing import Any

import pytest

from cocotb_tests.harness.errors import HarnessError
from cocotb_tests.harness.scheduler import Answer as AnswerEffect
from cocotb_tests.harness.scheduler import (
    BenchAgent,
    Now,
    Scheduler,
    Translate,
    Translation,
    fixed,
    listed,
    uniform,
)
from cocotb_tests.harness.scheduler import Drain as DrainEffect
from pymodel.effects import (
    CompareExchange,
    Delay,
    Event,
    FetchAnd,
    FetchOr,
    Load,
    ReadRegister,
    Store,
    WaitFor,
    WriteRegister,
)
from pymodel.memory import PhysMem


class Bench:
    """A scheduler with a log of stores: (cycle, address, value)."""

    def __init__(self) -> None:
        self.memory = PhysMem()
        self.events: list[tuple[object, ...]] = []
        self.scheduler = Scheduler(self.memory, self.events.append)
        self.now = 0
        self.stores: list[tuple[int, int, int]] = []
        self.memory.observers.append(lambda address, _, new: self.stores.append((self.now, address, new)))

    def run(self, cycles: int) -> None:
        """Let cycles pass, calling `run` only when it is due, as the lock-step does."""
        for _ in range(cycles):
            if self.scheduler.due <= self.now:
                self.scheduler.run(self.now)
            self.now += 1


def stores(count: int) -> BenchAgent[None]:
    for number in range(count):
        yield Store(8 * number, number + 1)


@pytest.mark.parametrize(
    ("gap", "cycles"),
    [(1, [5, 6, 7, 8]), (3, [5, 8, 11, 14]), (0, [5, 5, 5, 5]), (listed([2, 0, 7]), [5, 7, 7, 14])],
)
def test_effects_are_placed_by_start_and_gap(gap: Any, cycles: list[int]) -> None:
    bench = Bench()
    bench.scheduler.add("a", stores(4), start=5, gap=gap)
    bench.run(40)
    assert [cycle for cycle, _, _ in bench.stores] == cycles
    assert bench.scheduler.unfinished == 0


def test_every_offset_of_a_store_can_be_reached() -> None:
    reached = set()
    for offset in range(20):
        bench = Bench()
        bench.scheduler.add("a", stores(2), start=0, gap=listed([offset]))
        bench.run(40)
        reached.add(bench.stores[1][0])
    assert reached == set(range(20))


def test_uniform_gaps_are_seeded() -> None:
    runs = []
    for _ in range(2):
        bench = Bench()
        bench.scheduler.add("a", stores(20), gap=uniform(0, 9, random.Random(4)))
        bench.run(300)
        runs.append(bench.stores)
    assert runs[0] == runs[1]


def test_memory_effects_answer_what_was_before() -> None:
    bench, seen = Bench(), []

    def agent() -> BenchAgent[None]:
        yield Store(64, 5)
        seen.append((yield Load(64)))
        seen.append((yield CompareExchange(64, 5, 9)))
        seen.append((yield CompareExchange(64, 5, 1)))
        seen.append((yield FetchOr(64, 6)))
        seen.append((yield FetchAnd(64, 3)))
        seen.append((yield Load(64)))

    bench.scheduler.add("a", agent())
    bench.run(20)
    assert seen == [5, 5, 9, 9, 15, 3]
    assert [event[3] for event in bench.events] == ["store", "exchange", "refused", "or", "and"]


def test_agents_of_one_cycle_run_in_the_order_of_add() -> None:
    bench, seen = Bench(), []

    def agent(name: str) -> BenchAgent[None]:
        for _ in range(2):
            seen.append((name, (yield Now())))
            yield Delay(3)

    for name in "abc":
        bench.scheduler.add(name, agent(name), start=2)
    bench.run(20)
    assert seen == [("a", 2), ("b", 2), ("c", 2), ("a", 5), ("b", 5), ("c", 5)]


def test_wait_for_sees_the_store_of_another_agent_one_cycle_later_at_most() -> None:
    bench, seen = Bench(), []

    def waiter() -> BenchAgent[None]:
        yield WaitFor(0x100, 0xFF, 7)
        seen.append((yield Now()))

    def writer() -> BenchAgent[None]:
        yield Delay(10)
        yield Store(0x100, 0x1207)

    bench.scheduler.add("waiter", waiter())
    bench.scheduler.add("writer", writer())
    bench.run(9)
    assert bench.scheduler.stuck() != []
    bench.run(20)
    assert len(seen) == 1
    assert 10 < seen[0] <= 12


def test_event_takes_no_time_and_is_logged() -> None:
    bench = Bench()

    def agent() -> BenchAgent[None]:
        yield Event("hello", (("at", 3),))
        yield Store(0, 1)

    bench.scheduler.add("a", agent(), start=4)
    bench.run(10)
    assert bench.events[0] == (4, "note", "a", "hello,at:3")
    assert bench.stores == [(4, 0, 1)]


def test_registers_wait_for_their_answer() -> None:
    bench, seen = Bench(), []

    def agent() -> BenchAgent[None]:
        seen.append((yield WriteRegister(0x18, 4)))
        seen.append((yield ReadRegister(0x1C)))

    bench.scheduler.add("a", agent())
    bench.run(5)
    run, effect = bench.scheduler.accesses.popleft()
    assert effect == WriteRegister(0x18, 4)
    bench.scheduler.register_done(bench.now, run, 0)
    bench.run(5)
    run, effect = bench.scheduler.accesses.popleft()
    bench.scheduler.register_done(bench.now, run, 77)
    bench.run(5)
    assert seen == [None, 77]


def translation(cycle: int) -> Translation:
    return Translation((3, 0x300, 0, 0, 0x4000, 0), cycle, None)


def test_translate_answer_and_drain() -> None:
    bench, seen = Bench(), []

    def device() -> BenchAgent[None]:
        first = yield Translate(0x300, 0x4000)
        second = yield Translate(0x300, 0x5000)
        seen.append((yield AnswerEffect(first)) is first)
        yield DrainEffect()
        seen.append(second.done)

    bench.scheduler.add("device", device())
    handles = []
    for _ in range(2):
        bench.run(3)
        run, _ = bench.scheduler.translates.popleft()
        handles.append(translation(bench.now))
        bench.scheduler.accepted(bench.now, run, handles[-1])
    bench.run(3)
    assert seen == []
    for handle in handles:
        handle.answered_at = bench.now
        bench.scheduler.answered(bench.now, run, handle)
        bench.run(3)
    assert seen == [True, True]
    assert bench.scheduler.unfinished == 0


def test_background_agents_do_not_count() -> None:
    bench = Bench()

    def ever() -> BenchAgent[None]:
        while True:
            yield Delay(1)

    bench.scheduler.add("ever", ever(), background=True)
    bench.scheduler.add("once", stores(1))
    bench.run(5)
    assert bench.scheduler.unfinished == 0


def test_wrong_effect_is_named() -> None:
    bench = Bench()

    def agent() -> BenchAgent[None]:
        yield "store"

    bench.scheduler.add("bad", agent())
    with pytest.raises(HarnessError, match="agent bad must yield an effect, not 'store'"):
        bench.run(1)


def test_fixed_gap_is_constant() -> None:
    gap = fixed(4)
    assert [gap(), gap()] == [4, 4]
