"""The effect scheduler: runs agents (generators of `pymodel.effects`) effect by effect at chosen clock
cycles.

Loads, stores and atomics happen at once in their cycle, before the memory port samples in that cycle.
Register accesses and translations go through the ports of the IOMMU; an agent waits for its answer, or for
the acceptance of its translation. All times are cycles.
"""

import random
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NamedTuple, TypeAlias, TypeVar

from cocotb_tests.harness.errors import HarnessError
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

__all__ = [
    "Answer",
    "BenchAgent",
    "Drain",
    "Gap",
    "Now",
    "Scheduler",
    "Translate",
    "Translation",
    "fixed",
    "listed",
    "uniform",
]

T = TypeVar("T")

BenchAgent: TypeAlias = Generator[Any, Any, T]
"""An agent that may also yield the effects of this file."""

Gap = Callable[[], int]
"""Cycles from the end of one effect to the next effect of the same agent; 0 puts both into one cycle."""


def fixed(cycles: int) -> Gap:
    """Always the same gap."""
    return lambda: cycles


def uniform(low: int, high: int, rng: random.Random) -> Gap:
    """A random gap in low..high."""
    return lambda: rng.randint(low, high)


def listed(gaps: Sequence[int], then: int = 1) -> Gap:
    """The gaps of the list in turn, afterwards `then`: places each effect of an agent at a chosen cycle."""
    rest = iter(tuple(gaps))
    return lambda: next(rest, then)


class Translate(NamedTuple):
    """Ask for a translation; answered with a `Translation` as soon as the IOMMU accepted the request.

    A tuple, because sources make one for each request: a frozen dataclass takes twice the time.
    """

    sid: int
    iova: int
    write: bool = False
    pasid: int | None = None
    junk: int = 0
    """What stands in the PASID field of a request without PASID."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Wait until the translation is answered; answered with the same `Translation`."""

    translation: "Translation"


@dataclass(frozen=True, slots=True)
class Drain:
    """Wait until all translations that this agent asked for are answered; answered with their number."""


@dataclass(frozen=True, slots=True)
class Now:
    """Answered at once with the current cycle."""


class Translation:
    """One request and, once `answered_at` is set, its answer."""

    __slots__ = (
        "accepted_at",
        "address",
        "answered_at",
        "iova",
        "level",
        "owner",
        "pasid",
        "port",
        "r",
        "reason",
        "request",
        "sid",
        "snoop",
        "w",
        "write",
    )

    def __init__(self, request: tuple[int, ...], accepted_at: int, owner: Any) -> None:
        self.request = request
        _, self.sid, valid, pasid, self.iova, self.write = request
        self.pasid = pasid if valid else None
        self.accepted_at = accepted_at
        self.answered_at: int | None = None
        self.owner = owner
        self.port = ""
        self.reason = self.address = self.level = self.r = self.w = self.snoop = 0

    @property
    def done(self) -> bool:
        """True once it is answered."""
        return self.answered_at is not None

    def __repr__(self) -> str:
        kind = "write" if self.write else "read"
        if self.answered_at is None:
            return f"Translation({kind} {self.iova:#x} sid {self.sid:#x}, accepted {self.accepted_at}, open)"
        result = f"reason {self.reason:#x}" if self.reason else f"{self.address:#x} level {self.level}"
        times = f"{self.accepted_at}..{self.answered_at}"
        return f"Translation({kind} {self.iova:#x} sid {self.sid:#x}, {times}: {result})"


class Run:
    """An agent that is being run."""

    __slots__ = (
        "_agent",
        "answer",
        "background",
        "draining",
        "effect",
        "gap",
        "index",
        "name",
        "open",
        "result",
        "started",
    )

    def __init__(self, index: int, name: str, agent: BenchAgent[Any], gap: Gap, background: bool) -> None:
        self.index, self.name, self._agent, self.gap, self.background = index, name, agent, gap, background
        self.answer: Any = None
        self.effect: object = None
        """The effect that is not finished; `None` before the start and after the end."""
        self.draining = False
        self.open = 0
        """Translations accepted and not answered."""
        self.started = False
        self.result: Any = None

    def close(self) -> None:
        """End the agent where it stands."""
        self._agent.close()

    def advance(self) -> object:
        """The agent's next effect; raises StopIteration at its end."""
        answer, self.answer = self.answer, None
        return self._agent.send(answer)


class Scheduler:
    """Runs the agents of a bench.

    The lock-step calls `run(cycle)` in each cycle in which `due <= cycle`, takes `translates` and
    `accesses` from the queues when the ports are free, and reports what became of them. `emit` gets events
    for the log.
    """

    def __init__(self, memory: PhysMem, emit: Callable[[tuple[object, ...]], None]) -> None:
        self.memory = memory
        self.emit = emit
        self.due: float = float("inf")
        """First cycle in which `run` has something to do."""
        self.translates: deque[tuple[Run, Translate]] = deque()
        self.accesses: deque[tuple[Run, WriteRegister | ReadRegister]] = deque()
        self.runs: list[Run] = []
        self.unfinished = 0
        """Agents that are not background and have not ended."""
        self.effects = 0
        self._now = -1
        self._heap: list[tuple[int, int, Run]] = []
        self._waiting: list[Run] = []
        memory.observers.append(self._stored)

    def add(
        self,
        name: str,
        agent: BenchAgent[Any],
        *,
        start: int = 0,
        gap: Gap | int = 1,
        background: bool = False,
    ) -> Run:
        """Run `agent` from cycle `start` on; the run does not wait for the end of a background agent."""
        run = Run(len(self.runs), name, agent, fixed(gap) if isinstance(gap, int) else gap, background)
        self.runs.append(run)
        self.unfinished += not background
        self._wake(run, start)
        return run

    def clear(self, cycle: int) -> None:
        """End all agents where they stand, in `cycle`: what they asked for is never answered."""
        for run in self.runs:
            run.close()
        self._now = cycle
        for pending in (self.runs, self._heap, self._waiting, self.translates, self.accesses):
            pending.clear()
        self.unfinished = 0
        self.due = float("inf")

    def _wake(self, run: Run, cycle: int) -> None:
        heappush(self._heap, (max(cycle, self._now + 1), run.index, run))
        self.due = min(self.due, self._heap[0][0])

    def _stored(self, address: int, old: int, new: int) -> None:
        if self._waiting:
            self.due = 0

    def run(self, cycle: int) -> None:
        """Do everything that is due in `cycle`."""
        self._now = cycle
        if self._waiting:
            load = self.memory.load
            for run in [run for run in self._waiting if run.effect.satisfied(load)]:  # type: ignore[attr-defined]
                self._waiting.remove(run)
                heappush(self._heap, (cycle + run.gap(), run.index, run))
        heap = self._heap
        while heap and heap[0][0] <= cycle:
            self._step(cycle, heappop(heap)[2])
        self.due = heap[0][0] if heap else float("inf")

    def _step(self, cycle: int, run: Run) -> None:
        """Run one agent until its next effect belongs to a later cycle."""
        while True:
            try:
                effect = run.advance()
            except StopIteration as stop:
                run.effect, run.result = None, stop.value
                self.unfinished -= not run.background
                return
            run.effect = effect
            self.effects += 1
            pause = self._perform(cycle, run, effect)
            if pause is None:
                return
            if pause > 0:
                heappush(self._heap, (cycle + pause, run.index, run))
                return

    def _perform(self, cycle: int, run: Run, effect: object) -> int | None:
        """Do one effect; the cycles to the next one, or None when somebody else wakes the agent."""
        handler = _HANDLERS.get(type(effect))
        if handler is None:
            raise HarnessError(f"agent {run.name} must yield an effect, not {effect!r}")
        return handler(self, cycle, run, effect)

    def _load(self, cycle: int, run: Run, effect: Load) -> int:
        run.answer = self.memory.load(effect.address)
        return run.gap()

    def _store(self, cycle: int, run: Run, effect: Store) -> int:
        old = self.memory.load(effect.address)
        self.emit((cycle, "effect", run.name, "store", effect.address, effect.value, old))
        self.memory.store(effect.address, effect.value)
        return run.gap()

    def _compare_exchange(self, cycle: int, run: Run, effect: CompareExchange) -> int:
        old = run.answer = self.memory.compare_exchange(effect.address, effect.expected, effect.new)
        what = "exchange" if old == effect.expected else "refused"
        self.emit((cycle, "effect", run.name, what, effect.address, effect.new, old))
        return run.gap()

    def _fetch_or(self, cycle: int, run: Run, effect: FetchOr) -> int:
        old = run.answer = self.memory.fetch_or(effect.address, effect.mask)
        self.emit((cycle, "effect", run.name, "or", effect.address, effect.mask, old))
        return run.gap()

    def _fetch_and(self, cycle: int, run: Run, effect: FetchAnd) -> int:
        old = run.answer = self.memory.fetch_and(effect.address, effect.mask)
        self.emit((cycle, "effect", run.name, "and", effect.address, effect.mask, old))
        return run.gap()

    def _wait_for(self, cycle: int, run: Run, effect: WaitFor) -> int | None:
        if effect.satisfied(self.memory.load):
            return run.gap()
        self._waiting.append(run)
        return None

    def _delay(self, cycle: int, run: Run, effect: Delay) -> int:
        return effect.cycles

    def _event(self, cycle: int, run: Run, effect: Event) -> int:
        text = ",".join([effect.name, *(f"{name}:{value}" for name, value in effect.details)])
        self.emit((cycle, "note", run.name, text.replace(" ", "_")))
        return 0

    def _now_effect(self, cycle: int, run: Run, effect: Now) -> int:
        run.answer = cycle
        return 0

    def _access(self, cycle: int, run: Run, effect: WriteRegister | ReadRegister) -> None:
        self.accesses.append((run, effect))

    def _translate(self, cycle: int, run: Run, effect: Translate) -> None:
        self.translates.append((run, effect))

    def _answer(self, cycle: int, run: Run, effect: Answer) -> int | None:
        run.answer = effect.translation
        return run.gap() if effect.translation.answered_at is not None else None

    def _drain(self, cycle: int, run: Run, effect: Drain) -> int | None:
        if not run.open:
            return run.gap()
        run.draining = True
        return None

    def accepted(self, cycle: int, run: Run, translation: Translation) -> None:
        """A translation of `run` was accepted in `cycle`."""
        run.open += 1
        run.answer = translation
        self._wake(run, cycle + run.gap())

    def answered(self, cycle: int, run: Run, translation: Translation) -> None:
        """A translation of `run` was answered in `cycle`."""
        run.open -= 1
        if run.draining:
            if run.open:
                return
            run.draining = False
        elif type(run.effect) is not Answer or run.effect.translation is not translation:
            return
        self._wake(run, cycle + run.gap())

    def register_done(self, cycle: int, run: Run, value: int) -> None:
        """The register access of `run` was answered in `cycle`."""
        run.answer = value if type(run.effect) is ReadRegister else None
        self._wake(run, cycle + run.gap())

    @property
    def sleeping(self) -> bool:
        """True while some agent goes on by itself at a later cycle."""
        return bool(self._heap)

    def stuck(self) -> list[str]:
        """What every unfinished agent waits for."""
        return [f"{run.name}: {run.effect!r}" for run in self._unfinished()]

    def _unfinished(self) -> Iterable[Run]:
        sleeping = {id(entry[2]) for entry in self._heap}
        return [run for run in self.runs if run.effect is not None or id(run) in sleeping]


_HANDLERS: dict[type, Callable[[Any, int, Run, Any], int | None]] = {
    Load: Scheduler._load,
    Store: Scheduler._store,
    CompareExchange: Scheduler._compare_exchange,
    FetchOr: Scheduler._fetch_or,
    FetchAnd: Scheduler._fetch_and,
    WaitFor: Scheduler._wait_for,
    Delay: Scheduler._delay,
    Event: Scheduler._event,
    Now: Scheduler._now_effect,
    WriteRegister: Scheduler._access,
    ReadRegister: Scheduler._access,
    Translate: Scheduler._translate,
    Answer: Scheduler._answer,
    Drain: Scheduler._drain,
}
