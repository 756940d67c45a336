"""Changes of entries: atomicity, forbidden changes, removed tables, zaps of leaves (facts C1 F2 F3, C3, C4, C10)."""

from collections.abc import Callable

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, HVA, Machine, effects_of
from pymodel.effects import CompareExchange, Load, Store
from pymodel.kvm import roots
from pymodel.kvm.effects import KvmEffect
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memory_type import register_noncoherent
from pymodel.kvm.notifier import invalidate_range_start
from pymodel.kvm.spte import ept
from pymodel.kvm.tdp_mmu import may_yield, protect_range, set_atomic, set_exclusive, zap_leafs
from pymodel.kvm.version import V6_1, V6_8, V6_12, KvmVersion, kernel
from pymodel.kvm.vm import Table
from pymodel.kvm.walk import TdpIter


def _root(machine: Machine) -> Table:
    assert machine.vcpu.root is not None
    return machine.vcpu.root


def _address(machine: Machine, gfn: int, level: int = 1) -> int:
    table = next(one for one in machine.vm.tables.values() if one.level == level and one.gfn <= gfn < one.gfn + 512)
    return (table.frame << 12) + 8 * (gfn >> 9 * (level - 1) & 511)


def test_live_leaf_never_changes_its_page() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    address, old = _address(machine, 3), machine.entry(3)[1]
    with pytest.raises(AssertionError, match="gfn 0x3: a live leaf changed its pfn"):
        machine.run(set_exclusive(machine.vm, 0, 3, 1, address, old, old + 0x1000))


def test_live_table_never_changes_its_child() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    address = _address(machine, 3, 2)
    old = machine.memory.load(address)
    with pytest.raises(AssertionError, match="a live table changed its child"):
        machine.run(set_exclusive(machine.vm, 0, 0, 2, address, old, old + 0x1000))


def test_atomic_change_fails_over_another_value_and_over_frozen() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    it = TdpIter(machine.vm, _root(machine), 3, 4)
    for _ in range(4):
        assert machine.run(it.step())
    old = it.old
    machine.memory.store(it.address, old & ~2)
    assert machine.run(set_atomic(machine.vm, it, old | 1 << 54)) is False
    assert it.old == old & ~2
    it.old = machine.vm.fmt.frozen
    before = len(machine.log)
    assert machine.run(set_atomic(machine.vm, it, old)) is False
    assert len(machine.log) == before


@pytest.mark.parametrize(("bits", "atomic"), [(0, False), (1 << 5, True), (1 << 6, True), (1 << 1, True)])
def test_exclusive_zap_exchanges_only_volatile_leaves(bits: int, atomic: bool) -> None:
    """C3: an atomic write if the entry is volatile: A or D may be set, or W given back without the lock."""
    machine = Machine(V6_12)
    machine.fault(3)
    address = _address(machine, 3)
    machine.memory.store(address, machine.memory.load(address) & ~bits)
    effects = effects_of(machine, invalidate_range_start(machine.vm, HVA + 0x3000, HVA + 0x4000))
    expected = CompareExchange if atomic else Store
    assert [type(one) for one in effects if isinstance(one, CompareExchange | Store)] == [expected]
    assert machine.entry(3)[1] == machine.vm.fmt.empty


@pytest.mark.parametrize("hidden", [False, True])
def test_access_tracked_leaf_is_volatile(hidden: bool) -> None:
    fmt = ept(suppress_ve_empty=True, ad_enabled=False)
    leaf = fmt.leaf(5, 1, 0, host_writable=True)
    entry = fmt.access_track(leaf) if hidden else leaf
    assert fmt.is_volatile(entry) is hidden


def test_hardware_bits_of_a_zapped_leaf_are_seen() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    address, fmt = _address(machine, 3), machine.vm.fmt
    machine.memory.store(address, machine.memory.load(address) & ~fmt.dirty)

    def write(effect: KvmEffect) -> None:
        if isinstance(effect, CompareExchange) and effect.address == address:
            machine.memory.store(address, machine.memory.load(address) | fmt.dirty)

    machine.log.clear()
    machine.watched(invalidate_range_start(machine.vm, HVA + 0x3000, HVA + 0x4000), write)
    assert [old & fmt.dirty for _, _, old, _ in machine.transitions()] == [fmt.dirty]


@ALL
def test_removed_table_is_frozen_whole_under_the_shared_lock_and_where_live_otherwise(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.level = 2
    machine.log.clear()
    machine.fault(3)
    assert [new for _, level, _, new in machine.transitions() if level == 1] == [machine.vm.fmt.frozen] * 512
    machine = Machine(version)
    machine.fault(3)
    machine.log.clear()
    machine.run(roots.release(machine.vm))
    frozen = [gfn for gfn, level, _, new in machine.transitions() if new == machine.vm.fmt.frozen and level == 1]
    expected = [3] if len(version.root_zap_levels) == 2 else []
    assert frozen == expected


def test_removed_table_waits_for_a_writer_that_froze_an_entry() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    address = _address(machine, 7)
    frozen = machine.vm.fmt.frozen
    machine.memory.store(address, frozen)
    machine.level = 2
    waited = 0

    def finish(effect: KvmEffect) -> None:
        nonlocal waited
        if isinstance(effect, Load) and effect.address == address:
            waited += 1
            if waited == 4:
                machine.memory.store(address, machine.vm.fmt.empty)

    machine.watched(page_fault(machine.vm, machine.vcpu, 0x3000, 1 << 32 | 6), finish)
    assert waited == 4
    assert machine.entry(7)[0] == 2


@pytest.mark.parametrize(("version", "flush"), [(V6_1, True), (V6_8, True), (kernel(6, 9), False), (V6_12, False)])
def test_leaves_of_a_dying_root_need_no_flush_from_6_9_on(version: KvmVersion, flush: bool) -> None:
    machine = Machine(version)
    machine.fault(3)
    _root(machine).invalid = True
    assert machine.run(zap_leafs(machine.vm, _root(machine), 0, 8, False)) is flush


def test_lock_is_not_given_up_twice_at_one_place() -> None:
    """Forward progress: after a pause the walk gets on before the next one."""
    machine = Machine(V6_12)
    machine.fault(3)
    machine.pauses = [True] * 1000
    machine.log.clear()
    machine.run(protect_range(machine.vm, _root(machine), 0, 8, 1))
    assert len(machine.transitions()) == 1
    assert machine.locks() == ["s", "S"] * 8
    it = TdpIter(machine.vm, _root(machine), 3, 4)
    machine.run(it.step())
    assert machine.run(may_yield(machine.vm, it, write=True)) is True
    machine.run(it.step())
    assert machine.run(may_yield(machine.vm, it, write=True)) is False


@pytest.mark.parametrize(
    "change",
    [
        lambda machine: zap_leafs(machine.vm, _root(machine), 0, 1024, False),
        lambda machine: protect_range(machine.vm, _root(machine), 0, 1024, 1),
        lambda machine: register_noncoherent(machine.vm),
    ],
    ids=["zap", "protect", "types"],
)
def test_pause_anywhere_gives_the_same_tables(change: Callable[[Machine], object]) -> None:
    results = set()
    for place in range(24):
        machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True))
        for gfn in (3, 4, 600):
            machine.fault(gfn)
        machine.pauses = [False] * place + [True]
        machine.run(change(machine))  # type: ignore[arg-type]
        results.add(tuple(machine.entry(gfn) for gfn in (3, 4, 600)))
    assert len(results) == 1
