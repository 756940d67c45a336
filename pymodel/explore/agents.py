"""Agents under the explorer: a generator cannot be copied, so its positions form a tree of answers.

A node is the history of answers that an agent got. The next effect of each node is found once: by going on
with a generator that stands there, or by replaying a new one from the recorded answers. So an agent must be
a function of its answers; everything that it changes has to be made by its factory.
"""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass
from typing import Any, TypeAlias

from pymodel.effects import Delay, Event

__all__ = ["AgentTree", "Choose", "Factory", "Failed", "Node", "advance"]

Factory: TypeAlias = Callable[[], Generator[Any, Any, Any]]
"""Makes a fresh agent."""

_MAX_LOCAL = 10_000


@dataclass(frozen=True, slots=True)
class Choose:
    """Go on with any one of `options`; the explorer tries them all. Answered with the option."""

    options: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        if not self.options:
            raise ValueError("Choose needs at least one option")


@dataclass(frozen=True, slots=True)
class Failed:
    """What an agent returned that broke one of its own assertions."""

    text: str


class Node:
    """A position of an agent, with the resources that it and the positions after it touch, as bit masks."""

    __slots__ = ("answer", "children", "done", "effect", "events", "future_reads", "future_writes", "generator",
                 "number", "parents", "value")  # fmt: skip

    def __init__(self, number: int, parent: "Node | None" = None, answer: Any = None) -> None:
        self.number = number
        self.parents = [parent] if parent else []
        """More than one where several ways lead to the same position (`pymodel.explore.world`)."""
        self.answer = answer
        self.children: dict[Any, Any] = {}
        self.effect: Any = None
        self.done = False
        self.value: Any = None
        self.events: tuple[Event, ...] = parent.events if parent else ()
        self.generator: Generator[Any, Any, Any] | None = None
        self.future_reads = 0
        self.future_writes = 0

    def touch(self, reads: int, writes: int) -> bool:
        """This position touches these resources; True where that was not known."""
        pending = [self]
        grown = False
        while pending:
            node = pending.pop()
            if reads & ~node.future_reads or writes & ~node.future_writes:
                node.future_reads |= reads
                node.future_writes |= writes
                grown = True
                pending += node.parents
        return grown


def advance(
    name: str, generator: Generator[Any, Any, Any], answer: Any, quiet: tuple[type, ...], node: Node | None
) -> Any:
    """Go on to the next effect that concerns others and return it, None at the end; `node` records what happened."""
    events: tuple[Event, ...] = ()
    value: Any = None
    effect: Any = None
    try:
        for _ in range(_MAX_LOCAL):
            effect = generator.send(answer)
            if isinstance(effect, Event):
                events = (*events, effect)
            elif not isinstance(effect, quiet):
                break
            answer = None
        else:
            raise ValueError(f"agent {name} yields nothing but events and delays")
    except StopIteration as stop:
        effect, value = None, stop.value
    except AssertionError as error:
        effect, value = None, Failed(str(error))
    if node is not None:
        node.effect, node.value, node.done = effect, value, effect is None
        node.events = (*node.events, *events)
    return effect


class AgentTree:
    """All positions of one agent that were seen."""

    def __init__(self, name: str, factory: Factory, quiet: tuple[type, ...] = ()) -> None:
        """`quiet`: effects of these types are answered with None at once, as Event and Delay are."""
        self.name = name
        self._factory = factory
        self._quiet = (Delay, *quiet)
        self.root = Node(0)
        self.nodes: list[Node] = [self.root]
        generator = factory()
        advance(name, generator, None, self._quiet, self.root)
        self.root.generator = generator

    def after(self, node: Node, answer: Any) -> Node:
        """The position that follows when the effect of `node` is answered."""
        child: Node | None = node.children.get(answer)
        if child is None:
            child = Node(len(self.nodes), node, answer)
            self.nodes.append(child)
            generator, node.generator = node.generator, None
            if generator is None:
                generator = self._replay(node)
            advance(self.name, generator, answer, self._quiet, child)
            child.generator = generator
            node.children[answer] = child
        return child

    def _replay(self, node: Node) -> Generator[Any, Any, Any]:
        path = [node]
        while path[-1].parents:
            path.append(path[-1].parents[0])
        generator = self._factory()
        for step in reversed(path):
            effect = advance(self.name, generator, step.answer, self._quiet, None)
            if effect != step.effect:
                raise ValueError(
                    f"agent {self.name} must be a function of its answers: it yielded {step.effect!r} first and "
                    f"{effect!r} when it was run again"
                )
        return generator
