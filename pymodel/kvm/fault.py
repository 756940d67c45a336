"""The page fault of a vCPU (or of an IOMMU): resolve, check for staleness, map (facts C1; mmu.c, tdp_mmu.c)."""

from dataclasses import dataclass

from pymodel.effects import Load
from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, MmuLock, MmuUnlock, Trace
from pymodel.kvm.fast_fault import Fault, fast_page_fault
from pymodel.kvm.memory_type import leaf_type
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.mmio import cache_mmio, handle_mmio_fault, mmio_generation
from pymodel.kvm.nx import track
from pymodel.kvm.spte import WRITABLE, pages
from pymodel.kvm.tdp_mmu import link, new_child, set_atomic, split, zap_atomic
from pymodel.kvm.vm import Vcpu, Vm, call, flush_range, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["EFAULT", "PRIVATE", "Outcome", "max_mapping_level", "page_fault", "prefault", "tdp_fault"]

EFAULT = -14
PRIVATE = 1 << 49
"""PFERR_PRIVATE_ACCESS: the guest asked for private memory."""
_CONTINUE = 0
_ENOENT = 2
_NOSLOT_PFN = 1 << 63


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fault ended: enter the guest again, emulate (`mmio`: by leaving to userspace), or fail."""

    code: int
    emulate: bool = False
    error: int = 0


def page_fault(vm: Vm, vcpu: Vcpu, address: int, error: int) -> KvmAgent[Outcome]:
    """npf_interception and kvm_mmu_page_fault: one nested page fault, from the exit to the next entry."""
    yield Trace("page_fault", (("addr", address), ("err", error), ("vcpu", vcpu.ident)))
    version = vm.version
    result = version.ret_invalid
    if error & 8:
        result = yield from handle_mmio_fault(vm, vcpu, address)
    if result == version.ret_invalid:
        result = yield from tdp_fault(vm, vcpu, _new_fault(vm, address, error))
    if result < 0:
        yield returned("kvm_mmu_page_fault", result)
        return Outcome(result, error=-result)
    if result != version.ret_emulate:
        yield returned("kvm_mmu_page_fault", 1)
    return Outcome(result, emulate=result == version.ret_emulate)


def _new_fault(vm: Vm, address: int, error: int) -> Fault:
    """The kernel's view of an error code; without hardware for private memory the attributes say what is asked for."""
    private = bool(error & PRIVATE) or (not vm.params.hardware_private and address >> 12 in vm.private)
    return Fault(address, error & 0x3F, max_level=vm.params.max_level, private=private)


def tdp_fault(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """direct_page_fault (6.1), kvm_tdp_mmu_page_fault: RET_PF_* or a negative errno."""
    result = yield from _tdp_fault(vm, vcpu, fault)
    yield returned("direct_page_fault", result)
    return result


def _tdp_fault(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    version = vm.version
    fault.slot = vm.slots.find(fault.gfn, vcpu.as_id)
    if fault.private != (fault.gfn in vm.private):
        yield Trace("memory_fault", (("gfn", fault.gfn), ("private", int(fault.private))))
        return EFAULT
    if fault.slot is not None and fault.write and fault.present and fault.gfn in fault.slot.write_tracked:
        return version.ret_emulate
    result = yield from fast_page_fault(vm, vcpu, fault)
    if result != version.ret_invalid:
        return result
    fault.mmu_seq = vm.mmu_invalidate_seq
    result = yield from _resolve(vm, vcpu, fault)
    if result != _CONTINUE:
        return result
    yield MmuLock(write=False)
    stale = _is_stale(vm, vcpu, fault)
    yield returned("is_page_fault_stale", int(stale))
    result = version.ret_retry if stale else (yield from _map(vm, vcpu, fault))
    yield MmuUnlock(write=False)
    return result


def _hva(fault: Fault) -> int:
    return 0 if fault.slot is None else fault.slot.hva_of(fault.gfn)


def _resolve(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """kvm_faultin_pfn and handle_abnormal_pfn: the pfn, or why there is none."""
    version, slot = vm.version, fault.slot
    if slot is not None and slot.invalid:
        return version.ret_retry
    if slot is None:
        cache_mmio(vm, vcpu, fault.gfn)
        fault.pfn, fault.map_writable = None, False
        if not vm.params.mmio_caching or fault.gfn >= vm.gfn_limit:
            return version.ret_emulate
        return _CONTINUE
    if version.early_retry and vm.retry(fault.mmu_seq, fault.gfn, _hva(fault)):
        return version.ret_retry
    if slot.readonly and fault.write:
        return version.ret_emulate
    page: HostPage = yield HostFault(_hva(fault), fault.write, slot.ident, private=fault.private)
    if page.pfn is None:
        return EFAULT
    fault.pfn = page.pfn
    fault.memory_type = leaf_type(vm, page.device)
    if fault.private:
        fault.max_level = min(fault.max_level, page.max_level)
    fault.map_writable = page.writable and not slot.readonly
    if version.early_retry and vm.retry(fault.mmu_seq, fault.gfn, _hva(fault)):
        return version.ret_retry
    return _CONTINUE


def _is_stale(vm: Vm, vcpu: Vcpu, fault: Fault) -> bool:
    """is_page_fault_stale: the root died, or a notifier ran after the pfn was looked up (facts C1 step 5)."""
    root = vcpu.root
    if root is None or root.invalid or root.mmu_valid_gen != vm.mmu_valid_gen:
        return True
    return fault.slot is not None and vm.retry(fault.mmu_seq, fault.gfn, _hva(fault))


def max_mapping_level(vm: Vm, slot: Memslot, gfn: int, limit: int, private: bool = False) -> int:
    """kvm_mmu_max_mapping_level: what the slot's shape, the attributes and the host's own mapping allow.

    A private page has no host mapping; guest_memfd's own page size is in `limit`.
    """
    level = min(limit, vm.params.max_level)
    while level > 1 and (slot.lpage_disallowed(gfn, level) or _mixed(vm, gfn, level)):
        level -= 1
    return level if level == 1 or private else min(level, vm.host.mapping_level(slot, gfn))


def _mixed(vm: Vm, gfn: int, level: int) -> bool:
    """Private and shared pages under one huge page (disallow_lpage of the attributes, facts C9)."""
    start = gfn & ~(pages(level) - 1)
    return vm.private.mixed(start, start + pages(level))


def _adjust(vm: Vm, fault: Fault) -> None:
    """kvm_mmu_hugepage_adjust: the level to map at (facts C1 step 6)."""
    slot = fault.slot
    fault.huge_page_disallowed = fault.execute and vm.params.nx_huge_pages
    if fault.max_level == 1 or fault.pfn is None or slot is None or slot.logging:
        return
    fault.req_level = max_mapping_level(vm, slot, fault.gfn, fault.max_level, fault.private)
    if fault.req_level == 1 or fault.huge_page_disallowed:
        return
    fault.goal_level = fault.req_level
    fault.pfn &= ~(pages(fault.goal_level) - 1)


def _map(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """kvm_tdp_mmu_map: walk to the goal level, making tables on the way, and set the leaf (facts C1 steps 7, 8)."""
    yield call(
        "kvm_tdp_mmu_map",
        vcpu=vcpu.ident,
        fault_gfn=fault.gfn,
        fault_error_code=fault.error,
        fault_write=int(fault.write),
        fault_exec=int(fault.execute),
        fault_prefetch=int(fault.prefetch),
        fault_max_level=fault.max_level,
        fault_pfn=_NOSLOT_PFN if fault.pfn is None else fault.pfn,
        fault_map_writable=int(fault.map_writable),
        fault_mmu_seq=fault.mmu_seq,
    )
    _adjust(vm, fault)
    asked = _NOSLOT_PFN if fault.pfn is None else fault.pfn | fault.gfn & pages(fault.goal_level) - 1
    yield Trace("spte_requested", (("gfn", fault.gfn), ("pfn", asked), ("level", fault.goal_level)))
    result = yield from _walk_and_map(vm, vcpu, fault)
    yield returned("kvm_tdp_mmu_map", result)
    return result


def _walk_and_map(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    fmt, version = vm.fmt, vm.version
    assert vcpu.root is not None
    it = TdpIter(vm, vcpu.root, fault.gfn, fault.gfn + 1)
    while (yield from it.step()):
        if vm.params.nx_huge_pages:
            _respect_split(vm, fault, it)
        if version.split_on_fault and it.old == fmt.frozen:
            return version.ret_retry
        if it.level == fault.goal_level:
            return (yield from _set_leaf(vm, vcpu, fault, it))
        if fmt.is_present(it.old) and not fmt.is_leaf(it.old, it.level):
            continue
        could_be_huge = fault.huge_page_disallowed and fault.req_level >= it.level
        huge = fmt.is_present(it.old)
        if huge and not version.split_on_fault:
            if not (yield from zap_atomic(vm, it)):
                return version.ret_retry
            it.old = yield Load(it.address)
            if fmt.is_present(it.old):
                continue
            huge = False
        if it.old == fmt.frozen:
            return version.ret_retry
        table = yield from new_child(vm, it)
        if version.nx_mark_every_table:
            table.nx_disallowed = fault.huge_page_disallowed
        done = yield from (split if huge else link)(vm, it, table, shared=True)
        if not done:
            vm.free_table(table)
            return version.ret_retry
        if could_be_huge:
            table.nx_disallowed = True
            yield from track(vm, table)
    return version.ret_retry


def _respect_split(vm: Vm, fault: Fault, it: TdpIter) -> None:
    """disallowed_hugepage_adjust: do not put a huge page back over a table that the NX mitigation made."""
    fmt = vm.fmt
    if it.level > 1 and it.level == fault.goal_level and fmt.is_table(it.old, it.level):
        child = vm.tables[fmt.pfn(it.old)]
        if child.nx_disallowed:
            assert fault.pfn is not None
            fault.pfn |= fault.gfn & pages(it.level) - pages(it.level - 1)
            fault.goal_level -= 1


def _set_leaf(vm: Vm, vcpu: Vcpu, fault: Fault, it: TdpIter) -> KvmAgent[int]:
    """tdp_mmu_map_handle_target_level."""
    fmt, version = vm.fmt, vm.version
    if version.spurious_early and fmt.is_present(it.old) and fmt.is_leaf(it.old, it.level):
        if fault.prefetch or fmt.allows(it.old, write=fault.write, execute=fault.execute):
            return version.ret_spurious
    if fault.pfn is None:
        new = fmt.mmio(it.gfn, mmio_generation(vm), 0b111)
    else:
        new = fmt.leaf(
            fault.pfn,
            it.level,
            0 if version.dirty_always else it.old,
            host_writable=fault.map_writable,
            executable=vm.executable(it.level),
            prefetch=fault.prefetch,
            memory_type=fault.memory_type,
        )
        if new & WRITABLE and fault.slot is not None and fault.slot.logging:
            yield from mark_dirty(vm, fault.slot, it.gfn, vcpu)
    result = version.ret_fixed
    if new == it.old:
        result = version.ret_spurious
    elif not (yield from set_atomic(vm, it, new)):
        return version.ret_retry
    elif fmt.is_table(it.old, it.level):
        if version.parent_flush_range:
            yield from flush_range(vm, it.gfn & ~(pages(it.level + 1) - 1), pages(it.level + 1))
        else:
            yield from flush_range(vm, it.gfn, pages(it.level))
    if fault.pfn is None:
        yield Trace("mark_mmio_spte", (("gfn", it.gfn), ("access", 7), ("gen", mmio_generation(vm))))
        return version.ret_emulate
    now = yield Load(it.address)
    yield Trace("set_spte", (("gfn", it.gfn), ("spte", now), ("level", it.level)))
    return result


def prefault(vm: Vm, vcpu: Vcpu, gpa: int, size: int) -> KvmAgent[int]:
    """KVM_PRE_FAULT_MEMORY (6.11+): map `size` bytes from `gpa` as reads would, without A; 0 or an errno.

    The errno is reported only if nothing was mapped before.
    """
    done = 0
    while done < size:
        while True:
            fault = Fault(gpa + done, 0, prefetch=True, max_level=vm.params.max_level)
            result = yield from tdp_fault(vm, vcpu, fault)
            if result != vm.version.ret_retry:
                break
        if result not in (vm.version.ret_fixed, vm.version.ret_spurious):
            return 0 if done else (_ENOENT if result == vm.version.ret_emulate else -result)
        span = pages(fault.goal_level) << 12
        done = min(size, (gpa + done & ~(span - 1)) + span - gpa)
    return 0
