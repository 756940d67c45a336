"""Write tracking: writes are emulated, pages small and read-only, devices refused (facts C1 step 1, D2)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, READ, WRITE, Machine
from pymodel.kvm import slot_ops, write_track
from pymodel.kvm.effects import Trace
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.spte import WRITABLE
from pymodel.kvm.version import V6_8, V6_10, V6_12, KvmVersion, kernel


@ALL
def test_write_to_a_tracked_page_is_emulated(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.log.clear()
    machine.run(write_track.track_writes(machine.vm, 3))
    assert machine.locks() == ["X", "F", "x"]
    assert machine.entry(3)[1] & (WRITABLE | machine.vm.fmt.mmu_writable) == 0
    assert machine.fault(3, WRITE | 1).emulate
    machine.run(write_track.untrack_writes(machine.vm, 3))
    assert machine.fault(3, WRITE | 1).code == version.ret_fixed
    assert machine.entry(3)[1] & WRITABLE


@ALL
def test_first_touch_maps_read_only(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.run(write_track.track_writes(machine.vm, 3))
    assert machine.fault(3, READ).code == version.ret_fixed
    assert machine.entry(3) == (1, 0x100003A25)
    machine.run(write_track.track_writes(machine.vm, 4))
    assert machine.fault(4, WRITE).emulate
    assert machine.entry(4) == (1, 0x100004A25)


def test_tracked_page_forbids_huge_pages_around_it() -> None:
    machine = Machine(V6_12, npages=1 << 18)
    machine.level = 3
    machine.fault(3)
    machine.run(write_track.track_writes(machine.vm, 3))
    assert machine.entry(3)[0] == 3, "the huge page itself is write-protected first"
    assert machine.fault(4, WRITE | 1).code == V6_12.ret_fixed
    assert machine.entry(4)[0] == 1
    machine.fault(600, WRITE | 1)
    assert machine.entry(600)[0] == 2
    assert machine.fault(3, WRITE | 1).emulate


def test_tracking_is_counted() -> None:
    machine = Machine(V6_12)
    for _ in range(2):
        machine.run(write_track.track_writes(machine.vm, 3))
    machine.run(write_track.untrack_writes(machine.vm, 3))
    assert machine.fault(3, WRITE).emulate
    machine.run(write_track.untrack_writes(machine.vm, 3))
    assert not machine.fault(3, WRITE | 1).emulate


def test_what_the_emulator_writes_is_dirty() -> None:
    machine = Machine(V6_12)
    machine.run(write_track.track_writes(machine.vm, 3))
    machine.fault(3, READ)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.guest((3, "write")) == 0
    assert machine.slot.dirty == {3}


def test_tracking_wrong_gfn() -> None:
    machine = Machine(V6_12, npages=16)
    with pytest.raises(KvmError, match="gfn must be in a memslot of address space 0, not 0x10") as caught:
        machine.run(write_track.track_writes(machine.vm, 16))
    assert caught.value.errno == EINVAL
    with pytest.raises(KvmError, match="gfn must be one whose writes are tracked, not 3"):
        machine.run(write_track.untrack_writes(machine.vm, 3))


@pytest.mark.parametrize(("version", "code"), [(V6_10, 2), (V6_12, 3)])
def test_protected_write_has_a_return_code_of_its_own_from_6_12_on(version: KvmVersion, code: int) -> None:
    """Both where the page is known to be tracked and where the map finds out; either way it is emulated."""
    machine = Machine(version)
    machine.run(write_track.track_writes(machine.vm, 3))
    whole = "ret direct_page_fault"
    for error, names in ((WRITE, ["ret kvm_tdp_mmu_map", whole]), (WRITE | 1, [whole])):
        machine.log.clear()
        outcome = machine.fault(3, error)
        assert (outcome.code, outcome.emulate) == (version.ret_emulate, True)
        found = [one for one in machine.log if isinstance(one, Trace) and one.name in names]
        assert [(one.name, dict(one.fields)["ret"]) for one in found] == [(name, code) for name in names]


@pytest.mark.parametrize(("version", "protected"), [(V6_8, True), (kernel(6, 9), False)])
def test_dying_root_is_not_protected_from_6_9_on(version: KvmVersion, protected: bool) -> None:
    machine = Machine(version)
    machine.fault(3)
    assert machine.vcpu.root is not None
    machine.vcpu.root.invalid = True
    machine.run(write_track.track_writes(machine.vm, 3))
    assert (not machine.entry(3)[1] & WRITABLE) is protected
    assert bool(machine.flushes()) is protected
