"""The lockless fast page fault: what it may repair, and what it must leave alone (facts C1 step 2)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, FETCH, FINAL, HVA, READ, WRITE, Machine
from pymodel.effects import CompareExchange
from pymodel.kvm import notifier, slot_ops
from pymodel.kvm.effects import KvmEffect
from pymodel.kvm.fault import EFAULT, PRIVATE, page_fault
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_10, V6_12, V6_13, KvmVersion, kernel

_TRACKED = ept(suppress_ve_empty=True, ad_enabled=False)


@ALL
def test_write_access_comes_back_without_the_lock_and_is_logged(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.log.clear()
    assert machine.fault(3, WRITE | 1).code == version.ret_fixed
    assert machine.locks() == []
    assert machine.slot.dirty == {3}
    assert machine.fault(3, WRITE | 1).code == version.ret_spurious


def test_host_read_only_page_goes_the_slow_way() -> None:
    machine = Machine(V6_12)
    machine.writable = False
    machine.fault(3, READ)
    machine.log.clear()
    machine.fault(3, WRITE | 1)
    assert machine.locks() == ["S", "s"]


def test_huge_page_of_a_logged_slot_goes_the_slow_way() -> None:
    machine = Machine(V6_12, eager_page_split=False)
    machine.level = 2
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.log.clear()
    machine.fault(3, WRITE | 1)
    assert machine.locks()[0] == "S"
    assert machine.entry(3)[0] == 1


def test_access_tracking_hides_and_restores() -> None:
    machine = Machine(V6_12, fmt=_TRACKED)
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


@pytest.mark.parametrize("error", [READ, WRITE, FETCH])
def test_access_tracked_page_is_found_by_any_access(error: int) -> None:
    machine = Machine(V6_12, fmt=_TRACKED)
    machine.fault(5, WRITE)
    machine.run(notifier.clear_young(machine.vm, HVA + 0x5000, HVA + 0x6000))
    machine.log.clear()
    assert machine.fault(5, error).code == V6_12.ret_fixed
    assert machine.locks() == []


def test_five_tries_then_the_slow_way() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    table = next(table for table in machine.vm.tables.values() if table.level == 1)
    address = (table.frame << 12) + 24
    machine.log.clear()
    tries: list[KvmEffect] = []

    def disturb(effect: KvmEffect) -> None:
        if isinstance(effect, CompareExchange) and not machine.locks():
            tries.append(effect)
            machine.memory.store(address, effect.expected ^ machine.vm.fmt.accessed)

    assert machine.watched(page_fault(machine.vm, machine.vcpu, 0x3000, WRITE | 1), disturb).code == V6_12.ret_fixed
    assert len(tries) == 5
    assert machine.locks() == ["S", "s"]


def test_software_accessed_bit_goes_and_comes_with_the_access_from_6_13_on() -> None:
    machine = Machine(V6_13, fmt=ept(suppress_ve_empty=True, ad_enabled=False, software_ad=V6_13.software_ad))
    machine.fault(5, WRITE)
    live = machine.entry(5)[1]
    assert live & 0x307 == 0x307
    assert machine.run(notifier.clear_young(machine.vm, HVA + 0x5000, HVA + 0x6000))
    assert machine.entry(5)[1] & 0x307 == 0x200
    assert machine.run(notifier.test_young(machine.vm, HVA + 0x5000)) is False
    assert machine.fault(5, FINAL | 4).code == V6_13.ret_fixed
    assert machine.entry(5)[1] == live & ~2
    assert machine.run(notifier.test_young(machine.vm, HVA + 0x5000)) is True


@pytest.mark.parametrize(("version", "result"), [(V6_10, V6_10.ret_spurious), (kernel(6, 11), EFAULT)])
def test_fault_of_the_wrong_kind_is_not_taken_for_a_spurious_one_from_6_11_on(
    version: KvmVersion, result: int
) -> None:
    machine = Machine(version, hardware_private=True)
    machine.fault(3)
    assert machine.fault(3, WRITE | 1 | PRIVATE).code == result
