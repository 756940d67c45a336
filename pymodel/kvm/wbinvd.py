"""WBINVD of the guest: executed for it only while some device's DMA does not snoop (facts C11, D6; x86.c)."""

from pymodel.kvm.effects import KvmAgent, Wbinvd
from pymodel.kvm.vm import Vcpu, Vm

__all__ = ["emulate_wbinvd", "load_cpu", "wbinvd_emulated"]


def wbinvd_emulated(vm: Vm) -> bool:
    """need_emulate_wbinvd: a function of the devices now, not of history (facts D6)."""
    return vm.noncoherent_devices > 0


def load_cpu(vm: Vm, vcpu: Vcpu, cpu: int) -> KvmAgent[None]:
    """kvm_arch_vcpu_load on physical CPU `cpu`, whose caches the guest may dirty from now on.

    A CPU that cannot leave the guest at WBINVD has the caches of the one that it came from written back.
    """
    before, vcpu.cpu = vcpu.cpu, cpu
    if not wbinvd_emulated(vm):
        return
    if vm.params.wbinvd_exit:
        vcpu.wbinvd_cpus.add(cpu)
    elif before is not None and before != cpu:
        yield Wbinvd(before)


def emulate_wbinvd(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """kvm_emulate_wbinvd_noskip: on every physical CPU that the vCPU ran on since the last time.

    Raises `ValueError` for a vCPU that runs on no CPU.
    """
    if not wbinvd_emulated(vm):
        return
    if vcpu.cpu is None:
        raise ValueError(f"vCPU {vcpu.ident} must run on a physical CPU")
    cpus = {vcpu.cpu}
    if vm.params.wbinvd_exit:
        cpus |= vcpu.wbinvd_cpus
    for cpu in sorted(cpus):
        yield Wbinvd(cpu)
    vcpu.wbinvd_cpus.clear()
