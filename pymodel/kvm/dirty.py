"""Dirty logging: huge pages split or write-protected, the log read and cleared (facts C7; kvm_main.c, mmu.c)."""

from collections.abc import Iterable

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.errors import EINVAL, ENXIO, KvmError
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.pml import sync_log
from pymodel.kvm.root_list import EachRoot, roots_of
from pymodel.kvm.split import try_split
from pymodel.kvm.spte import WRITABLE
from pymodel.kvm.tdp_mmu import clear_bits, protect_range, set_exclusive
from pymodel.kvm.vm import Table, Vm, call, flush_all, flush_memslot, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["clear_dirty_log", "get_dirty_log", "logging_on", "protect_masked", "write_protect_gfn"]

_ALL = (1 << 64) - 1


def logging_on(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_mmu_slot_apply_flags, logging turned on; nothing changes if all pages count as dirty at first.

    Where D bits are the log, huge pages are write-protected all the same: one D says too little about them.
    """
    if vm.params.initially_set:
        return
    if vm.params.eager_page_split:
        yield call("kvm_mmu_slot_try_split_huge_pages", memslot_id=slot.ident, target_level=1)
        yield MmuLock(write=False)
        yield from try_split(vm, slot, slot.base_gfn, slot.end_gfn, 1, shared=True)
        yield MmuUnlock(write=False)
    if vm.params.log_by_dirty_bit:
        yield from _clear_dirty_slot(vm, slot)
        yield from _protect_slot(vm, slot, 2)
    else:
        yield from _protect_slot(vm, slot, 1)
    yield from flush_memslot(vm, slot)


def _log_bit(vm: Vm, root: Table) -> int:
    """What is taken from the leaves of a root so that the next write is seen (facts C7).

    PML is off while a guest of the guest runs, so that its root is write-protected.
    """
    return vm.fmt.dirty if vm.params.log_by_dirty_bit and not root.guest_mode else WRITABLE


def _protect_slot(vm: Vm, slot: Memslot, min_level: int) -> KvmAgent[None]:
    """kvm_mmu_slot_remove_write_access, of leaves of `min_level` and above."""
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_wrprot_slot", slot_id=slot.ident, min_level=min_level)
    changed = False
    each = EachRoot(vm, slot.as_id, valid=True)
    while (root := (yield from each.next())) is not None:
        if (yield from protect_range(vm, root, slot.base_gfn, slot.end_gfn, min_level)):
            changed = True
    yield returned("kvm_tdp_mmu_wrprot_slot", int(changed))
    yield MmuUnlock(write=False)


def _clear_dirty_slot(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_mmu_slot_leaf_clear_dirty: with a log of D transitions (PML) writes need not fault."""
    yield MmuLock(write=False)
    yield call("kvm_tdp_mmu_clear_dirty_slot", slot_id=slot.ident)
    each = EachRoot(vm, slot.as_id, valid=True)
    while (root := (yield from each.next())) is not None:
        yield from protect_range(vm, root, slot.base_gfn, slot.end_gfn, 1, _log_bit(vm, root))
    yield MmuUnlock(write=False)


def write_protect_gfn(vm: Vm, slot: Memslot, gfn: int, min_level: int) -> KvmAgent[bool]:
    """kvm_tdp_mmu_write_protect_gfn: W and MMU-writable both go, so that the fast path cannot bring W back."""
    yield call("kvm_tdp_mmu_write_protect_gfn", slot_id=slot.ident, gfn=gfn, min_level=min_level)
    fmt = vm.fmt
    changed = False
    for root in roots_of(vm, slot.as_id, dying=vm.version.dying_roots_too):
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
        yield from write_protect_gfn(vm, slot, start, 2)
        if -(-start // 512) != -(-end // 512):
            yield from write_protect_gfn(vm, slot, end, 2)
    base = slot.base_gfn + offset
    wrprot = int(not vm.params.log_by_dirty_bit)
    yield call("kvm_tdp_mmu_clear_dirty_pt_masked", slot_id=slot.ident, gfn=base, mask=mask, wrprot=wrprot)
    for root in roots_of(vm, slot.as_id, dying=vm.version.dying_roots_too):
        bit = _log_bit(vm, root)
        it = TdpIter(vm, root, base + first, base + 64)
        while (yield from it.step()):
            if it.level == 1 and it.old & vm.fmt.live and mask >> (it.gfn - base) & 1 and it.old & bit:
                yield from clear_bits(vm, it, bit)


def _flush_log(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """The flush before the bitmap is given out; 6.12 has it inlined, so that only the inner call is seen."""
    if vm.version.has_change_pte or vm.params.ranged_flush:
        yield from flush_memslot(vm, slot)
    else:
        yield from flush_all(vm)


def _words(numbers: Iterable[int]) -> list[tuple[int, int]]:
    words: dict[int, int] = {}
    for page in numbers:
        words[page >> 6] = words.get(page >> 6, 0) | 1 << (page & 63)
    return sorted(words.items())


def _logged(vm: Vm, slot: Memslot) -> None:
    """What get and clear refuse. Raises `KvmError`: ENXIO with dirty rings, ENOENT for a slot without a bitmap."""
    if vm.params.dirty_ring_size:
        raise KvmError(ENXIO, "dirty_ring_size", "0 for a VM whose bitmaps are asked for", vm.params.dirty_ring_size)
    vm.slots.logged(slot.ident, slot.as_id)


def _take(slot: Memslot, word: int, mask: int) -> int:
    """Atomically clear bits of one word of the bitmap; those that were set."""
    found = 0
    for page in range(64 * word, 64 * word + 64):
        if mask >> page % 64 & 1 and page in slot.dirty:
            slot.dirty.discard(page)
            found |= 1 << page % 64
    return found


def _pages_of(word: int, mask: int) -> set[int]:
    return {64 * word + bit for bit in range(64) if mask >> bit & 1}


def get_dirty_log(vm: Vm, slot: Memslot) -> KvmAgent[set[int]]:
    """KVM_GET_DIRTY_LOG: page numbers in the slot; without manual protection they are protected again, too.

    Raises `KvmError`: ENXIO with dirty rings, ENOENT for a slot whose dirty pages are not logged.
    """
    _logged(vm, slot)
    yield from sync_log(vm)
    if vm.params.manual_protect:
        return set(slot.dirty)
    result: set[int] = set()
    yield MmuLock(write=True)
    for word, _ in _words(slot.dirty):
        mask = _take(slot, word, _ALL)
        result |= _pages_of(word, mask)
        yield from protect_masked(vm, slot, 64 * word, mask)
    yield MmuUnlock(write=True)
    if result:
        yield from _flush_log(vm, slot)
    return result


def clear_dirty_log(
    vm: Vm, slot: Memslot, first_page: int, bits: Iterable[int], count: int | None = None
) -> KvmAgent[None]:
    """KVM_CLEAR_DIRTY_LOG of `count` pages (all the rest) from `first_page`; `bits` are relative to that.

    Raises `KvmError`: EINVAL for a range that is not one of whole words inside the slot, else as `get_dirty_log`.
    """
    if first_page % 64:
        raise KvmError(EINVAL, "first_page", "a multiple of 64", first_page)
    _logged(vm, slot)
    rest = slot.npages - first_page
    count = rest if count is None else count
    if rest < 0 or not 0 <= count <= rest:
        raise KvmError(EINVAL, "num_pages", f"at most what the slot's {slot.npages:#x} pages leave", count)
    if count < rest and count % 64:
        raise KvmError(EINVAL, "num_pages", f"a multiple of 64, or {rest:#x} up to the slot's end", count)
    yield from sync_log(vm)
    wanted = _words(first_page + bit for bit in bits if bit < count)
    cleared = False
    yield MmuLock(write=True)
    for word, mask in wanted:
        taken = _take(slot, word, mask)
        if taken:
            cleared = True
            yield from protect_masked(vm, slot, 64 * word, taken)
    yield MmuUnlock(write=True)
    if cleared:
        yield from _flush_log(vm, slot)
