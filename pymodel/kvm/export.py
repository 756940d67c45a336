"""A TDP that an IOMMU walks too: the exported root, its importers, and faults that come from DMA (facts C3, D1).

What an export forbids is enforced: the root is never invalidated but emptied with a flush (`pymodel.kvm.roots`), it
gets no MMIO entries (`pymodel.kvm.fault`), and while it exists no device with non-coherent DMA may come.
"""

from dataclasses import dataclass, field

from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, SrcuEnter, SrcuLeave
from pymodel.kvm.errors import EBUSY, EEXIST, EINVAL, KvmError
from pymodel.kvm.fast_fault import Fault
from pymodel.kvm.fault import is_tracked, tdp_fault
from pymodel.kvm.root_list import put_root
from pymodel.kvm.roots import find_root, new_root
from pymodel.kvm.tdp_mmu import zap_root
from pymodel.kvm.vm import Table, Vcpu, Vm

__all__ = ["EFAULT", "EPERM", "TdpExport", "export", "io_fault", "put_export", "register_importer",
           "unregister_importer"]  # fmt: skip

EPERM, EFAULT = 1, 14
_LIVE_FOR_IOMMU = 1 << 59
"""The live marker where an IOMMU ignores it (facts A2)."""
_WRITE, _FETCH, _USER = 2, 16, 4


@dataclass(slots=True, eq=False)
class TdpExport:
    """KVM_CREATE_TDP_FD: one address space's table in the hands of IOMMUs."""

    root: Table
    context: Vcpu
    """What a fault of a device has in place of a vCPU: the root, and caches of its own."""
    importers: list[str] = field(default_factory=list)


def export(vm: Vm, as_id: int = 0) -> KvmAgent[TdpExport]:
    """kvm_create_tdp_fd: find or make the root of the role, and keep it for good.

    Raises `KvmError`: EEXIST for a second export; EINVAL for system management mode, for entries that an IOMMU cannot
    read, before the first vCPU, with non-coherent DMA, or with dirty rings, that have no room for a device's writes.
    """
    if as_id:
        raise KvmError(EINVAL, "as_id", "0", as_id)
    if not vm.fmt.is_ept or vm.fmt.live != _LIVE_FOR_IOMMU:
        raise KvmError(EINVAL, "format", "ept with the live marker at bit 59", vm.fmt.name)
    if not vm.vcpus:
        raise KvmError(EINVAL, "vcpus", "at least one, whose address width counts", 0)
    if vm.noncoherent_devices:
        raise KvmError(EINVAL, "noncoherent_devices", "0", vm.noncoherent_devices)
    if vm.params.dirty_ring_size:
        raise KvmError(EINVAL, "dirty_ring_size", "0", vm.params.dirty_ring_size)
    if any(root.exported for root in vm.roots):
        raise KvmError(EEXIST, "as_id", "one that is not exported yet", as_id)
    yield MmuLock(write=True)
    root = find_root(vm, as_id)
    if root is None:
        root = yield from new_root(vm, as_id)
    root.refcount += 1
    root.exported = True
    yield MmuUnlock(write=True)
    return TdpExport(root, Vcpu(-1, root=root, as_id=as_id))


def register_importer(tdp: TdpExport, name: str) -> None:
    """register_importer: from now on it hears every flush. Raises `KvmError` (EBUSY) if it does already."""
    if name in tdp.importers:
        raise KvmError(EBUSY, "importer", "one that is not registered yet", name)
    tdp.importers.append(name)


def unregister_importer(tdp: TdpExport, name: str) -> None:
    """unregister_importer. Raises `KvmError` (EINVAL) for one that is not registered."""
    if name not in tdp.importers:
        raise KvmError(EINVAL, "importer", "a registered one", name)
    tdp.importers.remove(name)


def io_fault(vm: Vm, tdp: TdpExport, gpa: int, *, write: bool = False, execute: bool = False) -> KvmAgent[int]:
    """The exporter's fault operation: the steps of a vCPU's fault without a vCPU, until it is not to be retried.

    0: the access is allowed now, also where somebody else had mapped the page first (the RFC fails there: D4, B1).
    EPERM for a write to a page whose writes must be emulated, which no device's can be; EFAULT where nothing is mapped.
    """
    version = vm.version
    error = _USER | (_WRITE if write else 0) | (_FETCH if execute else 0)
    while True:
        fault = Fault(gpa, error, False, vm.params.max_level, gpa >> 12 in vm.private)
        yield SrcuEnter()
        fault.slot = vm.slots.find(fault.gfn, tdp.context.as_id)
        result = -EPERM if write and is_tracked(fault) else (yield from tdp_fault(vm, tdp.context, fault))
        yield SrcuLeave()
        if result != version.ret_retry:
            break
    if result in (version.ret_fixed, version.ret_spurious):
        return 0
    return -result if result < 0 else EFAULT


def put_export(vm: Vm, tdp: TdpExport) -> KvmAgent[None]:
    """kvm_tdp_fd release: the last user is gone; empty the root without a flush and let go of it.

    Raises `KvmError` (EBUSY) while an importer is registered: what its IOMMU caches would not be flushed (facts B8).
    """
    if tdp.importers:
        raise KvmError(EBUSY, "importers", "none when the export ends", tuple(tdp.importers))
    yield MmuLock(write=True)
    tdp.root.exported = False
    tdp.context.root = None
    yield from zap_root(vm, tdp.root, shared=False)
    yield from put_root(vm, tdp.root)
    yield MmuUnlock(write=True)
