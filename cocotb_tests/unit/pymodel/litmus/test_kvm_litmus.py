"""The tests with KVM: each twin is caught for its own reason, with and without invariants; names for schedules."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.litmus.explored import explored
from pymodel.explore import Outcome, StateView
from pymodel.explore import explore as explore_scenario
from pymodel.explore.cpu_agent import CpuState, Translation
from pymodel.explore.iommu_state import Cached, Flight, IommuState, Walk
from pymodel.explore.locks import LockState
from pymodel.kvm.spte import WRITABLE, SpteFormat
from pymodel.kvm.vm import Vm
from pymodel.litmus import Scenario, all_tests, explore
from pymodel.litmus.kvm_checks import invariants
from pymodel.litmus.kvm_layout import EPT, HVA, NPT, REQUEST, A, B, host_entry, host_page, names
from pymodel.litmus.kvm_machine import READ, WRITE, Frames, build
from pymodel.litmus.machine import QUEUE, SECRET, STATUS
from pymodel.memory import SparseMem

WITH_KVM = ("L12", "L13", "L14", "L15", "L16", "L17", "L18", "L24", "L29")

REASONS = {
    ("L12", "store buffered"): "the retry after Success was refused",
    ("L12", "answered first"): "the retry after Success was refused",
    ("L13", "6.7"): "the request was answered with 0xf",
    ("L13", "6.13: spurious early"): "the request was answered with 0xf",
    ("L14", "sequence not compared"): "I1: gfn 0x3",
    ("L14", "sequence read after the lookup"): "I1: gfn 0x3",
    ("L14", "sequence grows late"): "I1: gfn 0x3",
    ("L14", "progress not looked at"): "I1: gfn 0x3",
    ("L15", "every fault retries"): "the fault outside has to wait",
    ("L15", "units mixed up"): "I1: gfn 0x3",
    ("L15", "nested range replaces"): "I1: gfn 0x3 belongs to no frame, level 2",
    ("L16", "importer not told"): "I7: the IOMMU's cache",
    ("L16", "importer does not wait"): "I7: the IOMMU's cache",
    ("L16", "no flush for the vCPU"): "I7: a TLB",
    ("L16", "flushed after the notifier"): "I7: the IOMMU's cache",
    ("L17", "CPU rule"): "I6: the page of the root",
    ("L17", "importer not told"): "I7: the IOMMU's cache",
    ("L18", "handler without srcu"): "I1: gfn 0x3 belongs to no frame",
    ("L18", "no synchronize_srcu"): "I1: gfn 0x3 belongs to no frame",
    ("L24", "plain store"): "the page was written and nothing says so",
    ("L24", "children without D"): "the page was written and nothing says so",
    ("L24", "no flush"): "the page was written and nothing says so",
    ("L29", "pointers kept"): "I7: the IOMMU's cache",
    ("L29", "used before the flush"): "I7: the IOMMU's cache",
    ("L29", "zapped, not split"): "a page request, although the page was mapped",
}
"""What each broken twin has to be caught by, among other things."""

LATER = {
    ("L14", "sequence not compared"): "the device read the old page",
    ("L14", "sequence read after the lookup"): "the device read the old page",
    ("L14", "sequence grows late"): "the device read the old page",
    ("L16", "importer not told"): "a device wrote the page",
    ("L16", "importer does not wait"): "a device wrote the page",
    ("L16", "no flush for the vCPU"): "a device wrote the page",
    ("L16", "flushed after the notifier"): "a device wrote the page",
    ("L17", "CPU rule"): "a device wrote the page",
    ("L17", "importer not told"): "a device wrote the page",
    ("L18", "handler without srcu"): "the deleted slot is still mapped",
    ("L18", "no synchronize_srcu"): "the deleted slot is still mapped",
    ("L29", "pointers kept"): "the device read 0x5ec2e7",
    ("L29", "used before the flush"): "the device read 0x5ec2e7",
}
"""What comes of it where no invariant ends the schedule before."""


@pytest.mark.parametrize("id", WITH_KVM)
def test_each_twin_is_caught_for_its_own_reason(id: str) -> None:
    """All of them are listed, and the reason is among what the exploration finds."""
    runs = explored(id, twin=True).runs
    assert {(id, run.case) for run in runs} == {key for key in REASONS if key[0] == id}
    for run in runs:
        reasons = set(run.forbidden.values())
        assert any(re.match(re.escape(REASONS[id, run.case]), reason) for reason in reasons), (run.case, reasons)


def without_check(id: str, case: str) -> tuple[Scenario, list[Outcome]]:
    scenario = all_tests()[id].build(True, case)
    found = explore_scenario(
        scenario.agents, scenario.memory, scenario.units, observe=scenario.observe, quiet=scenario.quiet
    )
    return scenario, list(found.outcomes)


@pytest.mark.parametrize(("id", "case"), LATER)
def test_forbidden_outcomes_are_reached_without_invariants(id: str, case: str) -> None:
    """An invariant ends a schedule early; left alone, the DMA or the access itself goes wrong."""
    scenario, outcomes = without_check(id, case)
    assert any(LATER[id, case] in scenario.forbidden(outcome) for outcome in outcomes)


@pytest.mark.parametrize("id", WITH_KVM)
def test_every_state_is_checked(id: str) -> None:
    """Correct protocols and twins have a check."""
    test = all_tests()[id]
    for twin, cases in ((False, test.cases), (True, test.twins)):
        for case in cases:
            assert test.build(twin, case).check is not None


def test_a_test_with_a_check_is_explored_without_reduction() -> None:
    """Reduction would leave out states that the check has to see."""
    plain, asked = explore("L12", reduce=False), explored("L12")
    assert (plain.states, plain.transitions) == (asked.states, asked.transitions)


def view(change: Callable[[Vm, SparseMem, Frames], None] | None = None, **units: Any) -> str:
    """What the invariants say about the machine in which gfns 3 and 4 are mapped, after a change."""
    kvm, memory = build(mapped={3: WRITE, 4: READ})
    if change is not None:
        change(kvm.vm, memory, kvm.frames)
    return invariants()(StateView(memory, {"mmu_lock": LockState(), **units}, kvm, 0))


LEAF = (0x13 << 12) + 8 * 3
"""Address of the leaf of gfn 3: root, two tables, then the one of leaves."""


def test_invariants_look_at_tables() -> None:
    """A good state, and one that breaks each of I1, I4, I5 and I6."""
    assert view() == ""
    assert "I1: gfn 0x3" in view(lambda vm, memory, _: memory.store(host_entry(3), B | 3))
    assert "I1: gfn 0x3" in view(lambda vm, memory, _: memory.store(host_entry(3), 0))
    assert "I1: gfn 0x3 belongs to no frame" in view(lambda vm, memory, _: vm.slots.remove(0))
    assert "I4" in view(lambda vm, memory, _: memory.store(LEAF, EPT.frozen))
    assert "I5" in view(lambda vm, memory, _: memory.store(LEAF, memory.load(LEAF) & ~EPT.host_writable))
    assert "I6: bit 11" in view(lambda vm, memory, _: memory.store(LEAF, memory.load(LEAF) | 1 << 11))
    assert "I6: the page of the root" in view(lambda vm, memory, _: vm.free_table(vm.roots[0]))


def test_an_open_invalidation_excuses_its_range() -> None:
    """I1 does not hold between begin and end, for gfns of the range; nor for a slot that is being deleted."""

    def moved(vm: Vm, memory: SparseMem, gfn: int) -> None:
        memory.store(host_entry(3), B | 3)
        vm.begin_invalidation(HVA + (gfn << 12), HVA + (gfn + 1 << 12))

    assert view(lambda vm, memory, _: moved(vm, memory, 3)) == ""
    assert "I1" in view(lambda vm, memory, _: moved(vm, memory, 4))

    def deleting(vm: Vm, memory: SparseMem, _: Frames) -> None:
        memory.store(host_entry(3), B | 3)
        vm.slots.existing(0).invalid = True

    assert view(deleting) == ""


def test_a_held_lock_excuses_frozen_entries() -> None:
    """I4 speaks of times when nobody works."""
    for lock in (LockState(writer=0), LockState(readers=frozenset({1}))):
        assert view(lambda vm, memory, _: memory.store(LEAF, EPT.frozen), mmu_lock=lock) == ""


CACHED = Cached("leaf", 7, 0, 3 << 12, A + (3 << 12), True, True)
POINTER = Cached("table", 7, 1, 0, 0x13 << 12, True, True)
TLB = Translation(0, 0x10 << 12, 1, 3, A + (3 << 12), True, True, True)


@pytest.mark.parametrize(
    ("units", "frame"),
    [
        ({"iommu": IommuState((None,), (None,), frozenset({CACHED}))}, (A >> 12) + 3),
        ({"iommu": IommuState((None,), (None,), frozenset({POINTER}))}, 0x13),
        ({"iommu": IommuState((Walk(POINTER),), (None,))}, 0x13),
        ({"iommu": IommuState((None,), (Flight(CACHED, A + (3 << 12), True),))}, (A >> 12) + 3),
        ({"cpu": CpuState((None,), frozenset({TLB}))}, (A >> 12) + 3),
        ({"cpu": CpuState((TLB,))}, (A >> 12) + 3),
    ],
    ids=["IOTLB", "walk cache", "walk", "DMA", "TLB", "CPU walk"],
)
def test_invariants_look_at_hardware(units: dict[str, Any], frame: int) -> None:
    """I7: whoever holds a frame that became free is found; before, nobody is."""
    assert view(**units) == ""
    assert "I7" in view(lambda vm, memory, frames: frames.free.add(frame), **units)
    absent = IommuState((None,), (None,), frozenset({CACHED._replace(kind="absent")}))
    assert view(lambda vm, memory, frames: frames.free.add(frame), iommu=absent) == ""


def test_pages_wait_for_their_task() -> None:
    """What a task frees may be used again when that task gives the lock back, not when another does (call_rcu)."""
    frames = Frames()
    first, second = frames.allocate(), frames.allocate()
    assert first != second
    frames.running = 1
    frames.release(first)
    frames.running = 2
    frames.release(second)
    frames.leave(2)
    assert frames.free == {second}
    frames.leave(1)
    assert frames.free == {first, second}


def test_names_of_words() -> None:
    """Tables by order, host entries, pages, queue, what agents pass each other; anything else by its address."""
    wanted = {
        0x10 << 12: "root[0]",
        LEAF: "table3[3]",
        host_entry(3): "host entry 3",
        A + 0x3008: "page A+3:0x8",
        B: "page B+0",
        SECRET: "page secret+0",
        QUEUE + 0x18: "queue+0x18",
        STATUS + 8: "status 1",
        REQUEST: "page request",
        0x16_0010: "0x160010",
    }
    assert {address: names().word(address) for address in wanted} == wanted


@pytest.mark.parametrize("fmt", [EPT, NPT], ids=["EPT", "NPT"])
def test_entries_in_words(fmt: SpteFormat) -> None:
    """What an entry of a table or of the host points to and grants; other words are numbers."""
    leaf = fmt.leaf((A >> 12) + 3, 1, 0, host_writable=True)
    wanted = {
        (LEAF, fmt.empty): "empty",
        (LEAF, fmt.frozen): "frozen",
        (LEAF, leaf): "page A+3 rwx A D",
        (LEAF, leaf & ~(fmt.dirty | WRITABLE)): "page A+3 r-x A",
        (LEAF, fmt.leaf(A >> 12, 2, 0, host_writable=True, executable=False)): "2M page A+0 rw- A D",
        (0x10 << 12, fmt.nonleaf(0x11)): "table1 rwx A",
        (LEAF, fmt.mmio(3, 1, 6)): hex(fmt.mmio(3, 1, 6)),
        (host_entry(3), 0): "none",
        (host_entry(3), host_page(B + 0x3000, writable=False)): "page B+3 r-",
        (A + 0x3000, leaf): hex(leaf),
    }
    assert {key: names(fmt).value(*key) for key in wanted} == wanted
