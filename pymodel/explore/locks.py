"""A readers-writer lock as a unit of the explorer, such as KVM's mmu_lock."""

from collections.abc import Callable
from typing import Any, NamedTuple

from pymodel.explore.unit import Pending, UnitMove
from pymodel.memory import SparseMem

__all__ = ["LockState", "RwLock"]


class LockState(NamedTuple):
    """Who holds it, by number of the agent."""

    writer: int | None = None
    readers: frozenset[int] = frozenset()


class RwLock:
    """Effects of type `take` wait for the lock, those of type `release` give it back.

    `exclusive` tells of either whether it is the writer's mode. Giving back what one does not hold raises
    `ValueError`.
    """

    def __init__(self, name: str, take: type, release: type, exclusive: Callable[[Any], bool]) -> None:
        self.name = name
        self.threads: tuple[str, ...] = ()
        self._take, self._release, self._exclusive = take, release, exclusive

    def start(self, agents: int) -> LockState:
        """See `Unit`."""
        return LockState()

    def takes(self, effect: object) -> bool:
        """See `Unit`."""
        return isinstance(effect, self._take | self._release)

    def agent_moves(self, who: int, effect: Any, state: LockState, memory: SparseMem) -> Pending:
        """See `Unit`."""
        exclusive = self._exclusive(effect)
        mode = "exclusive" if exclusive else "shared"
        lock = frozenset({(self.name,)})
        if isinstance(effect, self._release):
            if (state.writer != who) if exclusive else (who not in state.readers):
                raise ValueError(f"agent {who} gives back {self.name} ({mode}), which it does not hold")
            after = state._replace(writer=None) if exclusive else state._replace(readers=state.readers - {who})
            return Pending(lock, lock, (UnitMove(f"unlock {self.name} ({mode})", after, answer=None),))
        if state.writer is not None or (exclusive and state.readers):
            return Pending(lock, lock, ())
        after = state._replace(writer=who) if exclusive else state._replace(readers=state.readers | {who})
        return Pending(lock, lock, (UnitMove(f"lock {self.name} ({mode})", after, answer=None),))

    def own_moves(self, which: int, state: LockState, memory: SparseMem) -> Pending:
        """See `Unit`; a lock has no threads."""
        raise NotImplementedError

    def own_position(self, which: int, state: LockState) -> int:
        """See `Unit`; a lock has no threads."""
        raise NotImplementedError
