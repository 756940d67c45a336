"""Private and shared memory: attributes by gfn, guest_memfd behind private pages, conversion (facts C9)."""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.tdp_mmu import unmap_range
from pymodel.kvm.vm import Vm, flush_all

__all__ = ["set_private"]


def set_private(vm: Vm, start: int, end: int, private: bool) -> KvmAgent[None]:
    """KVM_SET_MEMORY_ATTRIBUTES: zap what the range maps, then change it, all within one invalidation.

    A fault that looked its page up before must retry; huge pages that would mix both kinds are forbidden.
    """
    yield MmuLock(write=True)
    vm.begin_invalidation(start, end)
    flush = False
    for slot in [one for one in vm.slots if one.base_gfn < end and start < one.end_gfn]:
        low, high = max(start, slot.base_gfn), min(end, slot.end_gfn)
        if (yield from unmap_range(vm, slot, low, high, False)):
            flush = True
    if flush:
        yield from flush_all(vm)
    yield MmuUnlock(write=True)
    vm.private.change(start, end, private)
    yield MmuLock(write=True)
    vm.end_invalidation()
    yield MmuUnlock(write=True)
