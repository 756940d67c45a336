"""KVM_SET_USER_MEMORY_REGION: create, delete, move, change of flags (facts C3; kvm_set_memslot)."""

from dataclasses import replace

from pymodel.kvm.dirty import logging_off, logging_on
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.memslots import GEN_STEP, Memslot
from pymodel.kvm.roots import zap_all_fast
from pymodel.kvm.tdp_mmu import unmap_range
from pymodel.kvm.vm import Vm, call, flush_all

__all__ = ["create", "delete", "move", "set_flags"]


def create(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """KVM_MR_CREATE: no entry changes; MMIO entries of the range die by their generation."""
    yield MmuLock(write=True)
    _start_log(vm, slot)
    vm.slots.install(slot)
    yield MmuUnlock(write=True)


def _start_log(vm: Vm, slot: Memslot) -> None:
    if slot.logging and vm.params.initially_set:
        slot.dirty = set(range(slot.npages))


def _invalidate(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_invalidate_memslot: nobody may map from the slot any more, then its entries go."""
    slot.invalid = True
    vm.slots.generation += GEN_STEP
    yield call("kvm_arch_flush_shadow_memslot", slot_id=slot.ident, slot_flags=slot.flags)
    if vm.params.slot_zap_all or not vm.version.slot_zap_quirk:
        yield from zap_all_fast(vm)
        return
    yield MmuLock(write=True)
    if (yield from unmap_range(vm, slot, slot.base_gfn, slot.end_gfn, False)):
        yield from flush_all(vm)
    yield MmuUnlock(write=True)


def delete(vm: Vm, ident: int) -> KvmAgent[None]:
    """KVM_MR_DELETE. Raises `KeyError` if there is no such slot."""
    slot = _existing(vm, ident)
    yield from _invalidate(vm, slot)
    vm.slots.remove(ident, slot.as_id)


def move(vm: Vm, ident: int, base_gfn: int) -> KvmAgent[None]:
    """KVM_MR_MOVE: as a deletion, then the slot comes back elsewhere with an empty log."""
    slot = _existing(vm, ident)
    yield from _invalidate(vm, slot)
    moved = replace(slot, base_gfn=base_gfn, invalid=False, dirty=set())
    _start_log(vm, moved)
    vm.slots.install(moved)


def set_flags(vm: Vm, ident: int, flags: int) -> KvmAgent[None]:
    """KVM_MR_FLAGS_ONLY: turn dirty logging on or off."""
    slot = _existing(vm, ident)
    changed = replace(slot, flags=flags)
    if not changed.logging:
        changed.dirty = set()
    elif not slot.logging:
        changed.dirty = set()
        _start_log(vm, changed)
    vm.slots.install(changed)
    if changed.readonly or changed.logging == slot.logging:
        return
    yield from (logging_on if changed.logging else logging_off)(vm, changed)


def _existing(vm: Vm, ident: int) -> Memslot:
    slot = vm.slots.get(ident)
    if slot is None:
        raise KeyError(f"there is no memslot {ident}")
    return slot
