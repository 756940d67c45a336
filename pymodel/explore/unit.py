"""What takes part in an exploration beside memory and agents: hashable units such as an IOMMU or a lock.

A *resource* is what two moves can conflict about: the byte address of a memory word, or a tuple that starts
with the unit's name. Two moves may be swapped where neither writes a resource that the other reads or
writes; a unit promises that its footprints are complete and that moves which may be swapped commute.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

from pymodel.memory import SparseMem

__all__ = ["MORE", "NOTHING", "Pending", "Resource", "Unit", "UnitMove"]

Resource: TypeAlias = int | tuple[Hashable, ...]


class _More:
    """The type of `MORE`."""

    def __repr__(self) -> str:
        return "MORE"


MORE = _More()
"""Answer of a move after which the agent still waits for its effect to end."""


@dataclass(frozen=True, slots=True)
class UnitMove:
    """One thing that a unit may do now."""

    label: str
    """For the diagram."""
    state: Any
    """State of the unit afterwards; hashable."""
    stores: tuple[tuple[int, int], ...] = ()
    """(byte address of a 64-bit word, value) that the move writes."""
    answer: Any = MORE
    """What the agent's effect is answered with, or `MORE`."""


class Pending(NamedTuple):
    """What a participant wants to do next: all resources that this depends on, and the moves possible now."""

    reads: frozenset[Resource]
    writes: frozenset[Resource]
    moves: tuple[UnitMove, ...]


NOTHING = Pending(frozenset(), frozenset(), ())
"""A thread that will never move again unless somebody else wakes it through a resource it reads."""


class Unit(Protocol):
    """A shared component with hashable state. It never keeps state in itself."""

    @property
    def name(self) -> str:
        """Of the unit, unique."""
        ...

    @property
    def threads(self) -> tuple[str, ...]:
        """Names of what acts on its own, such as a queue processor."""
        ...

    def start(self, agents: int) -> Hashable:
        """First state, for so many agents."""
        ...

    def takes(self, effect: object) -> bool:
        """Whether this unit performs the effect."""
        ...

    def agent_moves(self, who: int, effect: Any, state: Any, memory: SparseMem) -> Pending:
        """What may happen next to the effect of agent number `who`."""
        ...

    def own_moves(self, which: int, state: Any, memory: SparseMem) -> Pending:
        """What thread number `which` of the unit may do."""
        ...

    def own_position(self, which: int, state: Any) -> int:
        """How far that thread is; rises with each of its moves and changes by nothing else."""
        ...
