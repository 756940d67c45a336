"""Logging ends: tables that could be huge pages are zapped, or made huge in place (facts C6; tdp_mmu.c)."""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.fault import max_mapping_level
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.root_list import EachRoot
from pymodel.kvm.spte import pages
from pymodel.kvm.tdp_mmu import may_yield, set_atomic, zap_atomic
from pymodel.kvm.vm import Table, Vm, call, flush_memslot
from pymodel.kvm.walk import TdpIter

__all__ = ["logging_off"]


def logging_off(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_mmu_zap_collapsible_sptes: the next fault maps huge; kvm_mmu_recover_huge_pages (6.13+): at once."""
    recover = vm.version.recover_huge
    if not recover:
        yield call("kvm_mmu_zap_collapsible_sptes", slot_id=slot.ident)
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_recover_huge_pages" if recover else "kvm_tdp_mmu_zap_collapsible_sptes", slot_id=slot.ident)
    each = EachRoot(vm, slot.as_id, valid=True)
    while (root := (yield from each.next())) is not None:
        yield from (_recover if recover else _zap)(vm, slot, root)
    yield MmuUnlock(write=False)


def _collapsible(vm: Vm, slot: Memslot, it: TdpIter) -> bool:
    """Whether the iterator's entry is a table that could be a huge page of the slot."""
    if it.level > vm.params.max_level or not vm.fmt.is_table(it.old, it.level):
        return False
    if not slot.base_gfn <= it.gfn < slot.end_gfn:
        return False
    return max_mapping_level(vm, slot, it.gfn, vm.params.max_level) >= it.level


def _zap(vm: Vm, slot: Memslot, root: Table) -> KvmAgent[None]:
    """zap_collapsible_spte_range: each with its own flush, and a window without translation."""
    it = TdpIter(vm, root, slot.base_gfn, slot.end_gfn, 2)
    while (yield from it.step()):
        while not (yield from may_yield(vm, it, write=False)):
            if not _collapsible(vm, slot, it) or (yield from zap_atomic(vm, it)):
                break


def _recover(vm: Vm, slot: Memslot, root: Table) -> KvmAgent[None]:
    """recover_huge_pages_range: table to leaf in place, no window, one flush (facts C6).

    The removed children are frozen before that flush (facts MERGE-FROZEN).
    """
    flush = False
    it = TdpIter(vm, root, slot.base_gfn, slot.end_gfn, 2)
    while (yield from it.step()):
        while True:
            if (yield from may_yield(vm, it, write=False, flush=flush)):
                flush = False
                break
            if not _collapsible(vm, slot, it):
                break
            huge = yield from _template(vm, it)
            if huge is None:
                break
            if (yield from set_atomic(vm, it, huge)):
                flush = True
                break
    if flush:
        yield from flush_memslot(vm, slot)


def _template(vm: Vm, it: TdpIter) -> KvmAgent[int | None]:
    """tdp_mmu_make_huge_spte: the first live leaf below an entry tells how the huge page must look."""
    child = vm.tables.get(vm.fmt.pfn(it.old))
    if child is None:
        return None
    inner = TdpIter(vm, child, it.gfn, it.gfn + pages(it.level))
    while (yield from inner.step()):
        if not vm.fmt.is_present(inner.old) or not vm.fmt.is_leaf(inner.old, inner.level):
            continue
        return vm.fmt.huge_of(inner.old, it.level, vm.executable(it.level))
    return None
