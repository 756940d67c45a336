"""Dirty pages go into the bitmap of their slot, or into the ring of the vCPU that wrote (mark_page_dirty_in_slot)."""

from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vm import Vcpu, Vm, call

__all__ = ["mark_dirty"]


def mark_dirty(vm: Vm, slot: Memslot | None, gfn: int, vcpu: Vcpu) -> KvmAgent[None]:
    """mark_page_dirty_in_slot: called for every slot, counts only where logging is on.

    A ring that is full to the last entry is a defect: the reserved entries are for what one exit can add.
    """
    if slot is None:
        return
    yield call("mark_page_dirty_in_slot", memslot_id=slot.ident, memslot_flags=slot.flags, gfn=gfn)
    if not slot.logging:
        return
    size = vm.params.dirty_ring_size
    if not size:
        slot.dirty.add(gfn - slot.base_gfn)
        return
    if len(vcpu.ring) + len(vcpu.ring_collected) >= size:
        raise AssertionError(f"the dirty ring of vCPU {vcpu.ident} has no entry left of {size} (facts C7)")
    vcpu.ring.append((slot.as_id << 16 | slot.ident, gfn - slot.base_gfn))
