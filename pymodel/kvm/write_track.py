"""Write tracking: gfns whose writes KVM must see and emulate, for a shadow of what the guest keeps there (facts C1).

A tracked page is mapped read-only and never as a part of a huge page. Devices cannot be emulated: for them a write to
such a page is an error (facts D2).
"""

from pymodel.kvm.dirty import write_protect_gfn
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vm import Vm, flush_all

__all__ = ["track_writes", "untrack_writes"]


def _slot(vm: Vm, gfn: int, as_id: int) -> Memslot:
    slot = vm.slots.find(gfn, as_id)
    if slot is None:
        raise KvmError(EINVAL, "gfn", f"in a memslot of address space {as_id}", gfn)
    return slot


def track_writes(vm: Vm, gfn: int, as_id: int = 0) -> KvmAgent[None]:
    """kvm_write_track_add_gfn; counted. Raises `KvmError` (EINVAL) for a gfn without a slot."""
    slot = _slot(vm, gfn, as_id)
    yield MmuLock(write=True)
    slot.write_tracked.add(gfn)
    if (yield from write_protect_gfn(vm, slot, gfn, 1)):
        yield from flush_all(vm)
    yield MmuUnlock(write=True)


def untrack_writes(vm: Vm, gfn: int, as_id: int = 0) -> KvmAgent[None]:
    """kvm_write_track_remove_gfn: the entry stays read-only until the next write fault.

    Raises `KvmError` (EINVAL) for a gfn that is not tracked.
    """
    slot = _slot(vm, gfn, as_id)
    if gfn not in slot.write_tracked:
        raise KvmError(EINVAL, "gfn", "one whose writes are tracked", gfn)
    yield MmuLock(write=True)
    slot.write_tracked.remove(gfn)
    yield MmuUnlock(write=True)
