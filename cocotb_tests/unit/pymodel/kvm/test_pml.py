"""The page-modification log: what lands in it, when it is read, and what an IOMMU's write leaves out (facts C7)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import READ, Machine
from pymodel.effects import FetchOr
from pymodel.kvm import dirty, dirty_ring, roots, slot_ops
from pymodel.kvm.effects import KvmAgent, Trace
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_12, KvmVersion
from pymodel.kvm.vm import PML_ENTRIES

_FMT = ept(suppress_ve_empty=True)


def _machine(version: KvmVersion = V6_12, npages: int = 4096, **params: int | bool) -> Machine:
    return Machine(version, npages, fmt=_FMT, log_by_dirty_bit=True, **params)


def _exits(machine: Machine) -> list[str | int]:
    return [one.fields[0][1] for one in machine.log if isinstance(one, Trace) and one.name == "vmexit"]


@pytest.mark.parametrize("version", [V6_1, V6_12], ids=lambda one: one.name)
def test_write_after_the_log_was_read_needs_no_fault(version: KvmVersion) -> None:
    machine = _machine(version)
    machine.guest((3, "write"))
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.log.clear()
    assert machine.guest((3, "write"), (3, "write"), (3, "read")) == 0
    assert _exits(machine) == ["hlt"]
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == {3}
    assert machine.entry(3)[1] & _FMT.dirty == 0
    machine.guest((3, "write"))
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == {3}


def test_full_buffer_leaves_the_guest_and_goes_on() -> None:
    machine = _machine()
    accesses = [(gfn, "write") for gfn in range(PML_ENTRIES + 3)]
    machine.guest(*accesses)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.log.clear()
    assert machine.guest(*accesses) == 0
    assert _exits(machine) == ["pml_full", "hlt"]
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == set(range(PML_ENTRIES + 3))


def test_buffer_of_a_running_vcpu_is_read_with_the_log() -> None:
    machine = _machine(flags=LOG_DIRTY)
    machine.guest((3, "write"))
    machine.run(dirty.get_dirty_log(machine.vm, machine.slot))
    machine.vcpu.pml = [0x3000, 0x5000]
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == {3, 5}
    assert machine.vcpu.pml == []
    machine.vcpu.pml = [0x6000]
    machine.run(dirty.clear_dirty_log(machine.vm, machine.slot, 0, []))
    assert machine.slot.dirty == {6}


def test_huge_page_is_made_small_by_its_first_logged_write() -> None:
    """One D says too little about 512 pages: without W on the huge page its later writes would be lost."""
    machine = _machine(eager_page_split=False)
    machine.level = 2
    machine.guest((3, "write"))
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.guest((3, "write"), (9, "write"))
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == {3, 9}


def test_cpu_logs_only_while_a_slot_does_and_no_guest_of_the_guest_runs() -> None:
    machine = _machine()

    def logs() -> bool:
        return machine.vcpu.pml_enabled

    assert logs() is False
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert logs() is True
    machine.run(roots.switch_role(machine.vm, machine.vcpu, guest_mode=True))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert logs() is False
    machine.run(roots.switch_role(machine.vm, machine.vcpu))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert logs() is True
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert logs() is False


def test_write_protection_never_uses_the_buffer() -> None:
    machine = Machine(V6_12, fmt=_FMT, flags=LOG_DIRTY)
    machine.guest((3, "write"))
    assert not machine.vcpu.pml_enabled
    assert machine.slot.dirty == {3}


def test_ring_keeps_room_for_a_whole_buffer() -> None:
    machine = _machine(flags=LOG_DIRTY, dirty_ring_size=1024)
    assert machine.vm.params.ring_reserved == 64 + PML_ENTRIES
    machine.vcpu.ring = [(0, 0)] * 446
    machine.fault(0, READ)
    machine.vcpu.pml = [gfn << 12 for gfn in range(PML_ENTRIES)]
    assert machine.guest((0, "read")) == 0
    assert len(machine.vcpu.ring) == 447 + PML_ENTRIES
    assert dirty_ring.ring_full(machine.vm, machine.vcpu)


def test_write_of_a_device_is_in_no_log() -> None:
    """An IOMMU that sets D (SSADE) fills no buffer: KVM's log never hears of it (facts C7, D4 B4)."""
    machine = _machine()
    machine.guest((3, "write"))
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    table = next(table for table in machine.vm.tables.values() if table.level == 1)

    def dma() -> KvmAgent[None]:
        yield FetchOr((table.frame << 12) + 24, _FMT.accessed | _FMT.dirty)

    machine.run(dma())
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == set()
    assert machine.entry(3)[1] & _FMT.dirty, "the bit is there, to be scanned"
