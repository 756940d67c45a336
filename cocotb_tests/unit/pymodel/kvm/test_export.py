"""An exported root: faults of devices, what may not happen to it, refusals (facts C3, C11, C12 I6, D1)."""

from collections.abc import Callable
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import HVA, READ, WRITE, Machine
from pymodel.kvm import export, memory_type, notifier, roots, slot_ops, write_track
from pymodel.kvm.effects import KvmEffect, MmuUnlock, SrcuEnter, TlbFlush
from pymodel.kvm.errors import EBUSY, EEXIST, EINVAL, KvmError
from pymodel.kvm.invariants import InvariantError, check
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_7, V6_12

_FMT = ept(suppress_ve_empty=True, marker=59)


def _machine(npages: int = 4096, **params: Any) -> tuple[Machine, export.TdpExport]:
    machine = Machine(V6_12, npages, fmt=_FMT, **params)
    return machine, machine.run(export.export(machine.vm))


def test_device_faults_map_what_vcpus_see() -> None:
    machine, tdp = _machine()
    assert tdp.root is machine.vcpu.root
    assert machine.run(export.io_fault(machine.vm, tdp, 0x5123, write=True)) == 0
    level, value = machine.entry(5)
    assert (level, value & 0b111, value >> 11 & 1) == (1, 0b111, 0)
    assert machine.run(export.io_fault(machine.vm, tdp, 0x5123, write=True)) == 0, "spurious is success"
    machine.fault(6, WRITE)
    assert machine.run(export.io_fault(machine.vm, tdp, 0x6000)) == 0


def test_device_fault_retries_until_the_notifier_is_through() -> None:
    machine, tdp = _machine()
    machine.run(notifier.invalidate_range_start(machine.vm, HVA + 0x5000, HVA + 0x6000))
    tries: list[KvmEffect] = []

    def count(effect: KvmEffect) -> None:
        if isinstance(effect, SrcuEnter):
            tries.append(effect)
            if len(tries) == 3:
                machine.run(notifier.invalidate_range_end(machine.vm, HVA + 0x5000, HVA + 0x6000))

    assert machine.watched(export.io_fault(machine.vm, tdp, 0x5000), count) == 0
    assert len(tries) == 3


def test_device_fault_that_cannot_be_served() -> None:
    machine, tdp = _machine(npages=16)
    machine.run(write_track.track_writes(machine.vm, 3))
    assert machine.run(export.io_fault(machine.vm, tdp, 0x3000, write=True)) == export.EPERM
    assert machine.run(export.io_fault(machine.vm, tdp, 0x3000)) == 0
    assert machine.run(export.io_fault(machine.vm, tdp, 0x100000)) == export.EFAULT
    assert machine.transitions()[-1][:2] == (3, 1), "no MMIO entry"


def test_device_write_is_logged_when_it_faults() -> None:
    machine, tdp = _machine()
    machine.run(export.io_fault(machine.vm, tdp, 0x3000, write=True))
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.run(export.io_fault(machine.vm, tdp, 0x3000, write=True)) == 0
    assert machine.slot.dirty == {3}


def test_exported_root_survives_a_deletion_and_is_flushed() -> None:
    machine, tdp = _machine()
    machine.fault(3)
    machine.log.clear()
    machine.run(slot_ops.delete(machine.vm, 0))
    assert machine.vm.roots == [tdp.root]
    assert not tdp.root.invalid
    kinds = [type(one) for one in machine.log]
    assert kinds.index(TlbFlush) < kinds.index(MmuUnlock), "before anybody can map again"
    check(machine.vm, machine.memory.load, settled=True)
    machine.log.clear()
    assert machine.fault(3, READ).emulate
    assert machine.transitions() == [], "an IOMMU would take an MMIO entry for memory"
    check(machine.vm, machine.memory.load)


def test_mmio_entry_in_an_exported_root_breaks_i6() -> None:
    machine = Machine(V6_12, npages=16, fmt=_FMT)
    machine.fault(100, READ)
    root = machine.vcpu.root
    assert root is not None
    check(machine.vm, machine.memory.load)
    root.exported = True
    with pytest.raises(InvariantError, match="I6"):
        check(machine.vm, machine.memory.load)


def test_export_without_a_root_makes_one_and_the_vcpu_finds_it() -> None:
    machine = Machine(V6_12, fmt=_FMT)
    machine.run(roots.zap_all_fast(machine.vm))
    tdp = machine.run(export.export(machine.vm))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.vcpu.root is tdp.root
    assert machine.vm.roots == [tdp.root]


def test_put_empties_the_root_without_a_flush_and_lets_go() -> None:
    machine, tdp = _machine()
    machine.fault(3)
    before = tdp.root.refcount
    machine.log.clear()
    machine.run(export.put_export(machine.vm, tdp))
    assert not machine.flushes()
    assert (tdp.root.exported, tdp.root.refcount) == (False, before - 1)
    assert len(machine.vm.tables) == 1
    machine.run(roots.release(machine.vm))
    machine.run(roots.destroy(machine.vm))
    assert machine.vm.tables == {}


def test_importers_are_registered_once_and_must_leave_first() -> None:
    machine, tdp = _machine()
    export.register_importer(tdp, "hwpt 1")
    with pytest.raises(KvmError, match="importer must be one that is not registered yet, not 'hwpt 1'") as caught:
        export.register_importer(tdp, "hwpt 1")
    assert caught.value.errno == EBUSY
    with pytest.raises(KvmError, match="importers must be none when the export ends") as caught:
        machine.run(export.put_export(machine.vm, tdp))
    assert caught.value.errno == EBUSY
    export.unregister_importer(tdp, "hwpt 1")
    with pytest.raises(KvmError, match="importer must be a registered one, not 'hwpt 1'"):
        export.unregister_importer(tdp, "hwpt 1")
    machine.run(export.put_export(machine.vm, tdp))


def test_noncoherent_device_is_refused_while_a_root_is_exported() -> None:
    machine, _ = _machine()
    with pytest.raises(KvmError, match="noncoherent_devices must be 0 while a root is exported") as caught:
        machine.run(memory_type.register_noncoherent(machine.vm))
    assert caught.value.errno == EBUSY
    assert machine.vm.noncoherent_devices == 0


def _second(machine: Machine) -> None:
    machine.run(export.export(machine.vm))


def _noncoherent(machine: Machine) -> None:
    machine.run(memory_type.register_noncoherent(machine.vm))


def _no_vcpus(machine: Machine) -> None:
    machine.vm.vcpus.clear()


@pytest.mark.parametrize(
    ("before", "as_id", "machine", "errno", "text"),
    [
        (None, 1, {"fmt": _FMT}, EINVAL, "as_id must be 0, not 1"),
        (_second, 0, {"fmt": _FMT}, EEXIST, "as_id must be one that is not exported yet, not 0"),
        (None, 0, {}, EINVAL, "format must be ept with the live marker at bit 59, not 'npt'"),
        (None, 0, {"fmt": ept(suppress_ve_empty=True)}, EINVAL,
         "format must be ept with the live marker at bit 59, not 'ept'"),
        (_no_vcpus, 0, {"fmt": _FMT}, EINVAL, "vcpus must be at least one, whose address width counts, not 0"),
        (_noncoherent, 0, {"fmt": _FMT}, EINVAL, "noncoherent_devices must be 0, not 1"),
        (None, 0, {"fmt": _FMT, "dirty_ring_size": 512}, EINVAL, "dirty_ring_size must be 0, not 0x200"),
    ],
)  # fmt: skip
def test_export_wrong_request(
    before: Callable[[Machine], None] | None, as_id: int, machine: dict[str, Any], errno: int, text: str
) -> None:
    one = Machine(V6_7, **machine)
    if before is not None:
        before(one)
    with pytest.raises(KvmError) as caught:
        one.run(export.export(one.vm, as_id))
    assert (str(caught.value), caught.value.errno) == (text, errno)
