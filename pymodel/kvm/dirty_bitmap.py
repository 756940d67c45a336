"""Dirty pages go into the bitmap of their slot, or into the ring of the vCPU that wrote (mark_page_dirty_in_slot)."""

from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vm import Vcpu, Vm, call

__all__ = ["mark_dirty"]


def mark_dirty(vm: Vm, slot: Memslot | None, gfn: int, vcpu: Vcpu) -> KvmAgent[None]:
    """mark_page_dirty_in_slot: called for every slot, counts only where logging is on."""
    if slot is None:
        return
    yield call("mark_page_dirty_in_slot", memslot_id=slot.ident, memslot_flags=slot.flags, gfn=gfn)
    if slot.logging and vm.params.dirty_ring_size:
        vcpu.ring.append((slot.ident, gfn - slot.base_gfn))
    elif slot.logging:
        slot.dirty.add(gfn - slot.base_gfn)
