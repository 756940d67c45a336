"""Memory types with and without non-coherent devices, by kernel (facts C11, D6)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import HVA, Machine
from pymodel.kvm import memory_type
from pymodel.kvm.effects import KvmEffect, SpteChanged
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_12, KvmVersion, kernel

_FMT = ept(suppress_ve_empty=True)
_WB_IPAT, _WB, _UC_IPAT, _UC, _WT = 0x70, 0x30, 0x40, 0x00, 0x20


def _machine(version: KvmVersion = V6_12, **params: bool) -> Machine:
    return Machine(version, fmt=_FMT, **params)


def _type(machine: Machine, gfn: int) -> int:
    machine.fault(gfn)
    return machine.entry(gfn)[1] & 0x78


@pytest.mark.parametrize(("version", "zaps"), [(V6_1, False), (kernel(6, 6), False), (V6_7, True), (V6_12, True)])
def test_first_and_last_device_make_every_entry_anew_from_6_7_on(version: KvmVersion, zaps: bool) -> None:
    machine = _machine(version)
    assert _type(machine, 3) == _WB_IPAT
    machine.log.clear()
    seq = machine.vm.mmu_invalidate_seq
    machine.run(memory_type.register_noncoherent(machine.vm))
    assert (machine.entry(3)[1] == machine.vm.fmt.empty) is zaps
    locks = ["X", "F", "x"] if zaps else []
    assert machine.locks() == locks
    assert machine.vm.mmu_invalidate_seq == seq + zaps, "faults in flight begin again"
    machine.run(memory_type.register_noncoherent(machine.vm))
    assert _type(machine, 4) == _WB
    machine.run(memory_type.unregister_noncoherent(machine.vm))
    assert machine.entry(4)[1] & 0x78 == _WB, "one is left"
    machine.run(memory_type.unregister_noncoherent(machine.vm))
    assert (machine.entry(4)[1] == machine.vm.fmt.empty) is zaps


def test_fault_in_flight_does_not_keep_the_old_type() -> None:
    machine = _machine()
    machine.during_fault = lambda: machine.run(memory_type.register_noncoherent(machine.vm))
    assert machine.fault(3).code == V6_12.ret_retry
    assert _type(machine, 3) == _WB


def test_device_memory_of_the_host_is_uncached() -> None:
    machine = _machine()
    machine.device = True
    assert _type(machine, 3) == _UC
    machine = Machine(V6_12)
    machine.device = True
    machine.fault(3)
    assert machine.entry(3) == (1, 0x100003E67), "NPT has no types"


def test_npt_needs_no_zap() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    machine.log.clear()
    machine.run(memory_type.register_noncoherent(machine.vm))
    assert machine.log == []


@pytest.mark.parametrize(("version", "honoured"), [(V6_7, True), (kernel(6, 10), True), (kernel(6, 11), False)])
def test_guest_s_cache_disable_and_mtrrs_count_before_6_11(version: KvmVersion, honoured: bool) -> None:
    machine = _machine(version, cd_quirk=False)
    machine.run(memory_type.register_noncoherent(machine.vm))
    machine.run(memory_type.set_mtrrs(machine.vm, machine.vcpu, [(512, 600, 4), (590, 700, 0)]))
    types = [_WB, _WT, _UC, _UC, _WB] if honoured else [_WB] * 5
    assert [_type(machine, gfn) for gfn in (3, 512, 595, 650, 700)] == types
    machine.run(memory_type.set_cache_disable(machine.vm, machine.vcpu, True))
    disabled = _UC_IPAT if honoured else _WB
    assert _type(machine, 5) == disabled
    assert (machine.entry(3)[1] == machine.vm.fmt.empty) is honoured


@pytest.mark.parametrize(("version", "kind"), [(kernel(6, 6), _WB_IPAT), (V6_7, _WB)])
def test_cache_disable_with_its_quirk_stays_write_back(version: KvmVersion, kind: int) -> None:
    machine = _machine(version)
    machine.run(memory_type.register_noncoherent(machine.vm))
    machine.fault(3)
    machine.log.clear()
    machine.run(memory_type.set_cache_disable(machine.vm, machine.vcpu, True))
    assert machine.log == []
    assert _type(machine, 5) == kind


@pytest.mark.parametrize(("version", "level"), [(V6_7, 1), (V6_12, 2)])
def test_huge_page_has_one_type(version: KvmVersion, level: int) -> None:
    machine = _machine(version)
    machine.level = 2
    machine.run(memory_type.register_noncoherent(machine.vm))
    machine.run(memory_type.set_mtrrs(machine.vm, machine.vcpu, [(512, 600, 0)]))
    machine.fault(514)
    machine.fault(3)
    assert (machine.entry(514)[0], machine.entry(3)[0]) == (level, 2)


def test_changed_mtrrs_zap_only_what_they_touch() -> None:
    machine = _machine(V6_7)
    machine.run(memory_type.register_noncoherent(machine.vm))
    machine.run(memory_type.set_mtrrs(machine.vm, machine.vcpu, [(0, 8, 0), (512, 600, 4)]))
    for gfn in (3, 520, 900):
        machine.fault(gfn)
    machine.log.clear()
    machine.run(memory_type.set_mtrrs(machine.vm, machine.vcpu, [(0, 8, 0), (512, 600, 0)]))
    assert [gfn for gfn, _, _, _ in machine.transitions()] == [520]
    machine.log.clear()
    machine.run(memory_type.set_mtrrs(machine.vm, machine.vcpu, [(0, 8, 0), (512, 600, 0)]))
    assert machine.log == []


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ([(0, 8, 2)], "memory type must be 0, 1, 4, 5 or 6, not 2"),
        ([(8, 8, 0)], "range must be not empty and within gfn 0..0x10000000, not (8, 8)"),
    ],
)
def test_mtrrs_wrong_range(ranges: list[tuple[int, int, int]], text: str) -> None:
    machine = _machine()
    with pytest.raises(KvmError) as caught:
        machine.run(memory_type.set_mtrrs(machine.vm, machine.vcpu, ranges))
    assert (str(caught.value), caught.value.errno) == (text, EINVAL)


def test_unregister_wrong_without_a_device() -> None:
    machine = _machine()
    with pytest.raises(KvmError, match="noncoherent_devices must be at least 1: no device is registered, not 0"):
        machine.run(memory_type.unregister_noncoherent(machine.vm))


@pytest.mark.parametrize(("version", "beyond"), [(V6_7, True), (V6_8, False)])
def test_zap_for_types_invalidates_what_faults_compare(version: KvmVersion, beyond: bool) -> None:
    """Before 6.8 they compare host addresses, so that no range of gfns can be meant: it is all of them."""
    machine = _machine(version)
    machine.run(memory_type.register_noncoherent(machine.vm))
    machine.fault(5)
    retried: list[tuple[bool, bool]] = []

    def ask(effect: KvmEffect) -> None:
        if isinstance(effect, SpteChanged):
            seq = machine.vm.mmu_invalidate_seq
            retried.append((machine.vm.retry(seq, 5, HVA + 0x5000), machine.vm.retry(seq, 50, HVA + 0x32000)))

    machine.watched(memory_type.set_mtrrs(machine.vm, machine.vcpu, [(0, 16, 0)]), ask)
    assert retried == [(True, beyond)]


@pytest.mark.parametrize(("version", "zapped"), [(V6_8, True), (kernel(6, 9), False)])
def test_dying_root_keeps_its_types_from_6_9_on(version: KvmVersion, zapped: bool) -> None:
    machine = _machine(version)
    machine.fault(5)
    assert machine.vcpu.root is not None
    machine.vcpu.root.invalid = True
    machine.run(memory_type.register_noncoherent(machine.vm))
    assert (machine.entry(5)[1] == machine.vm.fmt.empty) is zapped
