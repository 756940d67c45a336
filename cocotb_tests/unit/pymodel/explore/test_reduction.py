"""Partial-order reduction gives the outcomes of plain enumeration, with schedules of the same length."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.explore.programs import LATE, PAGES, PD, WORDS, programs, random_machine
from cocotb_tests.unit.pymodel.litmus.explored import PAGE
from pymodel.explore import Exploration, IommuAgent, Pending, explore
from pymodel.explore.iommu_state import IommuState
from pymodel.explore.unit import Unit
from pymodel.litmus import all_tests
from pymodel.litmus import explore as explore_litmus
from pymodel.memory import SparseMem

PROGRAMS, MACHINES = 400, 60


def lengths(found: Exploration) -> dict[Any, int]:
    return {outcome: len(schedule) for outcome, schedule in found.outcomes.items()}


def assert_documented(what: str, plain: list[Exploration], reduced: list[Exploration]) -> None:
    """docs/litmus.md has this row: states plain and reduced, transitions plain and reduced."""
    both = plain, reduced
    counts = [sum(one.states for one in found) for found in both]
    counts += [sum(one.transitions for one in found) for found in both]
    row = f"| {what} | " + " | ".join(f"{count:,}" for count in counts) + " |"
    assert row in PAGE.read_text().splitlines()


def test_random_programs_agree() -> None:
    """400 random programs of two to four agents over shared words."""
    observe = {hex(word): word for word in (*WORDS, LATE)}
    every: tuple[list[Exploration], list[Exploration]] = [], []
    for seed in range(PROGRAMS):
        agents, memory = programs(seed), SparseMem({WORDS[0]: 1})
        plain = explore(agents, memory, reduce=False, observe=observe)
        reduced = explore(agents, memory, observe=observe)
        assert lengths(reduced) == lengths(plain), seed
        every[0].append(plain)
        every[1].append(reduced)
    assert 2 * sum(found.states for found in every[1]) < sum(found.states for found in every[0])
    assert_documented("400 random programs", *every)


OBSERVE = {hex(word): word for word in (PD, *PAGES)}


def machine_outcomes(seed: int, make: type[IommuAgent], reduce: bool) -> Exploration:
    agents, memory, iommu = random_machine(seed, make)
    return explore(agents, memory, (iommu,), reduce=reduce, observe=OBSERVE)


def test_random_machines_agree() -> None:
    """Random table edits and invalidations against devices, with random knobs of the IOMMU."""
    every: tuple[list[Exploration], list[Exploration]] = [], []
    for seed in range(MACHINES):
        plain = machine_outcomes(seed, IommuAgent, False)
        reduced = machine_outcomes(seed, IommuAgent, True)
        assert lengths(reduced) == lengths(plain), seed
        every[0].append(plain)
        every[1].append(reduced)
    assert 3 * sum(found.transitions for found in every[1]) < 2 * sum(found.transitions for found in every[0])
    assert_documented("60 random machines", *every)


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


DOCUMENTED = ("L09", "L10", "L45")
SMALL = ("L03", "L07", "L09", "L10", "L42", "L43", "L44", "L45")


@pytest.mark.parametrize("twin", [False, True], ids=["correct", "twin"])
@pytest.mark.parametrize("id", SMALL)
def test_litmus_tests_agree(id: str, twin: bool) -> None:
    """Whole litmus tests of the catalogue."""
    assert id in all_tests()
    both = explore_litmus(id, twin).runs, explore_litmus(id, twin, reduce=False).runs
    for reduced, plain in zip(*both, strict=True):
        assert lengths(reduced.exploration) == lengths(plain.exploration)
        assert reduced.forbidden == plain.forbidden
        assert reduced.exploration.states <= plain.exploration.states
    if id in DOCUMENTED and not twin:
        assert_documented(id, *([run.exploration for run in runs] for runs in reversed(both)))


WITH_KVM = ("L12", "L13", "L14", "L15", "L16", "L18")


def kvm_runs(id: str, twin: bool, reduce: bool) -> list[Exploration]:
    """Every variant without its check, for that wants plain enumeration."""
    test = all_tests()[id]
    found = []
    for case in test.twins if twin else test.cases:
        scenario = test.build(twin, case)
        found.append(
            explore(scenario.agents, scenario.memory, scenario.units, reduce=reduce, observe=scenario.observe,
                    quiet=scenario.quiet)
        )  # fmt: skip
    return found


@pytest.mark.parametrize("twin", [False, True], ids=["correct", "twin"])
@pytest.mark.parametrize("id", WITH_KVM)
def test_litmus_tests_with_kvm_agree(id: str, twin: bool) -> None:
    """Agents of KVM that share a VM, with SRCU, locks, TLBs, the host and the IOMMU."""
    every = kvm_runs(id, twin, True), kvm_runs(id, twin, False)
    for reduced, plain in zip(*every, strict=True):
        assert lengths(reduced) == lengths(plain)
        assert reduced.transitions < plain.transitions
    if id == "L14" and not twin:
        assert_documented("L14 without its check", *reversed(every))


def test_a_missing_footprint_is_found_with_kvm() -> None:
    """An IOMMU whose queue keeps secret that it touches walks: plain enumeration finds more."""

    def run(case: str, make: type[IommuAgent], reduce: bool) -> Exploration:
        scenario = all_tests()["L16"].build(case != "device", case)
        units: list[Unit] = []
        for unit in scenario.units:
            if isinstance(unit, IommuAgent):
                units.append(make(unit.params, unit.devices, unit.queue))
            else:
                units.append(unit)
        return explore(scenario.agents, scenario.memory, units, reduce=reduce, observe=scenario.observe,
                       quiet=scenario.quiet)  # fmt: skip

    cases = ("device", "importer does not wait")
    assert all(lengths(run(case, IommuAgent, True)) == lengths(run(case, IommuAgent, False)) for case in cases)
    assert any(lengths(run(case, Secretive, True)) != lengths(run(case, Secretive, False)) for case in cases)


@pytest.mark.parametrize(("id", "twin"), [("L12", False), ("L12", True), ("L13", False), ("L13", True), ("L14", False)])
def test_merged_positions_lose_nothing(id: str, twin: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions of KVM's agents as whole histories: the same outcomes, schedules of the same length."""
    merged = kvm_runs(id, twin, True)
    monkeypatch.setattr("pymodel.explore.world.position", lambda *_: object())
    for one, other in zip(merged, kvm_runs(id, twin, True), strict=True):
        assert lengths(one) == lengths(other)
        assert one.states <= other.states
