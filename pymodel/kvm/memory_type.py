"""Memory types of leaves, and devices whose DMA does not snoop (facts C11)."""

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock
from pymodel.kvm.tdp_mmu import zap_leafs
from pymodel.kvm.vm import Vm, flush_all

__all__ = ["IPAT", "UNCACHED", "WRITE_BACK", "leaf_type", "register_noncoherent", "unregister_noncoherent"]

UNCACHED = 0
WRITE_BACK = 6 << 3
IPAT = 1 << 6
"""Ignore the guest's PAT."""


def leaf_type(vm: Vm, host_mmio: bool = False) -> int:
    """Type bits of a leaf: none in NPT; in EPT write-back, the guest's own type only with non-coherent DMA."""
    if not vm.fmt.is_ept:
        return 0
    if host_mmio:
        return UNCACHED
    return WRITE_BACK if vm.noncoherent_devices else WRITE_BACK | IPAT


def register_noncoherent(vm: Vm) -> KvmAgent[None]:
    """kvm_arch_register_noncoherent_dma: the first device makes every type be computed anew."""
    vm.noncoherent_devices += 1
    if vm.noncoherent_devices == 1:
        yield from _zap_types(vm)


def unregister_noncoherent(vm: Vm) -> KvmAgent[None]:
    """kvm_arch_unregister_noncoherent_dma. Raises `ValueError` without a registered device."""
    if not vm.noncoherent_devices:
        raise ValueError("no device with non-coherent DMA is registered")
    vm.noncoherent_devices -= 1
    if not vm.noncoherent_devices:
        yield from _zap_types(vm)


def wbinvd_emulated(vm: Vm) -> bool:
    """Whether WBINVD of the guest is executed: a function of the devices now, not of history (facts D6)."""
    return vm.noncoherent_devices > 0


def _zap_types(vm: Vm) -> KvmAgent[None]:
    """kvm_zap_gfn_range of everything; NPT has no types, so that nothing depends on the device."""
    if not vm.fmt.is_ept:
        return
    yield MmuLock(write=True)
    flush = False
    for root in list(vm.roots):
        flush = yield from zap_leafs(vm, root, 0, vm.gfn_limit, flush)
    if flush:
        yield from flush_all(vm)
    yield MmuUnlock(write=True)
