"""Agents that share Python objects besides memory, such as the state of a VM.

Such agents are no functions of their answers. `explore` then takes a function that makes a whole `World`
anew: a position is reached by replaying all agents in the order of a schedule that led there, or by going on
with a world that stands there. Positions are equal where the generators stand at the same place with equal
variables, whatever led there. What an agent does between two effects counts as one step, which reads
everything shared and writes it where it changes. A schedule's first step of each agent runs it to its first
effect. Agents that touch nothing shared, such as devices, are better kept `apart`: they stay functions of
their answers, and nothing shared holds them up.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pymodel.effects import Delay
from pymodel.explore.agents import Factory, Node, advance
from pymodel.explore.freezing import freeze, places, position

__all__ = ["JointTrees", "Start", "World"]

_STANDING = 512
"""Worlds that are kept where they stand."""


@dataclass(frozen=True)
class World:
    """Fresh agents and everything that they share; `shared` has to name all of it."""

    agents: Mapping[str, Generator[Any, Any, Any]]
    shared: Any
    picture: Callable[[Any], Hashable] | None = None
    """What is equal for equal `shared`; `freeze` unless something faster is known."""
    apart: Mapping[str, Factory] = field(default_factory=dict)
    """Agents that touch nothing shared; they come behind the others."""

    def look(self) -> Hashable:
        """The picture of what is shared now."""
        return (self.picture or freeze)(self.shared)


_Running: TypeAlias = tuple[World, list[Generator[Any, Any, Any]]]


@dataclass(frozen=True, slots=True)
class Start:
    """The first step of an agent in a world."""


class JointTrees:
    """Positions of agents that share a world. What is shared counts by the number of its picture, the first is 0."""

    def __init__(self, make: Callable[[], World], quiet: tuple[type, ...], keep: bool) -> None:
        """`keep`: copies of what is shared are wanted, for a check of each state."""
        world = make()
        self._make = make
        self._quiet = (Delay, *quiet)
        self._keep = keep
        self._numbers: dict[Hashable, int] = {}
        self.names = tuple(world.agents)
        self.apart = dict(world.apart)
        self.copies: list[Any] = []
        """What was shared, by number, where copies are wanted."""
        self._number(world)
        self._standing: dict[tuple[tuple[int, ...], int], _Running] = {}
        """Worlds by the positions of their agents and the number of what they share, oldest first."""
        self._positions: list[dict[Hashable, Node]] = [{} for _ in self.names]
        self.grown = False
        """A new way to a known position told something new about what may come."""
        self.nodes: list[list[Node]] = []
        for _ in self.names:
            root = Node(0)
            root.effect = Start()
            self.nodes.append([root])

    def _number(self, world: World) -> int:
        picture = world.look()
        number = self._numbers.setdefault(picture, len(self._numbers))
        if self._keep and number == len(self.copies):
            self.copies.append(deepcopy(world.shared))
        return number

    def answer(self, old: Node, new: Node, shared: int) -> Any:
        """An answer with which a step leads from one position to the other."""
        return next(key[0] for key, (child, _) in old.children.items() if child is new and key[1] == shared)

    def _replayed(self, shared: int, history: list[tuple[int, Any]]) -> _Running:
        world = self._make()
        agents = list(world.agents.values())
        for who, answer in history:
            advance(self.names[who], agents[who], answer, self._quiet, None)
        if self._numbers.get(world.look()) != shared:
            raise ValueError("a world must depend on nothing but the steps taken in it: a replay led elsewhere")
        return world, agents

    def after(
        self,
        who: int,
        positions: tuple[int, ...],
        answer: Any,
        shared: int,
        history: Callable[[], list[tuple[int, Any]]],
    ) -> tuple[Node, int]:
        """The position that follows for agent `who`, and what is shared then.

        `positions`: of all that share, now; `shared`: what is shared now; `history` tells (agent, answer) of each
        step that led to where we are.
        """
        node = self.nodes[who][positions[who]]
        known: tuple[Node, int] | None = node.children.get((answer, shared))
        if known is not None:
            return known
        running = self._standing.pop((positions, shared), None) or self._replayed(shared, history())
        world, agents = running
        fresh = Node(len(self.nodes[who]), node)
        advance(self.names[who], agents[who], answer, self._quiet, fresh)
        fresh.value = freeze(fresh.value)
        where = None if fresh.done else position(agents[who], places(world.shared))
        child = self._positions[who].setdefault((fresh.events, fresh.value, fresh.effect, where), fresh)
        if child is fresh:
            self.nodes[who].append(child)
        elif node not in child.parents:
            child.parents.append(node)
            self.grown = node.touch(child.future_reads, child.future_writes) or self.grown
        now = self._number(world)
        node.children[answer, shared] = child, now
        self._standing[(*positions[:who], child.number, *positions[who + 1 :]), now] = running
        if len(self._standing) > _STANDING:
            del self._standing[next(iter(self._standing))]
        return child, now
