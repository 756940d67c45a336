"""The TDP MMU's writes: linking, zapping, splitting, freeing of removed tables (arch/x86/kvm/mmu/tdp_mmu.c).

Every change of an entry goes through `set_atomic` (shared lock, compare-exchange) or `set_exclusive`; both end
in `changed`, which takes apart a table that the change cut off (facts C3-C6, F2, F3).
"""

from pymodel.effects import CompareExchange, FetchAnd, Load, Store
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, Resched, SpteChanged, Trace, exchange
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.nx import untrack
from pymodel.kvm.root_list import EachRoot
from pymodel.kvm.spte import LARGE, WRITABLE, pages
from pymodel.kvm.vm import Table, Vm, call, flush_all, flush_range, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["clear_bits", "link", "may_yield", "new_child", "protect_range", "set_atomic", "set_exclusive", "split",
           "unmap_range", "zap_atomic", "zap_leafs", "zap_root", "zap_table"]  # fmt: skip

_MAY_YIELD, _FLUSH_DUE = Resched(flush=False), Resched(flush=True)
_WORD = (1 << 64) - 1


def set_atomic(vm: Vm, it: TdpIter, new: int, *, handle_change: bool = True) -> KvmAgent[bool]:
    """tdp_mmu_set_spte_atomic: False, with the entry read again, where another task was faster.

    `handle_change` False is __tdp_mmu_set_spte_atomic: the caller reports the change.
    """
    old = it.old
    if old == vm.fmt.frozen:
        return False
    seen = yield CompareExchange(it.address, old, new)
    if seen != old:
        it.old = seen
        return False
    if handle_change:
        yield from changed(vm, it.as_id, it.gfn, old, new, it.level, shared=True)
    return True


def may_yield(vm: Vm, it: TdpIter, *, write: bool, flush: bool = False) -> KvmAgent[bool]:
    """tdp_mmu_iter_cond_resched: True if the lock was given up, so that the walk begins again from the root.

    `flush`: what is owed is flushed before (facts C2). The walk gets on between two times.
    """
    if it.next_gfn == it.yielded_gfn or not (yield _FLUSH_DUE if flush else _MAY_YIELD):
        return False
    if flush:
        yield from flush_all(vm)
    yield MmuUnlock(write)
    yield MmuLock(write)
    it.restart()
    return True


def set_exclusive(vm: Vm, as_id: int, gfn: int, level: int, address: int, old: int, new: int) -> KvmAgent[None]:
    """tdp_mmu_set_spte under the exclusive lock; A and D that hardware sets meanwhile are not lost."""
    if vm.fmt.is_present(old) and vm.fmt.is_leaf(old, level) and vm.fmt.is_volatile(old):
        old = yield from exchange(address, new)
    else:
        yield Store(address, new)
    yield from changed(vm, as_id, gfn, old, new, level, shared=False)


def clear_bits(vm: Vm, it: TdpIter, bits: int) -> KvmAgent[None]:
    """tdp_mmu_clear_spte_bits: hardware may set A or D of a volatile entry at the same time (facts C7, D loss)."""
    fmt = vm.fmt
    if not vm.version.clear_bits_atomic:
        yield from set_exclusive(vm, it.as_id, it.gfn, it.level, it.address, it.old, it.old & ~bits)
        return
    if fmt.is_volatile(it.old):
        it.old = yield FetchAnd(it.address, ~bits & _WORD)
    else:
        yield Store(it.address, it.old & ~bits)
    yield SpteChanged(it.as_id, it.gfn, it.level, it.old, it.old & ~bits)


def changed(vm: Vm, as_id: int, gfn: int, old: int, new: int, level: int, *, shared: bool) -> KvmAgent[None]:
    """__handle_changed_spte: trace the change and take apart what it cut off."""
    if old == new:
        return
    fmt = vm.fmt
    live = fmt.live
    if not old & live:
        yield SpteChanged(as_id, gfn, level, old, new)
        return
    was_leaf, is_leaf = fmt.is_leaf(old, level), fmt.is_leaf(new, level)
    stays = bool(new & live) and is_leaf == was_leaf
    if stays and fmt.pfn(old) != fmt.pfn(new):
        if was_leaf:
            raise AssertionError(f"gfn {gfn:#x}: a live leaf changed its pfn, {old:#x} -> {new:#x} (facts F2)")
        raise AssertionError(f"gfn {gfn:#x}: a live table changed its child, {old:#x} -> {new:#x} (facts F3)")
    yield SpteChanged(as_id, gfn, level, old, new)
    if not was_leaf and not stays:
        yield from _removed(vm, vm.tables[fmt.pfn(old)], shared=shared)


def _removed(vm: Vm, table: Table, *, shared: bool) -> KvmAgent[None]:
    """handle_removed_pt: freeze the children of a table that is no longer linked, then free it.

    Under the shared lock every entry is frozen, whatever it holds, until it was not frozen before: a fault on
    another CPU may still be writing here. Under the exclusive lock only live ones are.
    """
    fmt = vm.fmt
    frozen, level = fmt.frozen, table.level
    yield Trace("prepare_zap_page", (("gfn", table.gfn), ("level", level)))
    yield from untrack(vm, table)
    base = table.frame << 12
    span = pages(level)
    for index in range(512):
        address = base + 8 * index
        if shared:
            old = yield from exchange(address, frozen)
            while old == frozen:
                old = yield from exchange(address, frozen)
        else:
            old = yield Load(address)
            if not old & fmt.live:
                continue
            if fmt.is_leaf(old, level) and fmt.is_volatile(old):
                old = yield from exchange(address, frozen)
            else:
                yield Store(address, frozen)
        gfn = table.gfn + index * span
        if old & fmt.live and level > 1 and not old & LARGE:
            yield from changed(vm, table.as_id, gfn, old, frozen, level, shared=shared)
        else:
            yield SpteChanged(table.as_id, gfn, level, old, frozen)
    vm.free_table(table)


def new_child(vm: Vm, it: TdpIter) -> KvmAgent[Table]:
    """tdp_mmu_alloc_sp and tdp_mmu_init_child_sp: a table of empty entries below the iterator's entry."""
    span = pages(it.level)
    table = vm.new_table(it.level - 1, it.gfn & ~(span - 1), it.as_id, it.address)
    yield Trace("get_page", (("gfn", table.gfn), ("level", table.level)))
    if vm.fmt.empty:
        base = table.frame << 12
        for index in range(512):
            yield Store(base + 8 * index, vm.fmt.empty)
    return table


def link(vm: Vm, it: TdpIter, table: Table, *, shared: bool) -> KvmAgent[bool]:
    """tdp_mmu_link_sp: put the finished table in place of the iterator's entry; False if that had changed."""
    yield call("tdp_mmu_link_sp", sp_gfn=table.gfn, shared=int(shared))
    pointer = vm.fmt.nonleaf(table.frame)
    if shared:
        if not (yield from set_atomic(vm, it, pointer)):
            return False
    else:
        yield from set_exclusive(vm, it.as_id, it.gfn, it.level, it.address, it.old, pointer)
    it.old = pointer
    return True


def split(vm: Vm, it: TdpIter, table: Table, *, shared: bool) -> KvmAgent[bool]:
    """tdp_mmu_split_huge_page: fill the unlinked table with the same translations, then link it (facts C5)."""
    huge, fmt = it.old, vm.fmt
    base = table.frame << 12
    executable = vm.params.nx_huge_pages
    for index in range(512):
        yield Store(base + 8 * index, fmt.split_child(huge, table.level, index, executable))
    done = yield from link(vm, it, table, shared=shared)
    errno = 0 if done else -16
    yield Trace("split_huge_page", (("gfn", it.gfn), ("spte", huge), ("level", it.level), ("errno", errno)))
    return done


def zap_atomic(vm: Vm, it: TdpIter) -> KvmAgent[bool]:
    """tdp_mmu_zap_spte_atomic: frozen, flush, empty (facts C4); the children go before or after the flush."""
    fmt, version = vm.fmt, vm.version
    if not version.flush_before_children:
        if not (yield from set_atomic(vm, it, fmt.frozen)):
            return False
        yield from flush_range(vm, it.gfn, pages(it.level))
        yield Store(it.address, fmt.empty)
    else:
        if not (yield from set_atomic(vm, it, fmt.frozen, handle_change=False)):
            return False
        yield from flush_range(vm, it.gfn, pages(it.level))
        yield Store(it.address, fmt.empty)
        yield from changed(vm, it.as_id, it.gfn, it.old, fmt.empty, it.level, shared=True)
    it.old = fmt.empty
    return True


def zap_table(vm: Vm, table: Table) -> KvmAgent[bool]:
    """kvm_tdp_mmu_zap_sp (NX recovery): empty the entry that points to `table`; the caller flushes.

    From 6.18 on (kvm_tdp_mmu_zap_possible_nx_huge_page) under the shared lock: only what still points to the table.
    """
    fmt, shared, level = vm.fmt, vm.version.nx_recovery_shared, table.level + 1
    yield call("kvm_tdp_mmu_zap_possible_nx_huge_page" if shared else "kvm_tdp_mmu_zap_sp", sp_gfn=table.gfn)
    if not table.parent:
        return False
    old = yield Load(table.parent)
    if not shared:
        if not fmt.is_present(old):
            return False
        yield from set_exclusive(vm, table.as_id, table.gfn, level, table.parent, old, fmt.empty)
        return True
    if not fmt.is_table(old, level) or fmt.pfn(old) != table.frame:
        return False
    if (yield CompareExchange(table.parent, old, fmt.empty)) != old:
        return False
    yield from changed(vm, table.as_id, table.gfn, old, fmt.empty, level, shared=True)
    return True


def zap_leafs(vm: Vm, root: Table, start: int, end: int, flush: bool, may_block: bool = True) -> KvmAgent[bool]:
    """tdp_mmu_zap_leafs: empty every leaf that the range touches; tables stay. True: a flush is owed."""
    it = TdpIter(vm, root, start, min(end, vm.gfn_limit))
    fmt = vm.fmt
    while (yield from it.step()):
        if may_block and (yield from may_yield(vm, it, write=True, flush=flush)):
            flush = False
            continue
        if not it.old & fmt.live or not fmt.is_leaf(it.old, it.level):
            continue
        yield from set_exclusive(vm, it.as_id, it.gfn, it.level, it.address, it.old, fmt.empty)
        it.old = fmt.empty
        if vm.version.invalid_root_flush or not root.invalid:
            flush = True
    return flush


def unmap_range(vm: Vm, slot: Memslot, start: int, end: int, flush: bool, may_block: bool = True) -> KvmAgent[bool]:
    """kvm_tdp_mmu_unmap_gfn_range: zap the leaves in every root of the address space."""
    yield call(
        "kvm_tdp_mmu_unmap_gfn_range",
        range_start=start,
        range_end=end,
        range_may_block=int(may_block),
        flush=int(flush),
    )
    each = EachRoot(vm, slot.as_id)
    while (root := (yield from each.next())) is not None:
        flush = yield from zap_leafs(vm, root, start, end, flush, may_block)
    yield returned("kvm_tdp_mmu_unmap_gfn_range", int(flush))
    return flush


def zap_root(vm: Vm, root: Table, *, shared: bool) -> KvmAgent[None]:
    """tdp_mmu_zap_root: empty the tables of a dying root, level by level, so that no pass is too long."""
    yield call("tdp_mmu_zap_root", root_gfn=0, shared=int(shared))
    for wanted in vm.version.root_zap_levels:
        level = wanted or root.level
        it = TdpIter(vm, root, 0, vm.gfn_limit, level)
        empty = vm.fmt.empty
        while (yield from it.step()):
            if (yield from may_yield(vm, it, write=not shared)):
                continue
            if not vm.fmt.is_present(it.old) or it.level > level:
                continue
            if not shared:
                yield from set_exclusive(vm, it.as_id, it.gfn, it.level, it.address, it.old, empty)
            else:
                while vm.fmt.is_present(it.old) and not (yield from set_atomic(vm, it, empty)):
                    pass


def protect_range(vm: Vm, root: Table, start: int, end: int, min_level: int, bits: int = WRITABLE) -> KvmAgent[bool]:
    """wrprot_gfn_range, and clear_dirty_gfn_range with D as `bits`: of every leaf of the range; True if one had it."""
    it = TdpIter(vm, root, start, end, min_level)
    fmt = vm.fmt
    found = False
    while (yield from it.step()):
        while True:
            if (yield from may_yield(vm, it, write=False)):
                break
            if not it.old & fmt.live or not it.old & bits or not fmt.is_leaf(it.old, it.level):
                break
            if (yield from set_atomic(vm, it, it.old & ~bits)):
                found = True
                break
    return found
