"""Faults: levels, refusals, what an existing entry changes, replaced tables, pre-fault (facts C1, K)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, FETCH, READ, WRITE, Machine
from pymodel.kvm import roots
from pymodel.kvm.attributes import set_private
from pymodel.kvm.effects import HostFault, KvmEffect, Resched, TlbFlush
from pymodel.kvm.errors import EINVAL
from pymodel.kvm.fault import EFAULT, page_fault, prefault
from pymodel.kvm.memslots import GUEST_MEMFD, LOG_DIRTY, READONLY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_7, V6_10, V6_12, V6_13, V6_18, KvmVersion, kernel


@pytest.mark.parametrize("version", [V6_1, V6_12], ids=["6.1", "6.12"])
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


@pytest.mark.parametrize("version", [V6_13, V6_18], ids=lambda one: one.name)
def test_leaf_that_allows_the_access_is_left_alone_from_6_13_on(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(5)
    machine.log.clear()
    assert machine.fault(5, READ).code == version.ret_spurious
    assert machine.transitions() == []
    assert machine.entry(5) == (1, 0x100005E67)


@pytest.mark.parametrize(("version", "value"), [(V6_12, 0x100005E27), (V6_13, 0x100005E67)])
def test_d_of_a_leaf_over_an_mmio_entry(version: KvmVersion, value: int) -> None:
    """Before 6.13 what looks writable (an MMIO entry has bit 1 set) costs the new leaf its D."""
    machine = Machine(version, npages=16)
    table = machine.fault(5)
    assert table.code == version.ret_fixed
    leaf = next(table for table in machine.vm.tables.values() if table.level == 1)
    machine.memory.store((leaf.frame << 12) + 40, machine.vm.fmt.mmio(5, 0, 7))
    machine.fault(5)
    assert machine.entry(5) == (1, value)


@pytest.mark.parametrize(
    ("version", "codes"), [(V6_1, (1, 2, 3, 4, 5)), (V6_10, (1, 2, 3, 4, 5)), (V6_12, (1, 2, 4, 5, 6))]
)
def test_return_codes(version: KvmVersion, codes: tuple[int, ...]) -> None:
    names = version.ret_retry, version.ret_emulate, version.ret_invalid, version.ret_fixed, version.ret_spurious
    assert names == codes


@ALL
def test_mapping_level_is_the_smallest_of_all_limits(version: KvmVersion) -> None:
    machine = Machine(version, npages=512 + 100)
    machine.level = 3
    machine.fault(7)
    assert machine.entry(7)[0] == 2
    machine.fault(512)
    assert machine.entry(512)[0] == 1
    machine = Machine(version, max_level=1)
    machine.level = 2
    machine.fault(7)
    assert machine.entry(7)[0] == 1
    machine = Machine(version, flags=LOG_DIRTY)
    machine.level = 2
    machine.fault(7)
    assert machine.entry(7)[0] == 1
    assert machine.slot.dirty == {7}


def test_slot_that_is_not_congruent_with_its_memory_has_small_pages() -> None:
    machine = Machine(V6_12)
    machine.slot.hva += 4096
    machine.level = 3
    machine.fault(7)
    assert machine.entry(7)[0] == 1


def test_readonly_slot_emulates_writes_and_maps_reads_read_only() -> None:
    machine = Machine(V6_12, flags=READONLY)
    assert machine.fault(5, WRITE).emulate
    machine.fault(5, READ)
    assert machine.entry(5) == (1, 0x100005825)


def test_host_read_only_page_is_mapped_read_only() -> None:
    machine = Machine(V6_12)
    machine.writable = False
    machine.fault(3, READ)
    assert machine.entry(3) == (1, 0x100003825)


def test_host_refusal_is_efault_and_leaves_nothing() -> None:
    machine = Machine(V6_12)
    machine.refuse = True
    outcome = machine.fault(3)
    assert (outcome.code, outcome.error) == (EFAULT, -EFAULT)
    assert machine.transitions() == []


def test_slot_that_is_going_makes_the_fault_retry_without_a_lookup() -> None:
    machine = Machine(V6_12)
    machine.slot.invalid = True
    assert machine.fault(3).code == V6_12.ret_retry
    assert not any(isinstance(one, HostFault) for one in machine.log)


@pytest.mark.parametrize(("version", "wide"), [(V6_1, True), (V6_7, False), (V6_12, False)])
def test_huge_page_over_a_table_flushes_its_span(version: KvmVersion, wide: bool) -> None:
    """6.1 flushes the span of the parent's table, one level too wide (facts K)."""
    machine = Machine(version, ranged_flush=True)
    machine.fault(515)
    machine.level = 2
    machine.log.clear()
    machine.fault(515)
    expected = TlbFlush(0, 512 * 512) if wide else TlbFlush(512, 512)
    assert machine.flushes() == [expected]
    kinds = [type(one).__name__ for one in machine.log]
    assert kinds.index("SpteChanged") < kinds.index("TlbFlush") < kinds.index("MmuUnlock"), "after the store"


def test_flush_without_ranges_is_of_everything() -> None:
    machine = Machine(V6_12)
    machine.fault(515)
    machine.level = 2
    machine.log.clear()
    machine.fault(515)
    assert machine.flushes() == [TlbFlush()]


@ALL
def test_frozen_entry_makes_the_fault_retry_and_is_not_overwritten(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    for level in (1, 2, 3):
        table = next(table for table in machine.vm.tables.values() if table.level == level)
        address = (table.frame << 12) + (24 if level == 1 else 0)
        before = machine.memory.load(address)
        machine.memory.store(address, machine.vm.fmt.frozen)
        tables = len(machine.vm.tables)
        assert machine.fault(3).code == version.ret_retry
        assert machine.memory.load(address) == machine.vm.fmt.frozen
        assert len(machine.vm.tables) == tables, "no table is left over"
        machine.memory.store(address, before)


def test_two_faults_for_one_page_share_the_tables() -> None:
    """The other one wins each exchange: tables made in vain are given back, the page is mapped once."""
    machine = Machine(V6_12)
    done = False

    def other(effect: object) -> None:
        nonlocal done
        if type(effect).__name__ == "CompareExchange" and not done:
            done = True
            machine.fault(3)

    result = machine.watched(page_fault(machine.vm, machine.vcpu, 0x3000, WRITE), other)
    assert result.code == V6_12.ret_retry
    assert len(machine.vm.tables) == 4
    assert machine.fault(3, READ).code in (V6_12.ret_fixed, V6_12.ret_spurious)


def test_exec_only_and_no_exec_in_both_formats() -> None:
    for fmt, bit, allowed in ((None, 1 << 63, False), (ept(suppress_ve_empty=True), 1 << 2, True)):
        machine = Machine(V6_12, fmt=fmt, nx_huge_pages=True)
        machine.level = 2
        machine.fault(3, READ)
        assert bool(machine.entry(3)[1] & bit) is not allowed
        machine.fault(3, FETCH | 1)
        assert machine.entry(3)[0] == 1
        assert bool(machine.entry(3)[1] & bit) is allowed


def test_prefault_has_no_accessed_bit_and_stops_at_mmio() -> None:
    machine = Machine(V6_12, npages=4)
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x2000, 0x2000)) == 0
    assert machine.entry(2) == (1, 0x100002E47)
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x4000, 0x1000)) == 2
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x3000, 0x2000)) == 0, "something was mapped"


@pytest.mark.parametrize(("version", "value"), [(V6_12, 0x100001E07), (V6_13, 0x100001E67)])
def test_prefault_of_a_mapped_page(version: KvmVersion, value: int) -> None:
    machine = Machine(version)
    machine.fault(1, WRITE)
    machine.run(prefault(machine.vm, machine.vcpu, 0x1000, 0x1000))
    assert machine.entry(1) == (1, value)


def test_prefault_finds_a_root_of_its_own() -> None:
    machine = Machine(V6_12)
    machine.run(roots.zap_all_fast(machine.vm))
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x1000, 0x1000)) == 0
    machine.run(roots.free_roots(machine.vm, machine.vcpu))
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x2000, 0x1000)) == 0


def test_prefault_of_a_slot_that_is_going_lets_others_run() -> None:
    """Each try yields (cond_resched), also one that ends before the lock: who deletes the slot gets on."""
    machine = Machine(V6_12)
    machine.slot.invalid = True
    tries = []

    def deletion(effect: KvmEffect) -> None:
        if isinstance(effect, Resched):
            tries.append(effect)
            machine.slot.invalid = len(tries) < 4

    assert machine.watched(prefault(machine.vm, machine.vcpu, 0x1000, 0x1000), deletion) == 0
    assert len(tries) == 4
    assert machine.entry(1)[0] == 1


@pytest.mark.parametrize(
    ("version", "gpa", "size"),
    [(V6_10, 0, 4096), (kernel(6, 11), 1, 4096), (V6_12, 0, 0), (V6_12, 0, 100), (V6_12, 0, -4096)],
)
def test_prefault_wrong_kernel_or_range(version: KvmVersion, gpa: int, size: int) -> None:
    machine = Machine(version)
    assert machine.run(prefault(machine.vm, machine.vcpu, gpa, size)) == EINVAL
    expected = 0 if version.pre_fault else EINVAL
    assert machine.run(prefault(machine.vm, machine.vcpu, 0, 4096)) == expected


def test_prefault_of_private_memory_maps_it() -> None:
    machine = Machine(V6_12, npages=16, flags=GUEST_MEMFD)
    machine.run(set_private(machine.vm, 0, 8, True))
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x7000, 0x2000)) == 0
    assert [machine.vm.fmt.pfn(machine.entry(gfn)[1]) for gfn in (7, 8)] == [0x900007, 0x100008]


def test_prefault_of_a_slot_that_is_going_fails_from_6_18_on() -> None:
    machine = Machine(V6_18)
    machine.slot.invalid = True
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x2000, 0x1000)) == 11
    assert machine.fault(2).code == V6_18.ret_retry


@pytest.mark.parametrize(
    ("version", "level"), [(V6_12, 2), (V6_13, 1), (kernel(6, 14), 1), (kernel(6, 15), 2)], ids=["12", "13", "14", "15"]
)
def test_prefault_where_a_table_could_be_a_huge_page(version: KvmVersion, level: int) -> None:
    """6.13 and 6.14 take any live entry at the wanted level for the page."""
    machine = Machine(version)
    machine.fault(5)
    machine.level = 2
    assert machine.run(prefault(machine.vm, machine.vcpu, 0x6000, 0x1000)) == 0
    assert machine.entry(5)[0] == level
