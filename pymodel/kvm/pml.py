"""Page-modification logging: the CPU notes the address of each leaf whose D it sets, KVM moves them to the dirty log.

Each vCPU has a buffer of 512 addresses; a full one makes it leave the guest. It is read at every exit, and before the
log is reported all running vCPUs are made to exit. What an IOMMU writes is in no buffer (facts C7).
"""

from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import KvmAgent
from pymodel.kvm.vm import Vcpu, Vm

__all__ = ["flush_buffer", "sync_log", "update_all", "update_logging"]


def update_all(vm: Vm) -> None:
    """kvm_mmu_update_cpu_dirty_logging when slots change: vCPUs are kicked before any D is cleared for the log."""
    for vcpu in vm.vcpus:
        update_logging(vm, vcpu)


def update_logging(vm: Vm, vcpu: Vcpu) -> None:
    """vmx_update_cpu_dirty_logging: the CPU logs while some slot does.

    While a guest of the guest runs the addresses would be that one's: KVM write-protects for it instead.
    """
    wanted = vm.params.log_by_dirty_bit and not vcpu.guest_mode
    vcpu.pml_enabled = wanted and any(slot.logging for slot in vm.slots)


def flush_buffer(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """vmx_flush_pml_buffer: what the vCPU wrote since its last exit becomes dirty."""
    while vcpu.pml:
        gpa = vcpu.pml.pop(0)
        yield from mark_dirty(vm, vm.slots.find(gpa >> 12, vcpu.as_id), gpa >> 12, vcpu)


def sync_log(vm: Vm) -> KvmAgent[None]:
    """kvm_arch_sync_dirty_log: kick the vCPUs, each of which empties its buffer as it leaves the guest."""
    for vcpu in vm.vcpus:
        yield from flush_buffer(vm, vcpu)
