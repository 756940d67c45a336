"""Private and shared memory: attributes by gfn and conversion between the two (facts C9; kvm_main.c)."""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.errors import EINVAL, ENOTTY, KvmError
from pymodel.kvm.tdp_mmu import unmap_range
from pymodel.kvm.vm import Vm, flush_all

__all__ = ["set_private"]


def set_private(vm: Vm, start: int, end: int, private: bool) -> KvmAgent[None]:
    """KVM_SET_MEMORY_ATTRIBUTES of gfns `start`..`end`: zap what they map, then change them, in one invalidation.

    A fault that looked its page up before must retry; huge pages that would mix both kinds are forbidden. Nothing
    happens if all of them are so already. Raises `KvmError`: ENOTTY for a kernel without attributes, EINVAL for a range
    that is empty or beyond the guest's addresses.
    """
    if not vm.version.private_memory:
        raise KvmError(ENOTTY, "kernel", "6.8 or newer for memory attributes", vm.version.name)
    if not 0 <= start < end <= vm.gfn_limit:
        raise KvmError(EINVAL, "range", f"not empty and within gfn 0..{vm.gfn_limit:#x}", f"{start:#x}..{end:#x}")
    if (start in vm.private) == private and not vm.private.mixed(start, end):
        return
    touched = vm.slots.in_gfn_range(start, end)
    if touched:
        yield MmuLock(write=True)
        vm.begin_invalidation(start, end)
        flush = False
        for slot, low, high in touched:
            if (yield from unmap_range(vm, slot, low, high, False)):
                flush = True
        if flush:
            yield from flush_all(vm)
        yield MmuUnlock(write=True)
    vm.private.change(start, end, private)
    if touched:
        yield MmuLock(write=True)
        vm.end_invalidation()
        yield MmuUnlock(write=True)
