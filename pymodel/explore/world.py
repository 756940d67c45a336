"""Agents that share Python objects besides memory, such as the state of a VM.

Such agents are no functions of their answers. `explore` then takes a function that makes a whole `World`
anew: a position is reached by replaying all agents in the order of a schedule that led there. What an agent
does between two effects counts as one step, which reads everything shared and writes it where it changes.
A schedule's first step of each agent runs it to its first effect.
"""

from collections.abc import Callable, Generator, Hashable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pymodel.effects import Delay
from pymodel.explore.agents import Node, advance

__all__ = ["JointTrees", "Start", "World", "freeze"]


@dataclass(frozen=True)
class World:
    """Fresh agents and everything that they share; `shared` has to name all of it."""

    agents: Mapping[str, Generator[Any, Any, Any]]
    shared: Any


@dataclass(frozen=True, slots=True)
class Start:
    """The first step of an agent in a world."""


class JointTrees:
    """Positions of agents that share a world."""

    def __init__(self, make: Callable[[], World], quiet: tuple[type, ...]) -> None:
        world = make()
        self._make = make
        self._quiet = (Delay, *quiet)
        self.names = tuple(world.agents)
        self.shared = freeze(world.shared)
        self.nodes: list[list[Node]] = []
        for _ in self.names:
            root = Node(0)
            root.effect = Start()
            self.nodes.append([root])

    def after(
        self,
        who: int,
        node: Node,
        answer: Any,
        shared: Hashable,
        history: Callable[[], list[tuple[int, Any]]],
    ) -> Node:
        """The position that follows; `history` tells (agent, answer) of each step that led to where we are."""
        child = node.children.get((answer, shared))
        if child is not None:
            return child
        world = self._make()
        agents = list(world.agents.values())
        for other, earlier in history():
            advance(self.names[other], agents[other], earlier, self._quiet, None)
        if freeze(world.shared) != shared:
            raise ValueError("a world must depend on nothing but the steps taken in it: a replay led elsewhere")
        child = Node(len(self.nodes[who]), node, answer)
        advance(self.names[who], agents[who], answer, self._quiet, child)
        child.value = freeze(child.value)
        child.shared = freeze(world.shared)
        self.nodes[who].append(child)
        node.children[answer, shared] = child
        return child


def freeze(value: Any) -> Hashable:
    """A hashable picture of a value and all that it refers to; equal pictures mean equal states.

    Objects that appear twice are told apart from two equal ones. A function counts with what it is bound to.
    Raises `TypeError` for something whose state cannot be seen, such as a generator.
    """
    return _freeze(value, {})


def _freeze(value: Any, seen: dict[int, int]) -> Hashable:
    if value is None or isinstance(value, int | str | bytes | float | Enum | type):
        return value
    if isinstance(value, tuple) and not value:
        return ()
    if isinstance(value, frozenset | set):
        return frozenset(_freeze(item, {}) for item in value)
    if not isinstance(value, tuple):  # tuples are values, other things have an identity
        if id(value) in seen:
            return ("again", seen[id(value)])
        seen[id(value)] = len(seen)
    if isinstance(value, tuple | list):
        return (type(value).__name__, *(_freeze(item, seen) for item in value))
    if isinstance(value, dict):
        return ("dict", *((_freeze(key, seen), _freeze(item, seen)) for key, item in value.items()))
    if callable(value) and hasattr(value, "__qualname__"):
        owner = getattr(value, "__self__", None)
        cells = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        return ("call", value.__qualname__, _freeze(owner, seen), _freeze(tuple(cells), seen))
    names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    names += getattr(value, "__dict__", {})
    if (not names and type(value).__module__ == "builtins") or isinstance(value, Generator):
        raise TypeError(f"the state of a {type(value).__name__} cannot be seen: keep it out of a World")
    fields = ((name, _freeze(getattr(value, name), seen)) for name in names if hasattr(value, name))
    return (type(value).__qualname__, *fields)
