"""MMIO entries: their generation, the vCPU's cache, what a change of slots does to both (facts A2, C1, K)."""

from cocotb_tests.unit.pymodel.kvm.support import ALL, FINAL, HVA, READ, Machine
from pymodel.kvm import slot_ops
from pymodel.kvm.effects import KvmEffect, SrcuSynchronize
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.mmio import is_cached
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_12, KvmVersion

_RESERVED = FINAL | 0xC
_OTHER = Memslot(1, 0x1000, 16, HVA + (1 << 30), 0)


@ALL
def test_mmio_entry_is_good_until_the_slots_change(version: KvmVersion) -> None:
    machine = Machine(version, npages=16)
    assert machine.fault(100, READ).emulate
    assert machine.vm.fmt.is_mmio(machine.entry(100)[1])
    machine.log.clear()
    assert machine.fault(100, _RESERVED).emulate
    assert machine.transitions() == []
    machine.run(slot_ops.create(machine.vm, _OTHER))
    machine.log.clear()
    assert machine.fault(100, _RESERVED).emulate
    assert len(machine.transitions()) == 1
    assert machine.vm.fmt.mmio_generation(machine.entry(100)[1]) == machine.vm.slots.generation()


def test_slot_over_an_mmio_entry_is_mapped_at_the_next_access() -> None:
    machine = Machine(V6_12, npages=16)
    machine.fault(0x1003, READ)
    machine.run(slot_ops.create(machine.vm, Memslot(1, 0x1000, 16, HVA + (1 << 30), 0)))
    assert machine.fault(0x1003, _RESERVED).code == V6_12.ret_fixed
    assert machine.vm.fmt.is_present(machine.entry(0x1003)[1])


def test_fault_in_flight_over_a_new_slot_makes_an_entry_that_is_already_old() -> None:
    """Its generation is that of before the slot, for the slots wait for their readers before theirs grows."""
    machine = Machine(V6_12, npages=16)
    slot = Memslot(1, 0x1000, 16, HVA + (1 << 30), 0)

    def fault_first(effect: object) -> None:
        if isinstance(effect, SrcuSynchronize):
            old = machine.vm.slots
            slots = old._by_gfn[0]
            old._by_gfn[0] = ([0], [machine.slot])
            machine.run(page_fault(machine.vm, machine.vcpu, 0x1003000, READ))
            old._by_gfn[0] = slots

    machine.watched(slot_ops.create(machine.vm, slot), fault_first)
    assert machine.vm.fmt.is_mmio(machine.entry(0x1003)[1])
    assert machine.fault(0x1003, _RESERVED).code == V6_12.ret_fixed


def test_entry_that_is_gone_makes_the_access_retry() -> None:
    machine = Machine(V6_12, npages=16)
    machine.vcpu.mmio_gfn = None
    assert machine.fault(100, _RESERVED).code == V6_12.ret_retry


def test_without_caching_no_entry_is_made() -> None:
    machine = Machine(V6_12, npages=16, mmio_caching=False)
    assert machine.fault(100, READ).emulate
    assert machine.transitions() == []


def test_gfn_beyond_the_guest_is_emulated_without_an_entry() -> None:
    machine = Machine(V6_12, npages=16)
    assert machine.fault(1 << 28, READ).emulate
    assert machine.transitions() == []


def test_ept_entry_is_a_misconfiguration() -> None:
    machine = Machine(V6_12, npages=16, fmt=ept(suppress_ve_empty=True))
    machine.fault(100, READ)
    level, value = machine.entry(100)
    assert (level, value & 0b111, value >> 12 & 0xFFF) == (1, 0b110, 100)


def test_no_mmio_entry_is_trusted_while_the_slots_change() -> None:
    """A slot came where the entry is; readers that find it are not waited for any more, but the change is not over."""
    machine = Machine(V6_12)
    gfn = machine.slot.npages + 3
    machine.fault(gfn)
    assert machine.fault(gfn, _RESERVED).emulate
    results = []

    def during(effect: KvmEffect) -> None:
        if isinstance(effect, SrcuSynchronize):
            results.append(machine.fault(gfn, _RESERVED))
            assert not is_cached(machine.vm, machine.vcpu, gfn)

    machine.watched(slot_ops.create(machine.vm, Memslot(1, gfn, 1, HVA + (gfn << 12), 0)), during)
    assert [one.emulate for one in results] == [False]
    assert not machine.vm.fmt.is_mmio(machine.entry(gfn)[1])
