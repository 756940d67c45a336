"""Memory types of leaves, and devices whose DMA does not snoop (facts C11; vmx_get_mt_mask, mtrr.c)."""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.errors import EBUSY, EINVAL, KvmError
from pymodel.kvm.root_list import EachRoot
from pymodel.kvm.spte import pages
from pymodel.kvm.tdp_mmu import zap_leafs
from pymodel.kvm.vm import Vcpu, Vm, flush_range

__all__ = ["IPAT", "UNCACHED", "WRITE_BACK", "leaf_type", "register_noncoherent", "set_cache_disable", "set_mtrrs",
           "uniform_level", "unregister_noncoherent"]  # fmt: skip

UNCACHED = 0
WRITE_BACK = 6 << 3
IPAT = 1 << 6
"""Ignore the guest's PAT."""
_TYPES = (0, 1, 4, 5, 6)
_ALL = (1 << 64) - 1


def leaf_type(vm: Vm, vcpu: Vcpu, gfn: int, host_mmio: bool = False) -> int:
    """Type bits of a leaf: none in NPT; in EPT write-back, the guest's own type only with non-coherent DMA."""
    if not vm.fmt.is_ept:
        return 0
    if host_mmio:
        return UNCACHED
    if not vm.noncoherent_devices:
        return WRITE_BACK | IPAT
    if not vm.version.guest_memory_type:
        return WRITE_BACK
    if vcpu.cache_disabled:
        if not vm.params.cd_quirk:
            return UNCACHED | IPAT
        return WRITE_BACK | (IPAT if vm.version.cd_ignores_pat else 0)
    return _mtrr(vcpu, gfn) << 3


def _mtrr(vcpu: Vcpu, gfn: int) -> int:
    """kvm_mtrr_get_guest_memory_type; where ranges overlap the weaker type wins."""
    return min((kind for start, end, kind in vcpu.mtrrs if start <= gfn < end), default=WRITE_BACK >> 3)


def uniform_level(vm: Vm, vcpu: Vcpu, gfn: int, level: int) -> int:
    """The largest page level up to `level` whose span has one memory type (kvm_mtrr_check_gfn_range_consistency)."""
    if vcpu.mtrrs and vm.fmt.is_ept and vm.noncoherent_devices and vm.version.guest_memory_type:
        edges = [edge for start, end, _ in vcpu.mtrrs for edge in (start, end)]
        while level > 1 and any(gfn & -pages(level) < edge < (gfn | pages(level) - 1) + 1 for edge in edges):
            level -= 1
    return level


def register_noncoherent(vm: Vm) -> KvmAgent[None]:
    """kvm_arch_register_noncoherent_dma: the first device makes every type be computed anew (6.7+).

    Raises `KvmError` (EBUSY) while a root is exported: its importers count on coherent DMA (facts C11, RFC:26).
    """
    if any(root.exported for root in vm.roots):
        raise KvmError(EBUSY, "noncoherent_devices", "0 while a root is exported", 1)
    vm.noncoherent_devices += 1
    if vm.noncoherent_devices == 1 and vm.version.noncoherent_zaps:
        yield from _zap_types(vm)


def unregister_noncoherent(vm: Vm) -> KvmAgent[None]:
    """kvm_arch_unregister_noncoherent_dma. Raises `KvmError` (EINVAL) without a registered device."""
    if not vm.noncoherent_devices:
        raise KvmError(EINVAL, "noncoherent_devices", "at least 1: no device is registered", 0)
    vm.noncoherent_devices -= 1
    if not vm.noncoherent_devices and vm.version.noncoherent_zaps:
        yield from _zap_types(vm)


def set_cache_disable(vm: Vm, vcpu: Vcpu, disabled: bool) -> KvmAgent[None]:
    """kvm_post_set_cr0: CR0.CD changes; older kernels then compute types anew if they depend on it."""
    changed, vcpu.cache_disabled = disabled != vcpu.cache_disabled, disabled
    if changed and vm.version.guest_memory_type and vm.noncoherent_devices and not vm.params.cd_quirk:
        yield from _zap_types(vm)


def set_mtrrs(vm: Vm, vcpu: Vcpu, ranges: list[tuple[int, int, int]]) -> KvmAgent[None]:
    """kvm_mtrr_set_msr: the guest's ranges, (first gfn, end gfn, memory type).

    Raises `KvmError` (EINVAL) for an empty range or a type that is not 0, 1, 4, 5 or 6.
    """
    for start, end, kind in ranges:
        if kind not in _TYPES:
            raise KvmError(EINVAL, "memory type", "0, 1, 4, 5 or 6", kind)
        if not 0 <= start < end <= vm.gfn_limit:
            raise KvmError(EINVAL, "range", f"not empty and within gfn 0..{vm.gfn_limit:#x}", (start, end))
    touched = {one for one in (*vcpu.mtrrs, *ranges) if one not in vcpu.mtrrs or one not in ranges}
    vcpu.mtrrs = list(ranges)
    if touched and vm.version.guest_memory_type and vm.noncoherent_devices:
        yield from _zap_types(vm, min(one[0] for one in touched), max(one[1] for one in touched))


def _zap_types(vm: Vm, start: int = 0, end: int | None = None) -> KvmAgent[None]:
    """kvm_zap_gfn_range, within an invalidation, so that faults in flight begin again; NPT has no types.

    Where faults compare host addresses, the invalidation is one of all of them.
    """
    if not vm.fmt.is_ept:
        return
    end = vm.gfn_limit if end is None else end
    yield MmuLock(write=True)
    vm.begin_invalidation(*((start, end) if vm.version.retry_by_gfn else (0, _ALL)))
    flush = False
    each = EachRoot(vm, valid=not vm.version.dying_roots_too)
    while (root := (yield from each.next())) is not None:
        flush = yield from zap_leafs(vm, root, start, end, flush)
    if flush:
        yield from flush_range(vm, start, end - start)
    vm.end_invalidation()
    yield MmuUnlock(write=True)
