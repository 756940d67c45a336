"""Roots: roles, references, invalidation, the passes of a zap, the life of a VM (facts C0, C3)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, HVA, READ, Machine
from pymodel.effects import Store
from pymodel.kvm import notifier, roots, slot_ops
from pymodel.kvm.effects import KvmEffect, Resched, SpteChanged
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.version import V6_1, V6_8, V6_12, KvmVersion, kernel
from pymodel.kvm.vm import Vcpu


@ALL
def test_stale_root_makes_faults_retry(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.run(roots.zap_all_fast(machine.vm))
    assert machine.fault(1).code == version.ret_retry
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.fault(1).code == version.ret_fixed
    assert len(machine.vm.roots) == 1


@ALL
def test_destroying_a_vm_frees_every_table(version: KvmVersion) -> None:
    machine = Machine(version)
    for gfn in (1, 600, 3000):
        machine.fault(gfn)
    machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=1))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    machine.log.clear()
    machine.run(roots.release(machine.vm))
    machine.run(roots.destroy(machine.vm))
    assert machine.vm.tables == {}
    assert machine.vm.roots == []
    assert not machine.flushes()


@pytest.mark.parametrize(
    ("version", "levels"), [(V6_1, [3, 4]), (V6_8, [3, 4]), (kernel(6, 9), [1, 2, 3, 4]), (V6_12, [1, 2, 3, 4])]
)
def test_order_of_a_root_zap(version: KvmVersion, levels: list[int]) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.log.clear()
    machine.run(roots.zap_all_fast(machine.vm))
    emptied = [one.level for one in machine.log if isinstance(one, SpteChanged) and one.new == machine.vm.fmt.empty]
    assert emptied == levels
    assert not machine.flushes()


def test_root_zap_can_pause_and_loses_nothing() -> None:
    for place in range(40):
        machine = Machine(V6_12)
        for gfn in (1, 600, 3000):
            machine.fault(gfn)
        machine.pauses = [False] * place + [True]
        machine.run(roots.zap_all_fast(machine.vm))
        assert len(machine.vm.tables) == 1
        assert machine.entry(600) == (4, machine.vm.fmt.empty)


def test_root_that_a_walk_holds_outlives_a_pause() -> None:
    """The last vCPU lets go of a dying root while a notifier's walk over it has given up the lock."""
    machine = Machine(V6_1)
    for gfn in (1, 2, 3):
        machine.fault(gfn)
    root = machine.vcpu.root
    machine.pauses = [False] * 5 + [True]
    asked = 0

    def drop(effect: KvmEffect) -> None:
        nonlocal asked
        if isinstance(effect, Resched):
            asked += 1
            if asked == 7:
                machine.run(roots.zap_all_fast(machine.vm))
                machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
                assert root in machine.vm.roots, "still referenced"

    machine.watched(notifier.invalidate_range_start(machine.vm, HVA, HVA + 0x8000), drop)
    assert asked >= 7
    assert root not in machine.vm.roots
    assert machine.vcpu.root in machine.vm.roots
    assert len(machine.vm.tables) == 1


def test_smm_has_its_own_root_and_slots() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(slot_ops.create(machine.vm, Memslot(0, 0x40, 16, HVA + (1 << 30), 0, as_id=1)))
    normal = machine.vcpu.root
    machine.fault(5)
    machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=1))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert len(machine.vm.roots) == 2
    assert machine.fault(5, READ).emulate
    assert machine.vm.fmt.mmio_generation(machine.entry(5)[1]) == 3
    assert machine.fault(0x45).code == V6_12.ret_fixed
    machine.run(roots.switch_role(machine.vm, machine.vcpu))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.vcpu.root is normal
    assert machine.entry(5) == (1, 0x100005E67)


def test_guest_of_the_guest_has_a_root_over_the_same_slots() -> None:
    machine = Machine(V6_12, npages=16)
    normal = machine.vcpu.root
    machine.run(roots.switch_role(machine.vm, machine.vcpu, guest_mode=True))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.vcpu.root is not normal
    machine.fault(5)
    assert machine.entry(5, normal)[1] == machine.vm.fmt.empty
    machine.run(notifier.invalidate_range_start(machine.vm, HVA, HVA + 0x8000))
    assert machine.entry(5)[1] == machine.vm.fmt.empty


def test_second_vcpu_shares_the_root() -> None:
    machine = Machine(V6_12)
    other = Vcpu(1)
    machine.vm.vcpus.append(other)
    machine.run(roots.prepare_entry(machine.vm, other))
    assert other.root is machine.vcpu.root
    assert other.root is not None
    assert other.root.refcount == 3


def test_same_role_again_keeps_the_root() -> None:
    machine = Machine(V6_12)
    machine.run(roots.switch_role(machine.vm, machine.vcpu))
    assert machine.log == []
    assert machine.vcpu.root is not None


def test_role_wrong_address_space() -> None:
    machine = Machine(V6_12)
    with pytest.raises(KvmError, match=r"as_id must be 0\.\.1, not 2") as caught:
        machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=2))
    assert caught.value.errno == EINVAL


@pytest.mark.parametrize(("version", "letters"), [(V6_8, ["X", "x"]), (kernel(6, 9), ["S", "s"])])
def test_roots_are_found_made_and_let_go_of_under_the_lock_of_the_release(
    version: KvmVersion, letters: list[str]
) -> None:
    machine = Machine(version)
    machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=1))
    assert machine.locks() == letters
    machine.log.clear()
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.locks() == letters


@pytest.mark.parametrize(("version", "puts"), [(V6_8, 0), (kernel(6, 9), 1)])
def test_search_takes_and_puts_the_other_roots_that_it_passes_from_6_9_on(version: KvmVersion, puts: int) -> None:
    machine = Machine(version)
    other = machine.vcpu.root
    assert other is not None
    machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=1))
    machine.log.clear()
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.calls().count("call kvm_tdp_mmu_put_root") == puts
    assert other.refcount == 1


def test_two_vcpus_that_look_at_once_make_one_root() -> None:
    """Both hold the lock shared; the one whose page is ready last gives it back."""
    machine = Machine(V6_12)
    machine.run(roots.free_roots(machine.vm, machine.vcpu))
    machine.vm.roots.clear()
    machine.vm.tables.clear()
    other = Vcpu(1)
    machine.vm.vcpus.append(other)
    others = 0

    def meanwhile(effect: KvmEffect) -> None:
        nonlocal others
        if isinstance(effect, Store):
            others += 1
            if others == 3:
                machine.run(roots.prepare_entry(machine.vm, other))

    machine.watched(roots.load_root(machine.vm, machine.vcpu), meanwhile)
    assert others == 512
    assert machine.vcpu.root is other.root is machine.vm.roots[0]
    assert machine.vm.roots[0].refcount == 3
    assert len(machine.vm.tables) == 1


@ALL
def test_newest_root_is_visited_first(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.run(slot_ops.create(machine.vm, Memslot(0, 0, 16, HVA + (1 << 30), 0, as_id=1)))
    machine.fault(5)
    machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=1))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    machine.fault(5)
    machine.log.clear()
    machine.run(roots.release(machine.vm))
    spaces = [one.as_id for one in machine.log if isinstance(one, SpteChanged) and one.new == machine.vm.fmt.empty]
    assert spaces == sorted(spaces, reverse=True)
    assert set(spaces) == {0, 1}


@pytest.mark.parametrize(("version", "letters"), [(kernel(6, 13), ["S", "s"]), (kernel(6, 14), ["X", "x"])])
def test_destruction_zaps_under_the_lock_of_the_release(version: KvmVersion, letters: list[str]) -> None:
    machine = Machine(version)
    machine.run(roots.free_roots(machine.vm, machine.vcpu))
    machine.log.clear()
    machine.run(roots.destroy(machine.vm))
    assert machine.locks() == letters
