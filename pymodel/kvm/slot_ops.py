"""KVM_SET_USER_MEMORY_REGION: create, delete, move, change of flags (facts C0, C3; kvm_set_memslot).

Each change waits for open notifier ranges, puts the new slots in, waits for faults that use the old ones, and only
then raises the generation: a fault that found no slot makes its MMIO entry with the generation of before.
"""

from collections.abc import Callable
from dataclasses import replace

from pymodel.kvm.collapse import logging_off
from pymodel.kvm.dirty import logging_on
from pymodel.kvm.effects import AwaitInvalidations, KvmAgent, MmuLock, MmuUnlock, SrcuSynchronize
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import GEN_STEP, GUEST_MEMFD, LOG_DIRTY, READONLY, Memslot
from pymodel.kvm.mmio import MMIO_GEN_MASK
from pymodel.kvm.pml import update_all
from pymodel.kvm.roots import zap_all_fast
from pymodel.kvm.tdp_mmu import unmap_range
from pymodel.kvm.tracked_gfns import TrackedGfns
from pymodel.kvm.vm import Vm, call, flush_all

__all__ = ["create", "delete", "move", "set_flags"]


def create(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """KVM_MR_CREATE: no entry changes; MMIO entries of the range die by their generation.

    Raises `KvmError` for a slot that KVM refuses: EINVAL, or EEXIST where it overlaps another.
    """
    vm.slots.check_new(slot, private_memory=vm.version.private_memory)
    _check_gfn(vm, slot, slot.base_gfn)
    _start_log(vm, slot)
    yield from _swap(vm, slot.as_id, lambda: vm.slots.install(slot))


def _check_gfn(vm: Vm, slot: Memslot, base_gfn: int) -> None:
    """kvm_arch_prepare_memory_region."""
    if not 0 <= base_gfn <= vm.gfn_limit - slot.npages:
        raise KvmError(EINVAL, "base_gfn", f"at most {vm.gfn_limit - slot.npages:#x} for {slot.npages} pages", base_gfn)


def _start_log(vm: Vm, slot: Memslot) -> None:
    """kvm_prepare_memory_region: the bitmap of a slot whose logging begins."""
    if slot.logging and vm.params.initially_set and not vm.params.dirty_ring_size:
        slot.dirty = set(range(slot.npages))


def _swap(vm: Vm, as_id: int, change: Callable[[], None]) -> KvmAgent[None]:
    """kvm_swap_active_memslots: `change` the slots between their readers.

    Where the generation that fits an MMIO entry comes round to its beginning, all entries go
    (kvm_mmu_invalidate_mmio_sptes) before it counts: until then none is trusted.
    """
    yield AwaitInvalidations()
    if vm.notifiers_active:
        raise AssertionError(f"memslots change while {vm.notifiers_active} notifier ranges are open (facts C2)")
    change()
    vm.slots.updating(as_id)
    yield SrcuSynchronize()
    if vm.slots.upcoming(as_id) & MMIO_GEN_MASK < GEN_STEP:
        yield from zap_all_fast(vm)
    vm.slots.advance(as_id)
    update_all(vm)


def _invalidate(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_invalidate_memslot: nobody may map from the slot any more, then its entries go.

    Between the two, faults that found the slot valid come to their end: of a root that stays (exported, or with
    the zap-all quirk off) nothing else would tell them that it is stale.
    """

    def forbid() -> None:
        slot.invalid = True

    yield from _swap(vm, slot.as_id, forbid)
    yield call("kvm_arch_flush_shadow_memslot", slot_id=slot.ident, slot_flags=slot.flags)
    if vm.params.slot_zap_all or not vm.version.slot_zap_quirk:
        yield from zap_all_fast(vm)
        return
    yield MmuLock(write=True)
    if (yield from unmap_range(vm, slot, slot.base_gfn, slot.end_gfn, False)):
        yield from flush_all(vm)
    yield MmuUnlock(write=True)


def delete(vm: Vm, ident: int, as_id: int = 0) -> KvmAgent[None]:
    """KVM_MR_DELETE. Raises `KvmError` (EINVAL) if there is no such slot."""
    slot = vm.slots.existing(ident, as_id)
    yield from _invalidate(vm, slot)
    yield from _swap(vm, as_id, lambda: vm.slots.remove(ident, as_id))


def move(vm: Vm, ident: int, base_gfn: int, as_id: int = 0) -> KvmAgent[None]:
    """KVM_MR_MOVE: as a deletion, then the slot comes back elsewhere with the log that it had.

    Raises `KvmError`: EEXIST where it would overlap, EINVAL if there is no such slot or its new place is beyond the
    guest's addresses; the last is found out only after the entries were zapped.
    """
    slot = vm.slots.existing(ident, as_id)
    if slot.private:
        raise KvmError(EINVAL, "flags", f"without {GUEST_MEMFD:#x} for a slot that is to change", slot.flags)
    if base_gfn == slot.base_gfn:
        return
    vm.slots.check_free(slot, base_gfn)
    yield from _invalidate(vm, slot)
    try:
        _check_gfn(vm, slot, base_gfn)
    except KvmError:
        valid = replace(slot, invalid=False)
        yield from _swap(vm, as_id, lambda: vm.slots.install(valid))
        raise
    moved = replace(slot, base_gfn=base_gfn, invalid=False, write_tracked=TrackedGfns())
    yield from _swap(vm, as_id, lambda: vm.slots.install(moved))


def set_flags(vm: Vm, ident: int, flags: int, as_id: int = 0) -> KvmAgent[None]:
    """KVM_MR_FLAGS_ONLY: turn dirty logging on or off; the same flags again change nothing.

    Raises `KvmError` (EINVAL) for another change or an unknown slot.
    """
    slot = vm.slots.existing(ident, as_id)
    vm.slots.check_flags(flags, private_memory=vm.version.private_memory)
    if slot.private or (slot.flags ^ flags) & ~LOG_DIRTY:
        allowed = (slot.flags,) if slot.private else (slot.flags & READONLY, slot.flags & READONLY | LOG_DIRTY)
        raise KvmError(EINVAL, "flags", " or ".join(f"{one:#x}" for one in allowed) + f" for slot {ident}", flags)
    if flags == slot.flags:
        return
    changed = replace(slot, flags=flags, dirty=set())
    _start_log(vm, changed)
    yield from _swap(vm, as_id, lambda: vm.slots.install(changed))
    if not changed.readonly:
        yield from (logging_on if changed.logging else logging_off)(vm, changed)
