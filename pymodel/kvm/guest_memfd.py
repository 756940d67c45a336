"""guest_memfd: private pages that leave a slot's file, by a punched hole or a truncation (facts C9; guest_memfd.c).

The file itself, its folios and their sizes, is the host's: it answers `HostFault(private=True)`.
"""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.tdp_mmu import unmap_range
from pymodel.kvm.vm import Vm, flush_all

__all__ = ["invalidate_begin", "invalidate_end"]


def _check(slot: Memslot, first: int, end: int) -> None:
    if not slot.private:
        raise KvmError(EINVAL, "slot", "one with a guest_memfd", slot.ident)
    if not 0 <= first < end <= slot.npages:
        shown = f"{first:#x}..{end:#x}"
        raise KvmError(EINVAL, "range", f"not empty and within the slot's {slot.npages:#x} pages", shown)


def invalidate_begin(vm: Vm, slot: Memslot, first: int, end: int) -> KvmAgent[None]:
    """kvm_gmem_invalidate_begin: pages `first`..`end` of the slot's file are about to go; zap them and flush.

    Raises `KvmError` (EINVAL) for a slot without a file or a range outside of it.
    """
    _check(slot, first, end)
    start, stop = slot.base_gfn + first, slot.base_gfn + end
    yield MmuLock(write=True)
    vm.begin_invalidation(start, stop)
    if (yield from unmap_range(vm, slot, start, stop, False)):
        yield from flush_all(vm)
    yield MmuUnlock(write=True)


def invalidate_end(vm: Vm, slot: Memslot, first: int, end: int) -> KvmAgent[None]:
    """kvm_gmem_invalidate_end: they are gone. Raises as `invalidate_begin` does."""
    _check(slot, first, end)
    yield MmuLock(write=True)
    vm.end_invalidation()
    yield MmuUnlock(write=True)
