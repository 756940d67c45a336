"""Emulated MMIO: entries that hold the gfn and the slots' generation, and the vCPU's one-page cache (facts A2, C1)."""

from pymodel.effects import Load
from pymodel.kvm.effects import KvmAgent, Trace
from pymodel.kvm.memslots import GEN_UPDATING
from pymodel.kvm.spte import ADDRESS, GEN_BITS
from pymodel.kvm.vm import Vcpu, Vm

__all__ = ["MMIO_GEN_MASK", "cache_mmio", "handle_mmio_fault", "is_cached", "mmio_generation"]

MMIO_GEN_MASK = (1 << GEN_BITS) - 1
"""MMIO_SPTE_GEN_MASK."""


def mmio_generation(vm: Vm, as_id: int) -> int:
    """The part of the generation of an address space's slots that fits an entry."""
    return vm.slots.generation(as_id) & MMIO_GEN_MASK


def cache_mmio(vm: Vm, vcpu: Vcpu, gfn: int) -> None:
    """vcpu_cache_mmio_info; not while the slots change."""
    if vm.slots.generation(vcpu.as_id) & GEN_UPDATING:
        return
    vcpu.mmio_gfn = gfn
    vcpu.mmio_generation = vm.slots.generation(vcpu.as_id)


def is_cached(vm: Vm, vcpu: Vcpu, gfn: int) -> bool:
    """vcpu_match_mmio_gpa: the vCPU met this MMIO page last, and the slots are still those of then."""
    return vcpu.mmio_gfn == gfn and vcpu.mmio_generation == vm.slots.generation(vcpu.as_id)


def handle_mmio_fault(vm: Vm, vcpu: Vcpu, address: int) -> KvmAgent[int]:
    """handle_mmio_page_fault: emulate; or invalid where the entry is older than the slots; or retry if it is gone.

    While the slots change no entry is trusted (check_mmio_spte).
    """
    version = vm.version
    gfn = address >> 12
    if is_cached(vm, vcpu, gfn):
        return version.ret_emulate
    spte = yield from _entry(vm, vcpu, gfn)
    if not vm.fmt.is_mmio(spte):
        return version.ret_retry
    if vm.slots.generation(vcpu.as_id) & GEN_UPDATING:
        return version.ret_invalid
    current, then = mmio_generation(vm, vcpu.as_id), vm.fmt.mmio_generation(spte)
    fields = (("spte", spte), ("kvm_gen", current), ("spte_gen", then), ("valid", int(current == then)))
    yield Trace("check_mmio_spte", fields)
    if current != then:
        return version.ret_invalid
    yield Trace("mmio_page_fault", (("gfn", (spte & ADDRESS & (1 << 51) - 1) >> 12),))
    cache_mmio(vm, vcpu, gfn)
    return version.ret_emulate


def _entry(vm: Vm, vcpu: Vcpu, gfn: int) -> KvmAgent[int]:
    """get_mmio_spte: the entry at which a walk for `gfn` ends; empty without a root."""
    if vcpu.root is None:
        return vm.fmt.empty
    table, level = vcpu.root.frame << 12, vcpu.root.level
    while True:
        entry: int = yield Load(table + 8 * (gfn >> 9 * (level - 1) & 511))
        if not vm.fmt.is_table(entry, level):
            return entry
        table, level = entry & ADDRESS, level - 1
