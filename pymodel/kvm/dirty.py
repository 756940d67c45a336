"""Dirty logging: huge pages split or write-protected, the log read and cleared, tables folded back (facts C5-C7)."""

from collections.abc import Iterable

from pymodel.effects import FetchAnd
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, SpteChanged
from pymodel.kvm.fault import max_mapping_level
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import LARGE, WRITABLE, pages
from pymodel.kvm.tdp_mmu import clear_range, new_child, set_atomic, set_exclusive, split, zap_atomic
from pymodel.kvm.vm import Table, Vm, call, flush_all, flush_memslot, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["clear_dirty_log", "get_dirty_log", "logging_off", "logging_on", "protect_masked", "try_split"]


def _roots(vm: Vm, slot: Memslot) -> list[Table]:
    return [root for root in vm.roots if root.as_id == slot.as_id and not root.invalid]


def try_split(vm: Vm, slot: Memslot, start: int, end: int, target: int, *, shared: bool) -> KvmAgent[None]:
    """kvm_tdp_mmu_try_split_huge_pages: every huge leaf of the range down to `target`, in place."""
    yield call(
        "kvm_tdp_mmu_try_split_huge_pages",
        slot_id=slot.ident,
        start=start,
        end=end,
        target_level=target,
        shared=int(shared),
    )
    for root in _roots(vm, slot):
        it = TdpIter(vm, root, start, end, target + 1)
        while (yield from it.step()):
            while vm.fmt.is_present(it.old) and it.old & LARGE:
                table = yield from new_child(vm, it)
                if (yield from split(vm, it, table, shared=shared)):
                    break
                vm.free_table(table)
        yield call("kvm_tdp_mmu_put_root", root_gfn=0)


def logging_on(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_mmu_slot_apply_flags, logging turned on; nothing changes if all pages count as dirty at first."""
    if vm.params.initially_set:
        return
    if vm.params.eager_page_split:
        yield call("kvm_mmu_slot_try_split_huge_pages", memslot_id=slot.ident, target_level=1)
        yield MmuLock(write=False)
        yield from try_split(vm, slot, slot.base_gfn, slot.end_gfn, 1, shared=True)
        yield MmuUnlock(write=False)
    if vm.params.log_by_dirty_bit:
        yield from _clear_dirty_slot(vm, slot)
        return
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_wrprot_slot", slot_id=slot.ident, min_level=1)
    changed = False
    for root in _roots(vm, slot):
        if (yield from clear_range(vm, root, slot.base_gfn, slot.end_gfn, 1)):
            changed = True
        yield call("kvm_tdp_mmu_put_root", root_gfn=0)
    yield returned("kvm_tdp_mmu_wrprot_slot", int(changed))
    yield MmuUnlock(write=False)
    yield from flush_memslot(vm, slot)


def _clear_dirty(vm: Vm, it: TdpIter) -> KvmAgent[None]:
    """tdp_mmu_clear_spte_bits of D, atomically: hardware may set it again at once (facts C7)."""
    it.old = yield FetchAnd(it.address, ~vm.fmt.dirty & (1 << 64) - 1)
    yield SpteChanged(it.as_id, it.gfn, it.level, it.old, it.old & ~vm.fmt.dirty)


def _clear_dirty_slot(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_mmu_slot_leaf_clear_dirty: with a hardware log of D (PML) writes need not fault; huge leaves go too."""
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_clear_dirty_slot", slot_id=slot.ident)
    for root in _roots(vm, slot):
        it = TdpIter(vm, root, slot.base_gfn, slot.end_gfn)
        while (yield from it.step()):
            if vm.fmt.is_present(it.old) and vm.fmt.is_leaf(it.old, it.level) and it.old & vm.fmt.dirty:
                yield from _clear_dirty(vm, it)
    yield MmuUnlock(write=False)
    yield from flush_memslot(vm, slot)


def logging_off(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """Tables that could be huge pages are zapped, so that the next fault maps huge, or made huge in place (6.13+)."""
    if vm.version.recover_huge:
        yield from _recover(vm, slot)
        return
    yield call("kvm_mmu_zap_collapsible_sptes", slot_id=slot.ident)
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_zap_collapsible_sptes", slot_id=slot.ident)
    for root in _roots(vm, slot):
        it = TdpIter(vm, root, slot.base_gfn, slot.end_gfn, 2)
        while (yield from it.step()):
            while _collapsible(vm, slot, it) and not (yield from zap_atomic(vm, it)):
                pass
        yield call("kvm_tdp_mmu_put_root", root_gfn=0)
    yield MmuUnlock(write=False)


def _template(vm: Vm, it: TdpIter) -> KvmAgent[int | None]:
    """tdp_mmu_make_huge_spte: the first live leaf below an entry tells how the huge page must look."""
    child = vm.tables[vm.fmt.pfn(it.old)]
    inner = TdpIter(vm, child, it.gfn, it.gfn + pages(it.level))
    while (yield from inner.step()):
        if vm.fmt.is_present(inner.old) and vm.fmt.is_leaf(inner.old, inner.level):
            return vm.fmt.huge_of(inner.old, it.level, vm.executable(it.level))
    return None


def _recover(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_tdp_mmu_recover_huge_pages (6.13+): table to leaf in place, no non-present window, one flush (facts C6).

    The removed children are frozen before that flush (facts MERGE-FROZEN).
    """
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_recover_huge_pages", slot_id=slot.ident)
    for root in _roots(vm, slot):
        flush = False
        it = TdpIter(vm, root, slot.base_gfn, slot.end_gfn, 2)
        while (yield from it.step()):
            while _collapsible(vm, slot, it):
                huge = yield from _template(vm, it)
                if huge is None:
                    break
                if (yield from set_atomic(vm, it, huge)):
                    flush = True
                    break
        if flush:
            yield from flush_memslot(vm, slot)
        yield call("kvm_tdp_mmu_put_root", root_gfn=0)
    yield MmuUnlock(write=False)


def _collapsible(vm: Vm, slot: Memslot, it: TdpIter) -> bool:
    """Whether the iterator's entry is a table that could be a huge page of the slot."""
    if it.level > vm.params.max_level or not vm.fmt.is_table(it.old, it.level):
        return False
    if not slot.base_gfn <= it.gfn < slot.end_gfn:
        return False
    return max_mapping_level(vm, slot, it.gfn, vm.params.max_level) >= it.level


def _write_protect_gfn(vm: Vm, slot: Memslot, gfn: int, min_level: int) -> KvmAgent[bool]:
    """kvm_tdp_mmu_write_protect_gfn: W and MMU-writable both go, so that the fast path cannot bring W back."""
    yield call("kvm_tdp_mmu_write_protect_gfn", slot_id=slot.ident, gfn=gfn, min_level=min_level)
    fmt = vm.fmt
    changed = False
    for root in [root for root in vm.roots if root.as_id == slot.as_id]:
        it = TdpIter(vm, root, gfn, gfn + 1, min_level)
        while (yield from it.step()):
            if not fmt.is_present(it.old) or not fmt.is_leaf(it.old, it.level):
                continue
            new = it.old & ~(WRITABLE | fmt.mmu_writable)
            if new == it.old:
                break
            yield from set_exclusive(vm, it.as_id, it.gfn, it.level, it.address, it.old, new)
            changed = True
    yield returned("kvm_tdp_mmu_write_protect_gfn", int(changed))
    return changed


def protect_masked(vm: Vm, slot: Memslot, offset: int, mask: int) -> KvmAgent[None]:
    """kvm_arch_mmu_enable_log_dirty_pt_masked: 64 pages from `offset`, those whose bit is set in `mask`."""
    first, last = (mask & -mask).bit_length() - 1, mask.bit_length() - 1
    if vm.params.initially_set:
        start, end = slot.base_gfn + offset + first, slot.base_gfn + offset + last
        if vm.params.eager_page_split:
            stop = end if vm.version.clear_split_short else end + 1
            yield from try_split(vm, slot, start, stop, 1, shared=False)
        yield from _write_protect_gfn(vm, slot, start, 2)
        if -(-start // 512) != -(-end // 512):
            yield from _write_protect_gfn(vm, slot, end, 2)
    base = slot.base_gfn + offset
    bit = vm.fmt.dirty if vm.params.log_by_dirty_bit else WRITABLE
    wrprot = int(bit == WRITABLE)
    yield call("kvm_tdp_mmu_clear_dirty_pt_masked", slot_id=slot.ident, gfn=base, mask=mask, wrprot=wrprot)
    for root in [root for root in vm.roots if root.as_id == slot.as_id]:
        it = TdpIter(vm, root, base + first, base + 64)
        while (yield from it.step()):
            if it.level > 1 or not vm.fmt.is_present(it.old):
                continue
            if not mask >> (it.gfn - base) & 1 or not it.old & bit:
                continue
            if bit == WRITABLE:
                yield from set_exclusive(vm, it.as_id, it.gfn, 1, it.address, it.old, it.old & ~WRITABLE)
            else:
                yield from _clear_dirty(vm, it)


def _flush_log(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """The flush before the bitmap is given out; 6.12 has it inlined, so that only the inner call is seen."""
    if vm.version.has_change_pte:
        yield from flush_memslot(vm, slot)
    else:
        yield from flush_all(vm)


def _words(numbers: Iterable[int]) -> list[tuple[int, int]]:
    words: dict[int, int] = {}
    for page in numbers:
        words[page >> 6] = words.get(page >> 6, 0) | 1 << (page & 63)
    return sorted(words.items())


def get_dirty_log(vm: Vm, slot: Memslot) -> KvmAgent[set[int]]:
    """KVM_GET_DIRTY_LOG: without manual protection it also write-protects what it reports."""
    result = set(slot.dirty)
    if vm.params.manual_protect:
        return result
    slot.dirty.clear()
    yield MmuLock(write=True)
    for word, mask in _words(result):
        yield from protect_masked(vm, slot, 64 * word, mask)
    yield MmuUnlock(write=True)
    if result:
        yield from _flush_log(vm, slot)
    return result


def clear_dirty_log(vm: Vm, slot: Memslot, first_page: int, bits: Iterable[int]) -> KvmAgent[None]:
    """KVM_CLEAR_DIRTY_LOG: `bits` are page numbers relative to `first_page`."""
    wanted = {first_page + bit for bit in bits} & slot.dirty
    yield MmuLock(write=True)
    for word, mask in _words(wanted):
        slot.dirty -= {64 * word + bit for bit in range(64) if mask >> bit & 1}
        yield from protect_masked(vm, slot, 64 * word, mask)
    yield MmuUnlock(write=True)
    if wanted:
        yield from _flush_log(vm, slot)
