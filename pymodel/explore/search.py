"""The graph of states that a search has found."""

from typing import Any

from pymodel.explore.results import Outcome
from pymodel.memory import SparseMem

__all__ = ["Search", "State", "count_schedules"]

State = tuple[SparseMem, tuple[int, ...], tuple[Any, ...]]
"""Memory, position of each agent, state of each unit (and what agents share besides, at the end)."""


class Search:
    """States in the order in which they were found."""

    def __init__(self) -> None:
        self.numbers: dict[State, int] = {}
        self.states: list[State] = []
        self.origins: list[tuple[int, int, str, bool]] = []
        """(state before, participant, label, whether an agent came to another position) of each."""
        self.edges: list[list[int]] = []
        self.ends: dict[Outcome, int] = {}

    def add(self, state: State, origin: tuple[int, int, str, bool]) -> int:
        """Number of the state, new or known."""
        number = self.numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self.origins.append(origin)
            self.edges.append([])
        return number


def count_schedules(edges: list[list[int]]) -> int:
    """Paths from state 0 to states without successors; `ValueError` for a cycle."""
    waiting = [0] * len(edges)
    for targets in edges:
        for target in targets:
            waiting[target] += 1
    paths = [0] * len(edges)
    paths[0] = 1
    ready = [0] if not waiting[0] else []
    total = seen = 0
    while ready:
        at = ready.pop()
        seen += 1
        if not edges[at]:
            total += paths[at]
        for target in edges[at]:
            paths[target] += paths[at]
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if seen != len(edges):
        raise ValueError("the state graph has a cycle: a unit must not come back to a state that it left")
    return total
