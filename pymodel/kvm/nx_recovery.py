"""The NX mitigation switched on or off, and the worker that gives huge pages back (facts C8; mmu.c)."""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, Resched
from pymodel.kvm.nx import untrack
from pymodel.kvm.roots import zap_all_fast
from pymodel.kvm.tdp_mmu import zap_table
from pymodel.kvm.vm import Table, Vm, flush_all

__all__ = ["recover", "set_mitigation"]


def set_mitigation(vm: Vm, enabled: bool) -> KvmAgent[None]:
    """set_nx_huge_pages: a change of the parameter makes every page anew."""
    if enabled != vm.params.nx_huge_pages:
        vm.params.nx_huge_pages = enabled
        yield from zap_all_fast(vm)


def recover(vm: Vm) -> KvmAgent[None]:
    """kvm_recover_nx_huge_pages: zap a share of the listed tables, oldest first, then flush once.

    A flush comes earlier where the lock is given up in between. Under the shared lock (6.18+) a table leaves the list
    before its entry is touched, so that the worker does not find it again if that fails.
    """
    shared = vm.version.nx_recovery_shared
    yield MmuLock(write=not shared)
    ratio = vm.params.recovery_ratio
    count = -(-len(vm.possible_nx) // ratio) if ratio else 0
    flush = False
    while count and vm.possible_nx:
        count -= 1
        if (yield from _recover_one(vm, next(iter(vm.possible_nx)))):
            flush = True
        if (yield Resched(flush)):
            if flush:
                yield from flush_all(vm)
                flush = False
            yield MmuUnlock(write=not shared)
            yield MmuLock(write=not shared)
    if flush:
        yield from flush_all(vm)
    yield MmuUnlock(write=not shared)


def _recover_one(vm: Vm, table: Table) -> KvmAgent[bool]:
    """One table; those of slots that are logged would come back small at once: newer kernels only forget them."""
    slot = vm.slots.find(table.gfn, table.as_id)
    logged = vm.version.nx_mark_every_table and slot is not None and slot.logging
    if logged or vm.version.nx_recovery_shared:
        yield from untrack(vm, table)
    return False if logged else (yield from zap_table(vm, table))
