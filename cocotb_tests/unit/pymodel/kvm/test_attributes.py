"""Private and shared memory: what a fault may map, conversion and its races (facts C9)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import READ, WRITE, Machine
from pymodel.kvm import slot_ops
from pymodel.kvm.attributes import set_private
from pymodel.kvm.effects import KvmEffect, MmuLock
from pymodel.kvm.errors import EINVAL, ENOTTY, KvmError
from pymodel.kvm.fault import EFAULT, PRIVATE, page_fault
from pymodel.kvm.memslots import GUEST_MEMFD, Memslot
from pymodel.kvm.version import V6_7, V6_8, V6_10, V6_12, KvmVersion


def test_private_memory_is_mapped_only_as_asked() -> None:
    machine = Machine(V6_12, hardware_private=True, flags=GUEST_MEMFD)
    machine.level = 2
    machine.fault(5)
    machine.run(set_private(machine.vm, 4, 8, True))
    assert machine.entry(5)[1] == machine.vm.fmt.empty
    assert machine.fault(5).code == EFAULT
    assert machine.fault(5, WRITE | PRIVATE).code == V6_12.ret_fixed
    assert machine.entry(5) == (1, 0x900005E67)
    assert machine.fault(100, WRITE | PRIVATE).code == EFAULT
    machine.fault(100)
    assert machine.entry(100)[0] == 1, "no huge page over both kinds"
    assert machine.vm.mmu_invalidate_seq == 1
    assert machine.vm.private.ranges() == [(4, 8)]


@pytest.mark.parametrize("size", [3, 2, 1])
def test_private_huge_page_is_as_large_as_its_folio(size: int) -> None:
    machine = Machine(V6_12, npages=1 << 18, flags=GUEST_MEMFD)
    machine.gmem_level = size
    machine.run(set_private(machine.vm, 0, 1 << 18, True))
    machine.fault(5)
    assert machine.entry(5)[0] == size


def test_page_inside_a_gigabyte_inside_two_megabytes() -> None:
    """4K private in the middle: the 2M around it and the 1G around that are mixed, their neighbours are not."""
    machine = Machine(V6_12, npages=1 << 19, flags=GUEST_MEMFD)
    machine.level = 3
    machine.fault(5)
    assert machine.entry(5)[0] == 3
    machine.run(set_private(machine.vm, 512 + 7, 512 + 8, True))
    machine.fault(5)
    machine.fault(512 + 6)
    machine.fault((1 << 18) + 5)
    assert [machine.entry(gfn)[0] for gfn in (5, 512 + 6, (1 << 18) + 5)] == [2, 1, 3]
    machine.run(set_private(machine.vm, 512 + 7, 512 + 8, False))
    machine.fault(512 + 7)
    assert machine.entry(512 + 7) == (3, 0x100000EE7)


def test_slot_without_guest_memory_cannot_be_private() -> None:
    machine = Machine(V6_12)
    machine.run(set_private(machine.vm, 4, 8, True))
    machine.log.clear()
    assert machine.fault(5).code == EFAULT
    assert "memory_fault" in machine.calls()
    assert not any(type(one).__name__ == "HostFault" for one in machine.log)


@pytest.mark.parametrize("moment", range(3))
@pytest.mark.parametrize("private", [True, False])
def test_conversion_at_any_moment_of_a_fault_never_leaves_the_wrong_page(moment: int, private: bool) -> None:
    machine = Machine(V6_12, flags=GUEST_MEMFD)
    machine.run(set_private(machine.vm, 4, 8, not private))
    seen: list[KvmEffect] = []

    def convert(effect: KvmEffect) -> None:
        if len(seen) == moment:
            machine.run(set_private(machine.vm, 5, 6, private))
        seen.append(effect)

    machine.watched(page_fault(machine.vm, machine.vcpu, 0x5000, READ), convert)
    assert not any(isinstance(effect, MmuLock) for effect in seen[:moment])
    value = machine.entry(5)[1]
    if machine.vm.fmt.is_present(value):
        assert (machine.vm.fmt.pfn(value) >= 0x900000) is (5 in machine.vm.private)


def test_lock_is_held_and_the_range_is_invalid_while_the_attributes_change() -> None:
    machine = Machine(V6_12, flags=GUEST_MEMFD)
    machine.fault(5)
    machine.log.clear()
    machine.run(set_private(machine.vm, 4, 8, True))
    assert machine.locks() == ["X", "F", "x", "X", "x"]
    machine.log.clear()
    machine.run(set_private(machine.vm, 5, 7, True))
    assert machine.log == [], "all of them are so already"
    machine.run(set_private(machine.vm, 0x100000, 0x100001, True))
    assert machine.log == [], "no slot is touched"
    assert 0x100000 in machine.vm.private


def test_every_slot_of_the_range_is_zapped() -> None:
    machine = Machine(V6_12, npages=16, flags=GUEST_MEMFD)
    machine.run(slot_ops.create(machine.vm, Memslot(1, 16, 16, machine.slot.hva + (1 << 30), GUEST_MEMFD)))
    for gfn in (3, 20):
        machine.fault(gfn)
    machine.log.clear()
    machine.run(set_private(machine.vm, 0, 64, True))
    assert [gfn for gfn, _, _, _ in machine.transitions()] == [3, 20]
    assert len(machine.flushes()) == 1


def test_kernel_without_attributes_refuses() -> None:
    machine = Machine(V6_7)
    with pytest.raises(KvmError, match=r"kernel must be 6\.8 or newer for memory attributes, not '6\.7'") as caught:
        machine.run(set_private(machine.vm, 4, 8, True))
    assert caught.value.errno == ENOTTY
    machine = Machine(V6_8)
    machine.run(set_private(machine.vm, 4, 8, True))
    assert 4 in machine.vm.private


@pytest.mark.parametrize(("start", "end"), [(8, 8), (9, 8), (-1, 8), (0, (1 << 28) + 1)])
def test_attributes_wrong_range(start: int, end: int) -> None:
    machine = Machine(V6_12)
    with pytest.raises(KvmError, match=r"range must be not empty and within gfn 0\.\.0x10000000") as caught:
        machine.run(set_private(machine.vm, start, end, True))
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize("version", [V6_8, V6_12], ids=lambda one: one.name)
def test_private_access_without_a_slot_leaves_to_userspace(version: KvmVersion) -> None:
    machine = Machine(version, npages=16)
    machine.run(set_private(machine.vm, 0x40, 0x41, True))
    machine.log.clear()
    assert machine.fault(0x40).error == -EFAULT
    assert "memory_fault" in machine.calls()
    assert machine.vcpu.mmio_gfn is None


@pytest.mark.parametrize(("version", "code"), [(V6_8, V6_8.ret_retry), (V6_10, EFAULT)])
def test_wrong_kind_in_a_slot_that_is_going(version: KvmVersion, code: int) -> None:
    machine = Machine(version, hardware_private=True)
    machine.slot.invalid = True
    assert machine.fault(3, WRITE | PRIVATE).code == code


def test_guest_memory_that_has_no_page_leaves_to_userspace() -> None:
    machine = Machine(V6_12, npages=16, flags=GUEST_MEMFD)
    machine.run(set_private(machine.vm, 0, 16, True))
    machine.refuse = True
    machine.log.clear()
    assert machine.fault(3).error == -EFAULT
    assert "memory_fault" in machine.calls()
