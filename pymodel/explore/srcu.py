"""Sleepable RCU as a unit of the explorer: readers never wait, who synchronizes waits for earlier readers."""

from typing import Any, NamedTuple

from pymodel.explore.unit import Pending, Resource, UnitMove
from pymodel.memory import SparseMem

__all__ = ["Srcu", "SrcuState"]


class SrcuState(NamedTuple):
    """Readers, and for whom who waits, by number of the agent."""

    readers: frozenset[int] = frozenset()
    waits: tuple[tuple[int, frozenset[int]], ...] = ()


class Srcu:
    """Effects of type `enter` and `leave` bracket a reader, those of type `synchronize` wait (synchronize_srcu).

    Entering twice, and leaving what was not entered, raise `ValueError`.
    """

    def __init__(self, name: str, enter: type, leave: type, synchronize: type) -> None:
        self.name = name
        self.threads: tuple[str, ...] = ()
        self._enter, self._leave, self._synchronize = enter, leave, synchronize

    def start(self, agents: int) -> SrcuState:
        """See `Unit`."""
        return SrcuState()

    def takes(self, effect: object) -> bool:
        """See `Unit`."""
        return isinstance(effect, self._enter | self._leave | self._synchronize)

    def agent_moves(self, who: int, effect: Any, state: SrcuState, memory: SparseMem) -> Pending:
        """See `Unit`."""
        mine: frozenset[Resource] = frozenset({(self.name,)})
        if isinstance(effect, self._synchronize):
            move = self._wait(who, state)
        elif (who in state.readers) is isinstance(effect, self._enter):
            raise ValueError(f"agent {who} must enter {self.name} once and leave it once")
        elif isinstance(effect, self._enter):
            move = UnitMove(f"enter {self.name}", state._replace(readers=state.readers | {who}), answer=None)
        else:
            waits = tuple((one, readers - {who}) for one, readers in state.waits)
            move = UnitMove(f"leave {self.name}", SrcuState(state.readers - {who}, waits), answer=None)
        return Pending(mine, mine, () if move is None else (move,))

    def _wait(self, who: int, state: SrcuState) -> UnitMove | None:
        waits = dict(state.waits)
        if who not in waits and state.readers:
            after = state._replace(waits=(*state.waits, (who, state.readers)))
            return UnitMove(f"waits for readers of {self.name}", after)
        if waits.pop(who, None):
            return None
        return UnitMove(f"no earlier reader of {self.name}", state._replace(waits=tuple(waits.items())), answer=None)

    def own_moves(self, which: int, state: SrcuState, memory: SparseMem) -> Pending:
        """See `Unit`; there are no threads."""
        raise NotImplementedError

    def own_position(self, which: int, state: SrcuState) -> int:
        """See `Unit`; there are no threads."""
        raise NotImplementedError
