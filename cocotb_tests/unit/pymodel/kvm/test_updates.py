"""Zaps, splits, dirty logging, roots: the order of stores and flushes (facts C3-C7, C10), invariants (C12)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocotb_tests.unit.pymodel.kvm.support import HVA, READ, WRITE, Machine, effects_of
from pymodel.effects import CompareExchange, Store
from pymodel.kvm import dirty, dirty_ring, memory_type, notifier, roots, slot_ops
from pymodel.kvm.effects import SpteChanged, TlbFlush
from pymodel.kvm.gfn_set import GfnSet
from pymodel.kvm.hardware import WRITE as WRITE_ACCESS
from pymodel.kvm.invariants import InvariantError, check
from pymodel.kvm.memslots import LOG_DIRTY, Memslot
from pymodel.kvm.spte import ept
from pymodel.kvm.vcpu import RING_FULL, Access, Instruction, run_guest
from pymodel.kvm.version import V6_1, V6_7, V6_12, V6_13, KvmVersion

_ALL = pytest.mark.parametrize("version", [V6_1, V6_7, V6_12, V6_13], ids=lambda version: version.name)


def _slot(machine: Machine) -> Memslot:
    slot = machine.vm.slots.get(0)
    assert slot is not None
    return slot


@_ALL
def test_notifier_zaps_whole_huge_leaf_and_flushes_once(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.level = 2
    machine.fault(3)
    machine.log.clear()
    machine.run(notifier.invalidate_range_start(machine.vm, HVA + 0x5000, HVA + 0x6000))
    assert machine.transitions() == [(0, 2, 0x100000EE7, machine.vm.fmt.empty)]
    assert machine.flushes() == [TlbFlush()]
    assert isinstance(machine.log[-2], TlbFlush), "the flush comes before the lock is given up"


def _collapse(version: KvmVersion) -> tuple[Machine, list[Any]]:
    machine = Machine(version, flags=LOG_DIRTY)
    machine.level = 2
    machine.fault(3)
    machine.fault(4)
    return machine, effects_of(machine, slot_ops.set_flags(machine.vm, 0, 0))


def test_atomic_zap_is_frozen_flush_empty() -> None:
    machine, effects = _collapse(V6_12)
    fmt = machine.vm.fmt
    kinds = [type(effect) for effect in effects]
    freeze = kinds.index(CompareExchange)
    assert effects[freeze].new == fmt.frozen
    flush = kinds.index(TlbFlush)
    empty = kinds.index(Store)
    first = kinds.index(SpteChanged)
    assert freeze < flush < empty < first, "6.12: children and trace after the flush"
    assert (effects[empty].address, effects[empty].value) == (effects[freeze].address, fmt.empty)
    machine, effects = _collapse(V6_1)
    kinds = [type(effect) for effect in effects]
    assert kinds.index(SpteChanged) < kinds.index(TlbFlush), "6.1: children frozen before the flush"


def test_recovery_in_place_has_no_window() -> None:
    machine, effects = _collapse(V6_13)
    changes = [(one.gfn, one.level, one.new) for one in effects if isinstance(one, SpteChanged)]
    assert changes[0] == (0, 2, 0x100000EE7)
    assert all(level == 1 and new == machine.vm.fmt.frozen for _, level, new in changes[1:])
    assert len(changes) == 513
    assert [type(one) for one in effects].index(TlbFlush) > 500
    assert machine.entry(3) == (2, 0x100000EE7)


@_ALL
def test_eager_split_is_hitless(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.level = 2
    machine.fault(3)
    machine.log.clear()
    effects = effects_of(machine, dirty.try_split(machine.vm, _slot(machine), 0, 512, 1, shared=True))
    assert sum(isinstance(one, SpteChanged) for one in effects) == 1
    assert not any(isinstance(one, TlbFlush) for one in effects)
    link = next(index for index, one in enumerate(effects) if isinstance(one, CompareExchange))
    filled = [one.value for one in effects[:link] if isinstance(one, Store)][-512:]
    assert filled == [0x100000E67 + (index << 12) for index in range(512)]
    assert machine.entry(77) == (1, 0x10004DE67)


@_ALL
def test_dirty_log_round(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.fault(70)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3) == (1, 0x100003E65)
    machine.fault(3, WRITE | 1)
    assert machine.entry(3) == (1, 0x100003E67)
    machine.log.clear()
    assert machine.run(dirty.get_dirty_log(machine.vm, _slot(machine))) == {3}
    assert machine.entry(3) == (1, 0x100003E65)
    assert machine.flushes()
    machine.log.clear()
    assert machine.run(dirty.get_dirty_log(machine.vm, _slot(machine))) == set()
    assert not machine.flushes()


def test_initially_set_log_protects_huge_pages_at_clear() -> None:
    machine = Machine(V6_12, manual_protect=True, initially_set=True, eager_page_split=False)
    machine.level = 2
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3) == (2, 0x100000EE7)
    assert len(machine.run(dirty.get_dirty_log(machine.vm, _slot(machine)))) == 4096
    machine.run(dirty.clear_dirty_log(machine.vm, _slot(machine), 0, range(64)))
    assert machine.entry(3) == (2, 0x100000AE5)
    assert machine.fault(3, WRITE | 1).code == V6_12.ret_fixed
    assert machine.entry(3) == (1, 0x100003E67)


def test_dirty_ring_fills_and_is_reset() -> None:
    machine = Machine(V6_12, flags=LOG_DIRTY, dirty_ring_size=68)
    writes = [Instruction((Access(gfn << 12, WRITE_ACCESS),)) for gfn in (3, 70, 5, 4, 9)]
    assert machine.run(run_guest(machine.vm, machine.vcpu, writes)) == RING_FULL
    assert _slot(machine).dirty == set()
    assert dirty_ring.collect(machine.vcpu) == [(0, 3), (0, 70), (0, 5), (0, 4)]
    assert machine.run(run_guest(machine.vm, machine.vcpu, writes)) == RING_FULL, "not reset yet"
    machine.log.clear()
    assert machine.run(dirty_ring.reset_rings(machine.vm)) == 4
    assert machine.flushes()
    assert [gfn for gfn, _, _, _ in machine.transitions()] == [3, 70, 4, 5]
    assert machine.run(run_guest(machine.vm, machine.vcpu, writes[:2])) == 0


def test_dirty_bit_log_clears_d_only() -> None:
    machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True), log_by_dirty_bit=True)
    machine.fault(3)
    before = machine.entry(3)[1]
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3)[1] == before & ~(1 << 9)


@_ALL
def test_deleting_a_slot_ends_all_roots_without_a_flush(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.log.clear()
    machine.run(slot_ops.delete(machine.vm, 0))
    assert machine.vm.slots.generation == 6
    assert not machine.flushes()
    assert len(machine.vm.tables) == 1, "only the root that the vCPU still holds"
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert [root.invalid for root in machine.vm.roots] == [False]


def test_slot_zap_quirk_off_zaps_leaves_of_the_slot_only() -> None:
    machine = Machine(V6_12, npages=16, slot_zap_all=False)
    machine.run(slot_ops.create(machine.vm, Memslot(1, 512, 16, HVA + (1 << 30), 0)))
    machine.fault(3)
    machine.fault(513)
    machine.run(slot_ops.delete(machine.vm, 0))
    assert machine.entry(3)[1] == machine.vm.fmt.empty
    assert machine.vm.fmt.is_present(machine.entry(513)[1])


def test_moved_slot_comes_back_elsewhere() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(slot_ops.move(machine.vm, 0, 0x1000))
    assert machine.vm.slots.find(0x1003) is not None
    assert machine.vm.slots.find(3) is None
    with pytest.raises(KeyError):
        machine.run(slot_ops.delete(machine.vm, 9))


def test_exported_root_survives_a_deletion_and_is_flushed() -> None:
    machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True, marker=59))
    root = machine.vcpu.root
    assert root is not None
    root.exported = True
    machine.fault(3)
    machine.log.clear()
    machine.run(slot_ops.delete(machine.vm, 0))
    assert machine.vm.roots == [root]
    assert not root.invalid
    assert machine.flushes()
    check(machine.vm, machine.memory.load, settled=True)
    assert machine.fault(3, READ).emulate
    with pytest.raises(InvariantError, match="I6"):
        check(machine.vm, machine.memory.load)


def test_noncoherent_device_changes_the_memory_type() -> None:
    machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True))
    machine.fault(3)
    assert machine.entry(3)[1] & 0x78 == 0x70
    machine.run(memory_type.register_noncoherent(machine.vm))
    assert machine.entry(3)[1] == machine.vm.fmt.empty
    assert memory_type.wbinvd_emulated(machine.vm)
    machine.fault(3)
    assert machine.entry(3)[1] & 0x78 == 0x30
    machine.run(memory_type.unregister_noncoherent(machine.vm))
    assert not memory_type.wbinvd_emulated(machine.vm)
    with pytest.raises(ValueError, match="registered"):
        machine.run(memory_type.unregister_noncoherent(machine.vm))


@_ALL
def test_destroying_a_vm_frees_every_table(version: KvmVersion) -> None:
    machine = Machine(version)
    for gfn in (1, 600, 3000):
        machine.fault(gfn)
    machine.run(roots.release(machine.vm))
    machine.run(roots.destroy(machine.vm))
    assert machine.vm.tables == {}
    assert machine.vm.roots == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.booleans()), max_size=20))
def test_gfn_set_is_a_set(changes: list[tuple[int, int, bool]]) -> None:
    ours = GfnSet()
    plain: set[int] = set()
    for start, length, present in changes:
        ours.change(start, start + length, present)
        plain = plain | set(range(start, start + length)) if present else plain - set(range(start, start + length))
    assert {gfn for gfn in range(60) if gfn in ours} == plain
    for start in range(0, 56, 7):
        assert ours.mixed(start, start + 4) == (len(plain & set(range(start, start + 4))) in (1, 2, 3))


_STEP = st.tuples(
    st.sampled_from(["read", "write", "huge", "shoot", "log", "unlog", "get", "age"]), st.integers(0, 1100)
)


@pytest.mark.parametrize("version", [V6_1, V6_12, V6_13], ids=lambda version: version.name)
@settings(max_examples=40, deadline=None)
@given(steps=st.lists(_STEP, max_size=12))
def test_invariants_after_every_step(version: KvmVersion, steps: list[tuple[str, int]]) -> None:
    machine = Machine(version, npages=1200)
    for name, gfn in steps:
        machine.level = 2 if name == "huge" else 1
        start = HVA + (gfn << 12)
        if name in ("read", "write", "huge"):
            before = machine.vm.fmt.is_present(machine.entry(gfn)[1])
            machine.fault(gfn, (READ if name == "read" else WRITE) | int(before))
        elif name == "shoot":
            machine.run(notifier.invalidate_range_start(machine.vm, start, start + 0x8000))
            machine.run(notifier.invalidate_range_end(machine.vm, start, start + 0x8000))
        elif name in ("log", "unlog"):
            machine.level = 2
            machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY if name == "log" else 0))
        elif name == "get":
            machine.run(dirty.get_dirty_log(machine.vm, _slot(machine)))
        else:
            machine.run(notifier.clear_flush_young(machine.vm, start, start + 0x1000))
        check(machine.vm, machine.memory.load, settled=True)
