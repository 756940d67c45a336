"""MMU notifiers: what the primary MMU tells KVM before and after it changes its tables (facts C2; kvm_main.c)."""

from collections.abc import Callable

from pymodel.kvm.age import age_range, test_age_range
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, Trace
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.root_list import roots_of
from pymodel.kvm.tdp_mmu import set_exclusive, unmap_range
from pymodel.kvm.vm import Vm, call, flush_all, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["change_pte", "clear_flush_young", "clear_young", "invalidate_range_end", "invalidate_range_start",
           "test_young"]  # fmt: skip

Handler = Callable[[Vm, Memslot, int, int], KvmAgent[bool]]


def _check(start: int, end: int) -> None:
    if not 0 <= start < end:
        raise KvmError(EINVAL, "end", f"above the start {start:#x}", end)


def invalidate_range_start(vm: Vm, start: int, end: int, *, may_block: bool = True) -> KvmAgent[None]:
    """kvm_mmu_notifier_invalidate_range_start: count the invalidation, zap, flush; only where a slot is hit.

    `may_block` False: the caller must not wait, so that the lock is not given up in between.
    """
    _check(start, end)
    yield Trace("unmap_hva_range", (("hva", start), ("end", end)))
    vm.notifiers_active += 1
    touched = vm.slots.in_hva_range(start, end)
    if not touched:
        return
    yield MmuLock(write=True)
    flush = first = False
    if vm.version.retry_by_gfn:
        vm.mmu_invalidate_in_progress += 1
        first = vm.mmu_invalidate_in_progress == 1
    else:
        vm.begin_invalidation(start, end)
    for slot, low, high in touched:
        if vm.version.retry_by_gfn:
            vm.widen_invalidation(low, high, first=first)
            first = False
        if (yield from unmap_range(vm, slot, low, high, False, may_block)):
            flush = True
    if flush:
        yield from flush_all(vm)
    yield MmuUnlock(write=True)


def invalidate_range_end(vm: Vm, start: int, end: int) -> KvmAgent[None]:
    """kvm_mmu_notifier_invalidate_range_end: the sequence grows before the count falls.

    Raises `KvmError` (EINVAL) if no range is open.
    """
    _check(start, end)
    if not vm.notifiers_active:
        raise KvmError(EINVAL, "range", "one that was begun", f"{start:#x}..{end:#x}")
    if vm.slots.in_hva_range(start, end):
        yield MmuLock(write=True)
        vm.end_invalidation()
        yield MmuUnlock(write=True)
    vm.notifiers_active -= 1


def _each_slot(
    vm: Vm, start: int, end: int, handler: Handler, *, flush: bool, locked: bool = True
) -> KvmAgent[bool]:
    """kvm_handle_hva_range: every slot of the range under one hold of the lock, the flush before it is given back."""
    touched = vm.slots.in_hva_range(start, end)
    if not touched:
        return False
    if locked:
        yield MmuLock(write=True)
    found = False
    for slot, low, high in touched:
        if (yield from handler(vm, slot, low, high)):
            found = True
    if found and flush:
        yield from flush_all(vm)
    if locked:
        yield MmuUnlock(write=True)
    return found


def change_pte(vm: Vm, hva: int, pfn: int, writable: bool) -> KvmAgent[None]:
    """kvm_mmu_notifier_change_pte (before 6.10): a live 4K entry goes to the new page, read-only, through empty.

    Raises `KvmError` (EINVAL) for a kernel that has no such notifier.
    """
    if not vm.version.has_change_pte:
        raise KvmError(EINVAL, "kernel", "older than 6.10 for change_pte", vm.version.name)
    yield Trace("set_spte_hva", (("hva", hva),))
    if vm.mmu_invalidate_in_progress:
        yield from _each_slot(
            vm, hva, hva + 1, lambda vm, slot, low, high: _set_gfn(vm, slot, low, high, pfn, writable), flush=True
        )


def _set_gfn(vm: Vm, slot: Memslot, low: int, high: int, pfn: int, writable: bool) -> KvmAgent[bool]:
    """kvm_tdp_mmu_set_spte_gfn."""
    yield call("kvm_tdp_mmu_set_spte_gfn", range_start=low, range_end=high)
    changed = False
    for root in roots_of(vm, slot.as_id, dying=True):
        it = TdpIter(vm, root, low, high)
        while (yield from it.step()):
            if it.level != 1 or not vm.fmt.is_present(it.old):
                continue
            old = it.old
            yield from set_exclusive(vm, it.as_id, it.gfn, 1, it.address, old, vm.fmt.empty)
            if not writable:
                new = _repoint(vm, old, pfn)
                yield from set_exclusive(vm, it.as_id, it.gfn, 1, it.address, vm.fmt.empty, new)
            changed = True
    yield returned("kvm_tdp_mmu_set_spte_gfn", int(changed))
    return changed


def _repoint(vm: Vm, old: int, pfn: int) -> int:
    """kvm_mmu_changed_pte_notifier_make_spte: read-only, not host-writable, access-tracked."""
    fmt = vm.fmt
    keep = old & ~(((1 << 52) - 1) & ~0xFFF) & ~(2 | fmt.host_writable | fmt.mmu_writable)
    return fmt.access_track(keep | pfn << 12)


def clear_flush_young(vm: Vm, start: int, end: int) -> KvmAgent[bool]:
    """kvm_mmu_notifier_clear_flush_young: age and, before 6.13, flush if something was young."""
    return (yield from _clear_young(vm, start, end, flush=vm.version.age_flushes))


def clear_young(vm: Vm, start: int, end: int) -> KvmAgent[bool]:
    """kvm_mmu_notifier_clear_young: age without a flush."""
    return (yield from _clear_young(vm, start, end, flush=False))


def _clear_young(vm: Vm, start: int, end: int, *, flush: bool) -> KvmAgent[bool]:
    _check(start, end)
    yield Trace("age_hva", (("hva", start), ("end", end)))
    return (yield from _each_slot(vm, start, end, age_range, flush=flush, locked=vm.version.age_locked))


def test_young(vm: Vm, hva: int) -> KvmAgent[bool]:
    """kvm_mmu_notifier_test_young."""
    yield Trace("test_age_hva", (("hva", hva),))
    return (yield from _each_slot(vm, hva, hva + 1, test_age_range, flush=False, locked=vm.version.age_locked))
