"""What an exploration returns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymodel.effects import Event
from pymodel.memory import SparseMem

__all__ = ["Exploration", "Outcome", "ScheduleStep", "StateView", "TooLarge"]


class TooLarge(RuntimeError):
    """The exploration met more states than it was allowed."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one schedule ended."""

    events: tuple[tuple[Event, ...], ...]
    """Of each agent, in its own order."""
    values: tuple[Any, ...]
    """What each agent returned; None where it is stuck."""
    memory: tuple[tuple[str, int], ...]
    """The observed words."""
    stuck: tuple[str, ...] = ()
    """Agents that wait for something that never comes."""
    broken: str = ""
    """What `check` said about the last state."""

    def named(self, name: str) -> list[dict[str, Any]]:
        """Details of all events of that name, agent by agent."""
        return [dict(event.details) for events in self.events for event in events if event.name == name]

    def word(self, name: str) -> int:
        """An observed word."""
        return dict(self.memory)[name]


@dataclass(frozen=True, slots=True)
class ScheduleStep:
    """One row of a schedule."""

    who: str
    label: str
    events: tuple[Event, ...] = ()
    """What the agent said after this step."""


@dataclass(frozen=True, slots=True)
class StateView:
    """One state, as a check sees it; nothing of it may be changed."""

    memory: SparseMem
    units: Mapping[str, Any]
    """State of each unit, by its name."""
    shared: Any
    """A copy of what the agents of a `World` share; None where there is no world."""
    number: int
    """Equal where what is shared is equal."""


@dataclass(frozen=True)
class Exploration:
    """Everything that can happen."""

    participants: tuple[str, ...]
    outcomes: Mapping[Outcome, tuple[ScheduleStep, ...]]
    """Each reachable outcome with a shortest schedule."""
    states: int
    transitions: int
    schedules: int
    """Complete schedules through the states that were visited."""
    passes: int
    """Explorations until nothing new was learnt about who touches what."""
    seconds: float
