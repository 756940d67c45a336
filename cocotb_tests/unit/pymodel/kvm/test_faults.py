"""Faults: staleness, levels, MMIO, fast path; every expectation from facts C1, C8, C9."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import FETCH, FINAL, HVA, READ, WRITE, Machine
from pymodel.kvm import notifier, nx, roots
from pymodel.kvm.attributes import set_private
from pymodel.kvm.fault import EFAULT, prefault
from pymodel.kvm.memslots import LOG_DIRTY, READONLY
from pymodel.kvm.spte import ept
from pymodel.kvm.tdp_mmu import zap_table
from pymodel.kvm.version import V6_1, V6_12, V6_13, KvmVersion

_BOTH = pytest.mark.parametrize("version", [V6_1, V6_12], ids=["6.1", "6.12"])


@_BOTH
def test_fault_maps_and_a_second_one_is_spurious(version: KvmVersion) -> None:
    machine = Machine(version)
    assert machine.fault(5).code == version.ret_fixed
    assert machine.entry(5) == (1, 0x100005E67)
    assert [level for _, level, _, _ in machine.transitions()] == [4, 3, 2, 1]
    machine.log.clear()
    assert machine.fault(5).code == version.ret_fixed
    assert machine.entry(5) == (1, 0x100005E27), "D is lost: the old entry was writable (facts K)"
    machine.log.clear()
    assert machine.fault(5).code == version.ret_spurious
    assert machine.transitions() == []


@_BOTH
@pytest.mark.parametrize("where", [5, 6])
def test_notifier_during_the_lookup_makes_the_fault_retry(version: KvmVersion, where: int) -> None:
    machine = Machine(version)
    machine.fault(where)

    def shoot() -> None:
        start = HVA + (5 << 12)
        machine.run(notifier.invalidate_range_start(machine.vm, start, start + 4096))
        machine.run(notifier.invalidate_range_end(machine.vm, start, start + 4096))

    machine.during_fault = shoot
    assert machine.fault(5, READ).code == version.ret_retry
    assert machine.fault(5, READ).code in (version.ret_fixed, version.ret_spurious)


@_BOTH
def test_fault_inside_a_running_invalidation_retries_outside_it_finishes(version: KvmVersion) -> None:
    machine = Machine(version)
    start = HVA + (8 << 12)
    machine.run(notifier.invalidate_range_start(machine.vm, start, start + 4096))
    assert machine.fault(8).code == version.ret_retry
    assert machine.fault(9).code == version.ret_fixed
    machine.run(notifier.invalidate_range_end(machine.vm, start, start + 4096))
    assert machine.fault(8).code == version.ret_fixed


@_BOTH
def test_nested_invalidations_merge_their_ranges(version: KvmVersion) -> None:
    machine = Machine(version)
    for page in (8, 12):
        machine.run(notifier.invalidate_range_start(machine.vm, HVA + (page << 12), HVA + (page + 1 << 12)))
    assert machine.fault(10).code == version.ret_retry
    machine.run(notifier.invalidate_range_end(machine.vm, HVA + (8 << 12), HVA + (9 << 12)))
    assert machine.vm.mmu_invalidate_in_progress == 1
    assert machine.fault(10).code == version.ret_retry
    machine.run(notifier.invalidate_range_end(machine.vm, HVA + (12 << 12), HVA + (13 << 12)))
    assert machine.fault(10).code == version.ret_fixed


def test_invalidation_outside_all_slots_changes_nothing() -> None:
    machine = Machine(V6_12)
    machine.run(notifier.invalidate_range_start(machine.vm, 0x7000, 0x9000))
    machine.run(notifier.invalidate_range_end(machine.vm, 0x7000, 0x9000))
    assert machine.vm.mmu_invalidate_seq == 0


@_BOTH
def test_mapping_level_is_the_smallest_of_all_limits(version: KvmVersion) -> None:
    machine = Machine(version, npages=512 + 100)
    machine.level = 3
    machine.fault(7)
    assert machine.entry(7)[0] == 2
    machine.fault(512)
    assert machine.entry(512)[0] == 1
    machine = Machine(version, flags=LOG_DIRTY)
    machine.level = 2
    machine.fault(7)
    assert machine.entry(7)[0] == 1
    assert machine.vm.slots.get(0).dirty == {7}  # type: ignore[union-attr]


def test_readonly_slot_emulates_writes_and_maps_reads_read_only() -> None:
    machine = Machine(V6_12, flags=READONLY)
    assert machine.fault(5, WRITE).emulate
    machine.fault(5, READ)
    assert machine.entry(5) == (1, 0x100005825)


def test_host_refusal_is_efault() -> None:
    machine = Machine(V6_12)
    machine.writable = False
    machine.fault(3, READ)
    assert machine.entry(3) == (1, 0x100003825)


@_BOTH
def test_mmio_entry_is_cached_until_the_slots_change(version: KvmVersion) -> None:
    machine = Machine(version, npages=16)
    assert machine.fault(100, READ).emulate
    assert machine.vm.fmt.is_mmio(machine.entry(100)[1])
    machine.log.clear()
    assert machine.fault(100, FINAL | 0xC).emulate
    assert machine.transitions() == []
    machine.vm.slots.generation += 2
    assert machine.fault(100, FINAL | 0xC).emulate
    assert len(machine.transitions()) == 1
    assert machine.vm.fmt.mmio_generation(machine.entry(100)[1]) == machine.vm.slots.generation


@_BOTH
def test_stale_root_makes_faults_retry(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.run(roots.zap_all_fast(machine.vm))
    assert machine.fault(1).code == version.ret_retry
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.fault(1).code == version.ret_fixed
    assert len(machine.vm.roots) == 1


@_BOTH
def test_exec_in_an_nx_huge_page(version: KvmVersion) -> None:
    machine = Machine(version, nx_huge_pages=True, recovery_ratio=1)
    machine.level = 2
    machine.fault(3, WRITE)
    assert machine.entry(3) == (2, 0x8000000100000EE7)
    machine.log.clear()
    machine.fault(3, FETCH | 1)
    assert machine.entry(3)[0] == 1
    neighbour, flushes = (0x100004E67, 0) if version.split_on_fault else (machine.vm.fmt.empty, 1)
    assert machine.entry(4) == (1, neighbour)
    assert len(machine.flushes()) == flushes
    machine.fault(600, READ)
    assert len(machine.vm.possible_nx) == 1
    machine.fault(5, READ)
    assert machine.entry(5)[0] == 1
    machine.run(nx.recover(machine.vm, zap_table))
    assert machine.vm.possible_nx == []
    machine.fault(5, READ)
    assert machine.entry(5)[0] == 2


def test_prefault_has_no_accessed_bit_and_stops_at_mmio() -> None:
    machine = Machine(V6_12, npages=4)
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x2000, 0x2000)) == 0
    assert machine.entry(2) == (1, 0x100002E47)
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x4000, 0x1000)) == 2
    kept = Machine(V6_13)
    kept.writable = True
    kept.fault(1, WRITE)
    kept.run(prefault(kept.vm, kept.vcpu, 0x1000, 0x1000))
    assert kept.entry(1) == (1, 0x100001E67)


def test_private_memory_is_mapped_only_as_asked() -> None:
    machine = Machine(V6_12, hardware_private=True)
    machine.level = 2
    machine.fault(5)
    machine.run(set_private(machine.vm, 4, 8, True))
    assert machine.entry(5)[1] == machine.vm.fmt.empty
    assert machine.fault(5).code == EFAULT
    assert machine.fault(5, WRITE | 1 << 49).code == V6_12.ret_fixed
    assert machine.entry(5)[0] == 1
    machine.fault(100)
    assert machine.entry(100)[0] == 1, "no huge page over both kinds"
    assert machine.vm.mmu_invalidate_seq == 1
    assert machine.vm.private.ranges() == [(4, 8)]


def test_smm_has_its_own_root_and_slots() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(roots.free_roots(machine.vm, machine.vcpu))
    machine.vcpu.as_id = 1
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert len(machine.vm.roots) == 2
    assert machine.fault(5, READ).emulate


def test_access_tracking_hides_and_restores() -> None:
    machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True, ad_enabled=False))
    machine.fault(5, WRITE)
    live = machine.entry(5)[1]
    assert machine.run(notifier.clear_flush_young(machine.vm, HVA + 0x5000, HVA + 0x6000))
    hidden = machine.entry(5)[1]
    assert hidden & 0b111 == 0
    assert machine.run(notifier.test_young(machine.vm, HVA + 0x5000)) is False
    assert machine.fault(5, FINAL | 4).code == V6_12.ret_fixed
    assert machine.entry(5)[1] == live & ~2
    assert machine.fault(5, WRITE | 1).code == V6_12.ret_fixed
    assert machine.entry(5)[1] == live
