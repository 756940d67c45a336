"""MMU notifiers: what the primary MMU tells KVM before and after it changes its tables (facts C2; kvm_main.c)."""

from pymodel.kvm.age import age_range, test_age_range
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, Trace
from pymodel.kvm.tdp_mmu import set_exclusive, unmap_range
from pymodel.kvm.vm import Vm, call, flush_all, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["change_pte", "clear_flush_young", "clear_young", "invalidate_range_end", "invalidate_range_start",
           "test_young"]  # fmt: skip


def invalidate_range_start(vm: Vm, start: int, end: int) -> KvmAgent[None]:
    """kvm_mmu_notifier_invalidate_range_start: count the invalidation, zap, flush; only where a slot is hit."""
    yield Trace("unmap_hva_range", (("hva", start), ("end", end)))
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
        if (yield from unmap_range(vm, slot, low, high, False)):
            flush = True
    if flush:
        yield from flush_all(vm)
    yield MmuUnlock(write=True)


def invalidate_range_end(vm: Vm, start: int, end: int) -> KvmAgent[None]:
    """kvm_mmu_notifier_invalidate_range_end: the sequence grows before the count falls."""
    if not vm.slots.in_hva_range(start, end):
        return
    yield MmuLock(write=True)
    vm.end_invalidation()
    yield MmuUnlock(write=True)


def change_pte(vm: Vm, hva: int, pfn: int, writable: bool) -> KvmAgent[None]:
    """kvm_mmu_notifier_change_pte (before 6.10): a live 4K entry goes to the new page, read-only, through empty."""
    yield Trace("set_spte_hva", (("hva", hva),))
    if not vm.mmu_invalidate_in_progress:
        return
    flush = False
    for slot, low, high in vm.slots.in_hva_range(hva, hva + 1):
        yield MmuLock(write=True)
        yield call("kvm_tdp_mmu_set_spte_gfn", range_start=low, range_end=high)
        changed = False
        for root in [root for root in vm.roots if root.as_id == slot.as_id]:
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
        yield MmuUnlock(write=True)
        flush = flush or changed
    if flush:
        yield from flush_all(vm)


def _repoint(vm: Vm, old: int, pfn: int) -> int:
    """kvm_mmu_changed_pte_notifier_make_spte: read-only, not host-writable, access-tracked."""
    fmt = vm.fmt
    keep = old & ~(((1 << 52) - 1) & ~0xFFF) & ~(2 | fmt.host_writable | fmt.mmu_writable)
    return fmt.access_track(keep | pfn << 12)


def clear_flush_young(vm: Vm, start: int, end: int) -> KvmAgent[bool]:
    """kvm_mmu_notifier_clear_flush_young: age and, if something was young, flush."""
    yield Trace("age_hva", (("hva", start), ("end", end)))
    return (yield from _age(vm, start, end, flush=True))


def clear_young(vm: Vm, start: int, end: int) -> KvmAgent[bool]:
    """kvm_mmu_notifier_clear_young: age without a flush."""
    yield Trace("age_hva", (("hva", start), ("end", end)))
    return (yield from _age(vm, start, end, flush=False))


def _age(vm: Vm, start: int, end: int, *, flush: bool) -> KvmAgent[bool]:
    young = False
    for slot, low, high in vm.slots.in_hva_range(start, end):
        yield MmuLock(write=True)
        if (yield from age_range(vm, slot, low, high)):
            young = True
        yield MmuUnlock(write=True)
    if young and flush:
        yield from flush_all(vm)
    return young


def test_young(vm: Vm, hva: int) -> KvmAgent[bool]:
    """kvm_mmu_notifier_test_young."""
    yield Trace("test_age_hva", (("hva", hva),))
    young = False
    for slot, low, high in vm.slots.in_hva_range(hva, hva + 1):
        if (yield from test_age_range(vm, slot, low, high)):
            young = True
    return young
