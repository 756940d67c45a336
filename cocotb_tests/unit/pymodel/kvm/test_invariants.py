"""Each invariant of facts C12 has a state that it rejects, next to a state that it lets pass."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import HVA, Machine
from pymodel.kvm.invariants import Held, InvariantError, check, check_entries, check_held, entries_of
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import ADDRESS, LARGE, WRITABLE, ept
from pymodel.kvm.version import V6_12
from pymodel.kvm.vm import Table

FRAME = 0x100000
"""Host frame of gfn 0 in `Machine`."""


@pytest.fixture
def machine() -> Machine:
    """gfn 3 in a small page, gfn 512.. in a huge one."""
    machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True, marker=59))
    machine.fault(3)
    machine.level = 2
    machine.fault(513)
    check(machine.vm, machine.memory.load, settled=True)
    return machine


def place(machine: Machine, gfn: int) -> int:
    """Address of the entry at which a walk for `gfn` ends."""
    assert machine.vcpu.root is not None
    table, level = machine.vcpu.root.frame << 12, machine.vcpu.root.level
    while True:
        address = table + 8 * (gfn >> 9 * (level - 1) & 511)
        value = machine.memory.load(address)
        if not machine.vm.fmt.is_table(value, level):
            return address
        table, level = value & ADDRESS, level - 1


def rejects(machine: Machine, text: str, *, settled: bool = False) -> None:
    with pytest.raises(InvariantError, match=text):
        check(machine.vm, machine.memory.load, settled=settled)


def root_of(machine: Machine) -> Table:
    root = machine.vcpu.root
    assert root is not None
    return root


def test_i1_leaf_maps_the_backing_of_its_gfn(machine: Machine) -> None:
    """Of small pages and of every page under a huge one; None stands for no page at all."""
    root = root_of(machine)
    entries = dict(entries_of(machine.vm, root, machine.memory.load))
    good: dict[int, int | None] = {3: FRAME + 3, 512: FRAME + 512, 700: FRAME + 700, 5: None}
    check_entries(machine.vm, root, entries, backing=good)
    wrong: tuple[tuple[int, int | None], ...] = ((3, FRAME + 4), (700, FRAME + 3), (3, None), (513, None))
    for gfn, behind in wrong:
        named = "no frame" if behind is None else f"frame {behind:#x}"
        with pytest.raises(InvariantError, match=f"I1: gfn {gfn:#x} belongs to {named}"):
            check_entries(machine.vm, root, entries, backing={**good, gfn: behind})


def test_i2_huge_leaf_is_aligned(machine: Machine) -> None:
    address = place(machine, 513)
    machine.memory.store(address, machine.memory.load(address) + 0x1000)
    rejects(machine, "I2: a huge leaf is not aligned")


@pytest.mark.parametrize(("first", "npages"), [(512, 100), (600, 1000)], ids=["leaves at the end", "begins before"])
def test_i2_huge_leaf_stays_inside_its_slot(machine: Machine, first: int, npages: int) -> None:
    """A slot that holds only a part of the leaf, and one beside it."""
    machine.vm.slots.remove(0)
    machine.vm.slots.install(Memslot(1, 1024 if first == 512 else 2048, 512, HVA + (1 << 30), 0))
    check(machine.vm, machine.memory.load)
    machine.vm.slots.install(Memslot(0, first, npages, HVA, 0))
    rejects(machine, "I2: a huge leaf leaves its slot")


def test_i2_huge_leaf_has_one_kind_of_memory(machine: Machine) -> None:
    """Unless the attributes are being changed."""
    machine.vm.private.change(600, 601, True)
    rejects(machine, "I2: a huge leaf over private and shared pages")
    machine.vm.mmu_invalidate_in_progress = 1
    check(machine.vm, machine.memory.load)


def test_i3_table_is_reached_once(machine: Machine) -> None:
    """Not through two entries, not after it was freed; the root's own page not either."""
    small = machine.memory.load(place(machine, 3) & ~0xFFF)
    table = next(table for table in machine.vm.tables.values() if table.level == 1)
    pointer = machine.vm.fmt.nonleaf(table.frame)
    assert small != pointer
    level2 = next(table for table in machine.vm.tables.values() if table.level == 2)
    machine.memory.store((level2.frame << 12) + 8 * 7, pointer)
    rejects(machine, "I3: table reached twice")
    machine.memory.store((level2.frame << 12) + 8 * 7, machine.vm.fmt.empty)
    del machine.vm.tables[table.frame]
    rejects(machine, "I3: table reached twice or freed")
    machine.vm.tables[table.frame] = table
    del machine.vm.tables[root_of(machine).frame]
    rejects(machine, "I3: the root .* was freed")


def test_i4_frozen_entry_does_not_stay(machine: Machine) -> None:
    """It may be there while somebody works, and not when nobody does."""
    machine.memory.store(place(machine, 4), machine.vm.fmt.frozen)
    check(machine.vm, machine.memory.load)
    rejects(machine, "I4: a frozen entry stayed behind", settled=True)


def test_i5_writable_means_allowed_to_be(machine: Machine) -> None:
    """W implies MMU-writable, which implies host-writable."""
    fmt, address = machine.vm.fmt, place(machine, 3)
    entry = machine.memory.load(address)
    assert entry & WRITABLE
    machine.memory.store(address, entry & ~fmt.mmu_writable)
    rejects(machine, "I5: writable but not MMU-writable")
    machine.memory.store(address, entry & ~fmt.host_writable)
    rejects(machine, "I5: MMU-writable but not host-writable")
    machine.memory.store(address, entry & ~(WRITABLE | fmt.mmu_writable | fmt.host_writable))
    check(machine.vm, machine.memory.load)


def test_i6_exported_root_suits_an_iommu(machine: Machine) -> None:
    """No bit 11, nothing that is writable but not readable, never invalid; other roots may have all of these."""
    root, address = root_of(machine), place(machine, 3)
    entry = machine.memory.load(address)
    for change, text in (
        (lambda: machine.memory.store(address, entry | 1 << 11), "I6: bit 11"),
        (lambda: machine.memory.store(place(machine, 4), 0b110), "I6: write without read"),
        (lambda: setattr(root, "invalid", True), "I6: an exported root became invalid"),
    ):
        root.exported = False
        change()
        check(machine.vm, machine.memory.load)
        root.exported = True
        rejects(machine, text)
        machine.memory.store(address, entry)
        machine.memory.store(place(machine, 4), machine.vm.fmt.empty)
        root.invalid = False
        check(machine.vm, machine.memory.load)


def test_i7_nothing_holds_a_frame_that_may_be_used_again() -> None:
    """A small page, and any page of a huge one; the message names the holder and the frame."""
    held = [Held("a TLB", 7), Held("a walk", 512, 512)]
    check_held(held, set())
    check_held(held, {6, 8, 511, 1024})
    with pytest.raises(InvariantError, match="I7: a TLB still holds frame 0x7"):
        check_held(held, {7})
    with pytest.raises(InvariantError, match="I7: a walk still holds frame 0x3ff"):
        check_held(held, {1023})


def test_large_entry_of_a_dead_root_is_no_concern(machine: Machine) -> None:
    """What an invalid root maps is about to go: its slots may be gone already."""
    root = root_of(machine)
    machine.vm.slots.remove(0)
    machine.vm.slots.install(Memslot(0, 512, 100, HVA, 0))
    rejects(machine, "I2")
    root.invalid = True
    check(machine.vm, machine.memory.load)
    assert machine.memory.load(place(machine, 513)) & LARGE
