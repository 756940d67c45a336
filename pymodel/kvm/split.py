"""Eager splitting: every huge leaf of a range becomes a table with the same translations, in place (facts C5)."""

from pymodel.kvm.effects import AllocateNow, KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.root_list import EachRoot
from pymodel.kvm.spte import LARGE
from pymodel.kvm.tdp_mmu import may_yield, new_child, split
from pymodel.kvm.vm import Table, Vm, call
from pymodel.kvm.walk import TdpIter

__all__ = ["try_split"]


def try_split(vm: Vm, slot: Memslot, start: int, end: int, target: int, *, shared: bool) -> KvmAgent[None]:
    """kvm_tdp_mmu_try_split_huge_pages: every huge leaf of `start`..`end` down to level `target`; no flush."""
    yield call(
        "kvm_tdp_mmu_try_split_huge_pages",
        slot_id=slot.ident,
        start=start,
        end=end,
        target_level=target,
        shared=int(shared),
    )
    each = EachRoot(vm, slot.as_id, valid=True)
    while (root := (yield from each.next())) is not None:
        yield from _split_root(vm, root, start, end, target, shared=shared)


def _split_root(vm: Vm, root: Table, start: int, end: int, target: int, *, shared: bool) -> KvmAgent[None]:
    """tdp_mmu_split_huge_pages_root. `spare`: a page was allocated; for that the lock may have been given up."""
    it = TdpIter(vm, root, start, end, target + 1)
    spare = False
    while (yield from it.step()):
        while not (yield from may_yield(vm, it, write=not shared)):
            if not vm.fmt.is_present(it.old) or not it.old & LARGE:
                break
            if not spare:
                spare = True
                if vm.version.split_unlocks or (yield AllocateNow()):
                    yield MmuUnlock(write=not shared)
                    yield MmuLock(write=not shared)
                    it.restart()
                    break
            table = yield from new_child(vm, it)
            if (yield from split(vm, it, table, shared=shared)):
                spare = False
                break
            vm.free_table(table)
