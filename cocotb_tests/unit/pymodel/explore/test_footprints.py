"""What the comparison of reduction with plain enumeration is worth: each unit that hides its footprint is found."""

from collections.abc import Callable, Generator
from typing import Any

import pytest

from pymodel.effects import Load, Store
from pymodel.explore import CpuAgent, Exploration, Pending, Unit, explore
from pymodel.explore.explorer import _SHARED, _Explorer
from pymodel.explore.unit import Resource
from pymodel.kvm.effects import HostFault, MmuLock, MmuUnlock, SrcuEnter, SrcuLeave, SrcuSynchronize
from pymodel.litmus import all_tests
from pymodel.litmus.kvm_layout import HVA, A, B, host_entry, host_page
from pymodel.litmus.kvm_machine import LOCK, SRCU, HostMmu
from pymodel.memory import SparseMem

X, Y = 0x100, 0x108
Script = Callable[[], Generator[Any, Any, Any]]


def script(*effects: Any) -> Script:
    """An agent that yields these, and returns the answers."""

    def agent() -> Generator[Any, Any, Any]:
        answers = []
        for effect in effects:
            answers.append((yield effect))
        return tuple(answers)

    return agent


class Secretive:
    """A unit whose moves of agents pretend to touch nothing."""

    def __init__(self, unit: Unit) -> None:
        self.name, self.threads = unit.name, unit.threads
        self.start, self.takes = unit.start, unit.takes
        self.own_moves, self.own_position = unit.own_moves, unit.own_position
        self._unit = unit

    def agent_moves(self, who: int, effect: Any, state: Any, memory: SparseMem) -> Pending:
        return Pending(frozenset(), frozenset(), self._unit.agent_moves(who, effect, state, memory).moves)


def outcomes(found: Exploration) -> dict[Any, int]:
    return {outcome: len(schedule) for outcome, schedule in found.outcomes.items()}


TAKE, GIVE = MmuLock(write=True), MmuUnlock(write=True)
PROGRAMS: dict[str, tuple[dict[str, Script], Unit]] = {
    "lock": ({"one": script(TAKE, Load(X), Load(X), GIVE), "two": script(TAKE, Store(X, 1), GIVE)}, LOCK),
    "srcu": (
        {
            "reader": script(SrcuEnter(), Load(X), Load(Y), SrcuLeave()),
            "writer": script(Store(X, 1), SrcuSynchronize(), Store(Y, 1)),
        },
        SRCU,
    ),
    "host": (
        {"fault": script(HostFault(HVA, True, 0, False)), "host": script(Store(host_entry(0), host_page(B)))},
        HostMmu(),
    ),
}
"""Agents that share nothing but words and one unit."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_footprint_of_a_unit_is_complete_and_needed(name: str) -> None:
    """With its footprint nothing is missed, without it an outcome is."""
    agents, unit = PROGRAMS[name]
    memory = SparseMem({host_entry(0): host_page(A)})

    def run(one: Unit, reduce: bool) -> dict[Any, int]:
        return outcomes(explore(agents, memory, (one,), reduce=reduce))

    assert run(unit, True) == run(unit, False)
    assert run(Secretive(unit), False) == run(unit, False)
    assert set(run(Secretive(unit), True)) < set(run(unit, False))


def litmus(id: str, reduce: bool, secretive: type | None = None) -> dict[Any, int]:
    """First case of a test with KVM, without its check, for that wants plain enumeration."""
    test = all_tests()[id]
    scenario = test.build(False, test.cases[0])
    units = [Secretive(unit) if secretive and isinstance(unit, secretive) else unit for unit in scenario.units]
    return outcomes(
        explore(scenario.agents, scenario.memory, units, reduce=reduce, observe=scenario.observe, quiet=scenario.quiet)
    )


def test_footprint_of_the_cpus_is_complete_and_needed() -> None:
    """A vCPU's walk and access beside a page request for the same gfn."""
    assert litmus("L13", True) == litmus("L13", False) == litmus("L13", False, CpuAgent)
    assert litmus("L13", True, CpuAgent) != litmus("L13", False)


def test_what_agents_share_is_a_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """KVM's state counts as one word that its agents read and write: without that, schedules are missed."""
    plain = litmus("L14", False)
    assert litmus("L14", True) == plain
    mask = _Explorer._mask

    def blind(self: _Explorer, resources: frozenset[Resource]) -> int:
        return mask(self, resources - {_SHARED})

    monkeypatch.setattr(_Explorer, "_mask", blind)
    assert litmus("L14", True) != plain
