"""The dirty ring: a log of written pages for each vCPU instead of a bitmap for each slot (dirty_ring.c; facts C7).

A full ring makes the vCPU leave to userspace before it enters the guest; userspace collects entries and has them
reset, which write-protects the pages again and flushes.
"""

from pymodel.kvm.dirty import protect_masked
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.vm import Vcpu, Vm, flush_all

__all__ = ["collect", "ring_full", "reset_rings"]

_BITS = 64


def ring_full(vm: Vm, vcpu: Vcpu) -> bool:
    """kvm_dirty_ring_soft_full: what is left is kept for pages that KVM itself writes."""
    size = vm.params.dirty_ring_size
    return size > 0 and len(vcpu.ring) + len(vcpu.ring_collected) >= size - vm.params.ring_reserved


def collect(vcpu: Vcpu) -> list[tuple[int, int]]:
    """Userspace reads all entries, (address space << 16 | slot, page), and gives them back for the next reset."""
    entries = list(vcpu.ring)
    vcpu.ring_collected += entries
    vcpu.ring.clear()
    return entries


def reset_rings(vm: Vm) -> KvmAgent[int]:
    """KVM_RESET_DIRTY_RINGS: how many entries were reset; neighbours within 64 pages are done at once.

    Raises `KvmError` (EINVAL) for a VM without rings.
    """
    if not vm.params.dirty_ring_size:
        raise KvmError(EINVAL, "dirty_ring_size", "set for a VM whose rings are reset", 0)
    count = 0
    for vcpu in vm.vcpus:
        entries, vcpu.ring_collected = vcpu.ring_collected, []
        count += len(entries)
        for slot, offset, mask in _coalesced(entries):
            yield from _reset(vm, slot, offset, mask)
    if count:
        yield from flush_all(vm)
    return count


def _coalesced(entries: list[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """(slot, first page, mask) as kvm_dirty_ring_reset joins them: forwards, and backwards while no bit falls out."""
    result: list[tuple[int, int, int]] = []
    for slot, offset in entries:
        if result and result[-1][0] == slot:
            _, first, mask = result[-1]
            delta = offset - first
            if 0 <= delta < _BITS:
                result[-1] = slot, first, mask | 1 << delta
                continue
            if -_BITS < delta < 0 and mask << -delta < 1 << _BITS:
                result[-1] = slot, offset, mask << -delta | 1
                continue
        result.append((slot, offset, 1))
    return result


def _reset(vm: Vm, ident: int, offset: int, mask: int) -> KvmAgent[None]:
    """kvm_reset_dirty_gfn: nothing if the slot is gone or has become smaller."""
    slot = vm.slots.get(ident & 0xFFFF, ident >> 16)
    if slot is None or offset + mask.bit_length() > slot.npages:
        return
    yield MmuLock(write=True)
    yield from protect_masked(vm, slot, offset, mask)
    yield MmuUnlock(write=True)
