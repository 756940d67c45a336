"""Partial-order reduction gives the outcomes of plain enumeration, with schedules of the same length."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.explore.programs import LATE, PAGES, PD, WORDS, programs, random_machine
from pymodel.explore import Exploration, IommuAgent, Pending, explore
from pymodel.explore.iommu_state import IommuState
from pymodel.litmus import all_tests
from pymodel.litmus import explore as explore_litmus
from pymodel.memory import SparseMem

PROGRAMS, MACHINES = 400, 60


def lengths(found: Exploration) -> dict[Any, int]:
    return {outcome: len(schedule) for outcome, schedule in found.outcomes.items()}


def test_random_programs_agree() -> None:
    """400 random programs of two to four agents over shared words."""
    observe = {hex(word): word for word in (*WORDS, LATE)}
    plain_states = reduced_states = 0
    for seed in range(PROGRAMS):
        agents, memory = programs(seed), SparseMem({WORDS[0]: 1})
        plain = explore(agents, memory, reduce=False, observe=observe)
        reduced = explore(agents, memory, observe=observe)
        assert lengths(reduced) == lengths(plain), seed
        plain_states += plain.states
        reduced_states += reduced.states
    assert 2 * reduced_states < plain_states


OBSERVE = {hex(word): word for word in (PD, *PAGES)}


def machine_outcomes(seed: int, make: type[IommuAgent], reduce: bool) -> Exploration:
    agents, memory, iommu = random_machine(seed, make)
    return explore(agents, memory, (iommu,), reduce=reduce, observe=OBSERVE)


def test_random_machines_agree() -> None:
    """Random table edits and invalidations against devices, with random knobs of the IOMMU."""
    plain_moves = reduced_moves = 0
    for seed in range(MACHINES):
        plain = machine_outcomes(seed, IommuAgent, False)
        reduced = machine_outcomes(seed, IommuAgent, True)
        assert lengths(reduced) == lengths(plain), seed
        plain_moves += plain.transitions
        reduced_moves += reduced.transitions
    assert 3 * reduced_moves < 2 * plain_moves


class Secretive(IommuAgent):
    """Its queue does not tell that it touches walks."""

    def own_moves(self, which: int, state: IommuState, memory: SparseMem) -> Pending:
        pending = super().own_moves(which, state, memory)
        hidden = self._all("walk") | self._all("dma")
        return pending._replace(reads=pending.reads - hidden, writes=pending.writes - hidden)


def test_a_missing_footprint_is_found() -> None:
    """The comparison has teeth: an IOMMU with an incomplete footprint disagrees with plain enumeration."""
    assert any(
        lengths(machine_outcomes(seed, Secretive, True)) != lengths(machine_outcomes(seed, Secretive, False))
        for seed in range(MACHINES)
    )


SMALL = ("L03", "L07", "L09", "L10", "L42", "L43", "L44", "L45")


@pytest.mark.parametrize("twin", [False, True], ids=["correct", "twin"])
@pytest.mark.parametrize("id", SMALL)
def test_litmus_tests_agree(id: str, twin: bool) -> None:
    """Whole litmus tests of the catalogue."""
    assert id in all_tests()
    for reduced, plain in zip(explore_litmus(id, twin).runs, explore_litmus(id, twin, reduce=False).runs, strict=True):
        assert lengths(reduced.exploration) == lengths(plain.exploration)
        assert reduced.forbidden == plain.forbidden
        assert reduced.exploration.states <= plain.exploration.states
