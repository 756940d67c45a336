"""Runs agents of one machine side by side: which goes on is drawn from a seed, locks exclude each other.

A guest's walk and its access are one step, as they are for a CPU: a flush waits for it to leave the guest. Host and
KVM go on effect by effect.
"""

import random
from collections.abc import Generator
from typing import Any, get_args

from pymodel import effects as base
from pymodel.host.effects import MmapLock, MmapUnlock, PageBusy
from pymodel.kvm.effects import MmuLock, MmuUnlock
from pymodel.machine import Machine

__all__ = ["run_together"]

_ON_MEMORY = get_args(base.Effect)


class _Locks:
    """Readers and one writer for each lock, by the number of the agent."""

    def __init__(self) -> None:
        self._readers: dict[Any, list[int]] = {}
        self._writer: dict[Any, int] = {}

    def take(self, lock: Any, write: bool, who: int) -> bool:
        readers = self._readers.setdefault(lock, [])
        if lock in self._writer or (write and readers):
            return False
        if write:
            self._writer[lock] = who
        else:
            readers.append(who)
        return True

    def give(self, lock: Any, write: bool, who: int) -> None:
        if write:
            assert self._writer.pop(lock) == who
        else:
            self._readers[lock].remove(who)


class _Task:
    def __init__(self, number: int, agent: Generator[Any, Any, Any]) -> None:
        self.number = number
        self.agent = agent
        self.answer: Any = None
        self.waiting: Any = None
        """A lock that was not free."""
        self.done = False
        self.result: Any = None


def run_together(
    machine: Machine, agents: list[Generator[Any, Any, Any]], seed: int, limit: int = 200_000
) -> list[Any]:
    """The results of the agents. Raises `AssertionError` if all wait for each other or `limit` steps do not do."""
    choice = random.Random(seed)
    locks = _Locks()
    tasks = [_Task(number, machine.resolved(agent)) for number, agent in enumerate(agents)]
    stuck = 0
    for _ in range(limit):
        ready = [task for task in tasks if not task.done]
        if not ready:
            return [task.result for task in tasks]
        moved = _step(machine, locks, choice.choice(ready))
        stuck = 0 if moved else stuck + 1
        assert stuck < 1000, "every agent waits for another"
    raise AssertionError(f"seed {seed}: not finished after {limit} steps")


def _step(machine: Machine, locks: _Locks, task: _Task) -> bool:
    """One effect, and as many plain memory accesses behind it as follow; False if it has to wait."""
    while True:
        effect, task.waiting = task.waiting, None
        if effect is None:
            try:
                effect = task.agent.send(task.answer)
            except StopIteration as stop:
                task.done, task.result = True, stop.value
                return True
        task.answer = None
        if isinstance(effect, MmuLock | MmapLock):
            if not locks.take(_name(effect), effect.write, task.number):
                task.waiting = effect
                return False
            return True
        if isinstance(effect, MmuUnlock | MmapUnlock):
            locks.give(_name(effect), effect.write, task.number)
            return True
        if isinstance(effect, PageBusy):
            return False
        if not isinstance(effect, _ON_MEMORY):
            task.answer = machine.handle(effect)
            return True
        task.answer = base.apply(effect, machine.cpu)


def _name(lock: MmuLock | MmuUnlock | MmapLock | MmapUnlock) -> Any:
    return lock.mm if isinstance(lock, MmapLock | MmapUnlock) else "mmu_lock"
