"""Memslot changes: what dies, what survives, in which order, and what KVM refuses (facts C0, C3)."""

from collections.abc import Callable
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, HVA, READ, Machine
from pymodel.kvm import notifier, roots, slot_ops
from pymodel.kvm.effects import AwaitInvalidations, KvmAgent, KvmEffect, MmuLock, SrcuSynchronize, TlbFlush
from pymodel.kvm.errors import EEXIST, EINVAL, KvmError
from pymodel.kvm.memslots import GEN_UPDATING, GUEST_MEMFD, LOG_DIRTY, READONLY, USER_SLOTS, Memslot
from pymodel.kvm.version import V6_1, V6_7, V6_12, KvmVersion
from pymodel.kvm.vm import Vm

_SMM = 1


@ALL
def test_deleting_a_slot_ends_all_roots_without_a_flush(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.log.clear()
    machine.run(slot_ops.delete(machine.vm, 0))
    assert machine.vm.slots.generation() == 6
    assert not machine.flushes()
    assert len(machine.vm.tables) == 1, "only the root that the vCPU still holds"
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert [root.invalid for root in machine.vm.roots] == [False]


@pytest.mark.parametrize(("version", "others_stay"), [(V6_1, False), (V6_7, False), (V6_12, True)])
def test_zap_all_quirk_off_spares_other_slots_where_the_kernel_knows_it(version: KvmVersion, others_stay: bool) -> None:
    machine = Machine(version, npages=16, slot_zap_all=False)
    machine.run(slot_ops.create(machine.vm, Memslot(1, 512, 16, HVA + (1 << 30), 0)))
    machine.fault(3)
    machine.fault(513)
    machine.log.clear()
    machine.run(slot_ops.delete(machine.vm, 0))
    assert machine.entry(3)[1] == machine.vm.fmt.empty
    assert machine.vm.fmt.is_present(machine.entry(513)[1]) is others_stay
    assert bool(machine.flushes()) is others_stay


def test_moved_slot_comes_back_elsewhere_with_its_log() -> None:
    machine = Machine(V6_12, npages=16, flags=LOG_DIRTY)
    machine.fault(3)
    machine.slot.write_tracked.add(5)
    machine.run(slot_ops.move(machine.vm, 0, 0x1000))
    slot = machine.vm.slots.find(0x1003)
    assert slot is not None
    assert (slot.dirty, 5 in slot.write_tracked, slot.invalid) == ({3}, False, False)
    assert machine.vm.slots.find(3) is None
    assert machine.vm.slots.generation() == 6


def test_move_to_the_same_place_and_flags_that_stay_change_nothing() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(slot_ops.move(machine.vm, 0, 0))
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert machine.vm.slots.generation() == 2
    assert machine.log == []


def test_move_beyond_the_guest_is_found_out_after_the_zap() -> None:
    machine = Machine(V6_12, npages=16)
    machine.fault(3)
    with pytest.raises(KvmError, match=r"base_gfn must be at most 0xffffff0 for 16 pages, not 0xffffff8") as caught:
        machine.run(slot_ops.move(machine.vm, 0, 0xFFFFFF8))
    assert caught.value.errno == EINVAL
    slot = machine.vm.slots.find(3)
    assert slot is not None
    assert not slot.invalid
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    assert machine.fault(3).code == V6_12.ret_fixed


def test_swap_waits_for_notifiers_and_readers_before_the_generation_grows() -> None:
    machine = Machine(V6_12, npages=16)
    seen: list[tuple[str, int, bool]] = []
    agent = slot_ops.create(machine.vm, Memslot(1, 512, 16, HVA + (1 << 30), 0))
    for effect in agent:
        seen.append((type(effect).__name__, machine.vm.slots.generation(), machine.vm.slots.find(512) is not None))
    assert seen == [(AwaitInvalidations.__name__, 2, False), (SrcuSynchronize.__name__, GEN_UPDATING | 2, True)]
    assert machine.vm.slots.generation() == 4


def test_slots_must_not_change_under_an_open_notifier_range() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(notifier.invalidate_range_start(machine.vm, HVA, HVA + 4096))
    with pytest.raises(AssertionError, match="1 notifier ranges are open"):
        machine.run(slot_ops.delete(machine.vm, 0))


def test_generation_that_comes_round_zaps_everything() -> None:
    machine = Machine(V6_12, npages=16)
    machine.fault(3)
    machine.vm.slots._generations[0] = (1 << 19) - 4
    machine.run(slot_ops.create(machine.vm, Memslot(1, 512, 16, HVA + (1 << 30), 0)))
    assert "zap_all_fast" not in machine.calls()
    machine.run(slot_ops.delete(machine.vm, 1))
    assert machine.vm.slots.generation() == (1 << 19) + 2
    assert machine.calls().count("zap_all_fast") == 2, "once for the slot, once for the generation"


def test_address_spaces_have_slots_and_generations_of_their_own() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(slot_ops.create(machine.vm, Memslot(0, 4, 16, HVA, 0, as_id=_SMM)))
    assert (machine.vm.slots.generation(), machine.vm.slots.generation(_SMM)) == (2, 3)
    machine.run(slot_ops.delete(machine.vm, 0, _SMM))
    assert machine.vm.slots.find(5) is not None
    assert machine.vm.slots.find(5, _SMM) is None
    assert machine.vm.slots.generation(_SMM) == 7


def test_logging_that_starts_with_every_page_dirty() -> None:
    machine = Machine(V6_12, npages=70, flags=LOG_DIRTY, manual_protect=True, initially_set=True)
    assert machine.slot.dirty == set(range(70))
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert machine.slot.dirty == set()
    machine.log.clear()
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.slot.dirty == set(range(70))
    assert machine.transitions() == []


def test_read_only_slot_that_is_logged_changes_no_entry() -> None:
    machine = Machine(V6_12, flags=READONLY)
    machine.fault(3, READ)
    machine.log.clear()
    machine.run(slot_ops.set_flags(machine.vm, 0, READONLY | LOG_DIRTY))
    assert not any(isinstance(one, MmuLock | TlbFlush) for one in machine.log)


def _slot(**changes: int) -> Callable[[Vm], KvmAgent[Any]]:
    wanted: dict[str, Any] = {"ident": 1, "base_gfn": 512, "npages": 16, "hva": HVA + (1 << 30), "flags": 0, **changes}
    return lambda vm: slot_ops.create(vm, Memslot(**wanted))


@pytest.mark.parametrize(
    ("make", "errno", "text"),
    [
        (_slot(base_gfn=8), EEXIST, "slot 1 at 0x8..0x17 must be outside slot 0 at 0x0..0xf, not '0x8..0xf'"),
        (_slot(ident=0), EINVAL, "slot must be an id that no memslot has, not 0"),
        (_slot(ident=USER_SLOTS), EINVAL, "slot must be 0..0x7ffb, not 0x7ffc"),
        (_slot(ident=-1), EINVAL, "slot must be 0..0x7ffb, not -1"),
        (_slot(as_id=2), EINVAL, "as_id must be 0..1, not 2"),
        (_slot(npages=0), EINVAL, "npages must be 1..0x7fffffff, not 0"),
        (_slot(npages=1 << 31), EINVAL, "npages must be 1..0x7fffffff, not 0x80000000"),
        (_slot(hva=HVA + 1), EINVAL, "hva must be a page-aligned user address below 2^56, not 0x200000000001"),
        (_slot(hva=-4096), EINVAL, "hva must be a page-aligned user address below 2^56, not -0x1000"),
        (_slot(base_gfn=-1), EINVAL, "base_gfn must be at least 0, not -1"),
        (_slot(base_gfn=1 << 28), EINVAL, "base_gfn must be at most 0xffffff0 for 16 pages, not 0x10000000"),
        (_slot(flags=8), EINVAL, "flags must be a part of 0x3, not 8"),
        (_slot(flags=GUEST_MEMFD | READONLY), EINVAL, "flags must be a part of 0x4, not 6"),
        (_slot(flags=GUEST_MEMFD | LOG_DIRTY), EINVAL, "flags must be a part of 0x4, not 5"),
        (lambda vm: slot_ops.delete(vm, 9), EINVAL, "slot must be the id of a memslot of address space 0, not 9"),
        (lambda vm: slot_ops.delete(vm, 0, 1), EINVAL, "slot must be the id of a memslot of address space 1, not 0"),
        (lambda vm: slot_ops.move(vm, 9, 1), EINVAL, "slot must be the id of a memslot of address space 0, not 9"),
        (lambda vm: slot_ops.set_flags(vm, 9, 1), EINVAL, "slot must be the id of a memslot of address space 0, not 9"),
        (lambda vm: slot_ops.set_flags(vm, 0, READONLY), EINVAL, "flags must be 0x0 or 0x1 for slot 0, not 2"),
    ],
)
def test_slot_wrong_request_is_refused_at_once(
    make: Callable[[Vm], KvmAgent[Any]], errno: int, text: str
) -> None:
    machine = Machine(V6_12, npages=16)
    with pytest.raises(KvmError) as caught:
        machine.run(make(machine.vm))
    assert (str(caught.value), caught.value.errno) == (text, errno)
    assert machine.log == []
    assert machine.vm.slots.generation() == 2


def test_move_over_another_slot_is_refused_over_itself_not() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(_slot()(machine.vm))
    with pytest.raises(KvmError, match="must be outside slot 1") as caught:
        machine.run(slot_ops.move(machine.vm, 0, 500))
    assert caught.value.errno == EEXIST
    machine.run(slot_ops.move(machine.vm, 0, 8))
    assert machine.slot.base_gfn == 8


def test_slot_with_guest_memory_cannot_change_and_needs_a_kernel_that_has_it() -> None:
    machine = Machine(V6_12, npages=16, flags=GUEST_MEMFD)
    with pytest.raises(KvmError, match="flags must be 0x4 for slot 0, not 0"):
        machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    with pytest.raises(KvmError, match="flags must be without 0x4"):
        machine.run(slot_ops.move(machine.vm, 0, 16))
    with pytest.raises(KvmError, match="flags must be a part of 0x3, not 4"):
        Machine(V6_7, npages=16, flags=GUEST_MEMFD)


def test_no_mmio_entry_is_trusted_until_the_zap_of_a_generation_that_comes_round_is_done() -> None:
    machine = Machine(V6_12, npages=16)
    while machine.vm.slots.upcoming(0) & (1 << 19) - 1:
        machine.vm.slots.advance(0)
    trusted: list[bool] = []

    def ask(effect: KvmEffect) -> None:
        if isinstance(effect, MmuLock):
            trusted.append(not machine.vm.slots.generation(0) & GEN_UPDATING)

    machine.watched(slot_ops.create(machine.vm, Memslot(1, 0x80, 16, HVA + (1 << 30), 0)), ask)
    assert trusted == [False, False]
    assert machine.vm.slots.generation(0) & (1 << 19) - 1 == 0
