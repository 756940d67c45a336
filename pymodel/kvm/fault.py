"""The page fault of a vCPU (or of an IOMMU): resolve, check for staleness, map (facts C1; mmu.c, tdp_mmu.c)."""

from pymodel.effects import Load, effect_type
from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, MmuLock, MmuUnlock, Resched, Trace
from pymodel.kvm.errors import EINVAL
from pymodel.kvm.fast_fault import Fault, can_be_fast, fast_page_fault
from pymodel.kvm.memory_type import leaf_type, uniform_level
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.mmio import cache_mmio, handle_mmio_fault, mmio_generation
from pymodel.kvm.nx import track
from pymodel.kvm.roots import reload_root
from pymodel.kvm.spte import LARGE, WRITABLE, pages
from pymodel.kvm.tdp_mmu import link, new_child, set_atomic, split, zap_atomic
from pymodel.kvm.vm import Table, Vcpu, Vm, flush_range, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["EFAULT", "PRIVATE", "Outcome", "hugepage_adjust", "is_tracked", "max_mapping_level", "new_fault",
           "new_leaf", "page_fault", "prefault", "take_page", "tdp_fault"]  # fmt: skip

EFAULT = -14
_EAGAIN = -11
PRIVATE = 1 << 49
"""PFERR_PRIVATE_ACCESS: the guest asked for private memory."""
_CONTINUE = 0
_ENOENT = 2
_NOSLOT_PFN = 1 << 63
_LOCK, _UNLOCK = MmuLock(write=False), MmuUnlock(write=False)


@effect_type
class Outcome:
    """How a fault ended: enter the guest again, emulate (`mmio`: by leaving to userspace), or fail."""

    code: int
    emulate: bool = False
    error: int = 0


def page_fault(vm: Vm, vcpu: Vcpu, address: int, error: int) -> KvmAgent[Outcome]:
    """npf_interception and kvm_mmu_page_fault: one nested page fault, from the exit to the next entry."""
    if vm.traced:
        yield Trace("page_fault", (("addr", address), ("err", error), ("vcpu", vcpu.ident)))
    version = vm.version
    result = version.ret_invalid
    if error & 8:
        result = yield from handle_mmio_fault(vm, vcpu, address)
    if result == version.ret_invalid:
        result = yield from tdp_fault(vm, vcpu, new_fault(vm, address, error))
    if result in (version.ret_emulate, version.ret_write_protected):
        return Outcome(version.ret_emulate, emulate=True)
    if vm.traced:
        yield returned("kvm_mmu_page_fault", result if result < 0 else 1)
    return Outcome(result, error=-result) if result < 0 else Outcome(result)


def new_fault(vm: Vm, address: int, error: int) -> Fault:
    """The kernel's view of an error code; without hardware for private memory the attributes say what is asked for."""
    params = vm.params
    private = bool(error & PRIVATE) or (not params.hardware_private and address >> 12 in vm.private)
    return Fault(address, error & 0x3F, False, params.max_level, private)


def tdp_fault(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """direct_page_fault (6.1), kvm_tdp_mmu_page_fault: RET_PF_* or a negative errno."""
    result = yield from _prepare(vm, vcpu, fault)
    if result == _CONTINUE:
        yield _LOCK
        stale = _is_stale(vm, vcpu, fault)
        if vm.traced:
            yield returned("is_page_fault_stale", int(stale))
        result = vm.version.ret_retry if stale else (yield from _map(vm, vcpu, fault))
        yield _UNLOCK
    if vm.traced:
        yield returned("direct_page_fault", result)
    return result


def _prepare(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """What is done without the lock: the fast path and the lookup of the pfn."""
    version, gfn = vm.version, fault.gfn
    fault.slot = vm.slots.find(gfn, vcpu.as_id)
    fault.max_level = uniform_level(vm, vcpu, gfn, fault.max_level)
    if fault.write and fault.present and not fault.rsvd and is_tracked(fault):
        return version.ret_write_protected
    if can_be_fast(vm, fault):
        result = yield from fast_page_fault(vm, vcpu, fault)
        if result != version.ret_invalid:
            return result
    fault.mmu_seq = vm.mmu_invalidate_seq
    return (yield from _resolve(vm, vcpu, fault))


def _memory_fault(fault: Fault) -> KvmAgent[int]:
    """kvm_mmu_prepare_memory_fault_exit: userspace is to convert the page, or to give the slot a guest_memfd."""
    yield Trace("memory_fault", (("gfn", fault.gfn), ("private", int(fault.private))))
    return EFAULT


def _resolve(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """kvm_faultin_pfn and handle_abnormal_pfn: the pfn, or why there is none.

    An IOMMU would take an MMIO entry for memory at the guest's address (facts A2, MMIO-ALIAS): a root that one walks
    gets none, each access is looked up again.
    """
    version, slot = vm.version, fault.slot
    wrong_kind = fault.private != (fault.gfn in vm.private)
    if wrong_kind and (slot is None or version.mismatch_first):
        return (yield from _memory_fault(fault))
    if slot is not None and slot.invalid:
        return _EAGAIN if fault.prefetch and version.pre_fault_gives_up else version.ret_retry
    if slot is None:
        if fault.private:
            return (yield from _memory_fault(fault))
        cache_mmio(vm, vcpu, fault.gfn)
        fault.pfn, fault.map_writable = None, False
        exported = vcpu.root is not None and vcpu.root.exported
        if not vm.params.mmio_caching or fault.gfn >= vm.gfn_limit or exported:
            return version.ret_emulate
        return _CONTINUE
    fault.hva = slot.hva_of(fault.gfn)
    if version.early_retry and vm.retry(fault.mmu_seq, fault.gfn, fault.hva):
        return version.ret_retry
    if wrong_kind or (fault.private and not slot.private):
        return (yield from _memory_fault(fault))
    if slot.readonly and fault.write:
        return version.ret_emulate
    page: HostPage = yield HostFault(fault.hva, fault.write, slot.ident, fault.private)
    if page.pfn is None:
        return (yield from _memory_fault(fault)) if fault.private else EFAULT
    take_page(vm, vcpu, fault, page)
    if version.early_retry and vm.retry(fault.mmu_seq, fault.gfn, fault.hva):
        return version.ret_retry
    return _CONTINUE


def take_page(vm: Vm, vcpu: Vcpu, fault: Fault, page: HostPage) -> None:
    """What the host's answer means for the leaf: frame, memory type, W, and for private memory the largest page."""
    slot = fault.slot
    assert slot is not None
    fault.pfn = page.pfn
    fault.memory_type = leaf_type(vm, vcpu, fault.gfn, page.device)
    if fault.private:
        fault.max_level = min(fault.max_level, page.max_level)
    fault.map_writable = page.writable and not slot.readonly


def _is_stale(vm: Vm, vcpu: Vcpu, fault: Fault) -> bool:
    """is_page_fault_stale: the root died, or a notifier ran after the pfn was looked up (facts C1 step 5)."""
    root = vcpu.root
    if root is None or root.invalid or root.mmu_valid_gen != vm.mmu_valid_gen:
        return True
    return fault.slot is not None and vm.retry(fault.mmu_seq, fault.gfn, fault.hva)


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
    span = pages(level)
    start = gfn & -span
    return vm.private.mixed(start, start + span)


def hugepage_adjust(vm: Vm, fault: Fault) -> None:
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


def _map_called(vcpu: Vcpu, fault: Fault) -> Trace:
    return Trace(
        "call kvm_tdp_mmu_map",
        (
            ("vcpu", vcpu.ident),
            ("fault_gfn", fault.gfn),
            ("fault_error_code", fault.error),
            ("fault_write", 1 if fault.write else 0),
            ("fault_exec", 1 if fault.execute else 0),
            ("fault_prefetch", 1 if fault.prefetch else 0),
            ("fault_max_level", fault.max_level),
            ("fault_pfn", _NOSLOT_PFN if fault.pfn is None else fault.pfn),
            ("fault_map_writable", 1 if fault.map_writable else 0),
            ("fault_mmu_seq", fault.mmu_seq),
        ),
    )


def _map(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """kvm_tdp_mmu_map: walk to the goal level, making tables on the way, and set the leaf (facts C1 steps 7, 8)."""
    if vm.traced:
        yield _map_called(vcpu, fault)
    hugepage_adjust(vm, fault)
    if vm.traced:
        asked = _NOSLOT_PFN if fault.pfn is None else fault.pfn | fault.gfn & pages(fault.goal_level) - 1
        yield Trace("spte_requested", (("gfn", fault.gfn), ("pfn", asked), ("level", fault.goal_level)))
    fmt, version = vm.fmt, vm.version
    live, frozen, nx = fmt.live, fmt.frozen, vm.params.nx_huge_pages
    assert vcpu.root is not None
    result = version.ret_retry
    it = TdpIter(vm, vcpu.root, fault.gfn, fault.gfn + 1)
    while (yield from it.step()):
        if nx:
            _respect_split(vm, fault, it)
        if it.old == frozen and version.split_on_fault:
            break
        if it.level == fault.goal_level:
            result = yield from _set_leaf(vm, vcpu, fault, it)
            break
        if it.old & live and not it.old & LARGE:
            continue
        if not (yield from _make_table(vm, fault, it)):
            break
    if vm.traced:
        yield returned("kvm_tdp_mmu_map", result)
    return result


def _make_table(vm: Vm, fault: Fault, it: TdpIter) -> KvmAgent[bool]:
    """Put a table in the place of an empty entry or a huge leaf above the goal level; False: the fault must retry."""
    fmt, version = vm.fmt, vm.version
    could_be_huge = fault.huge_page_disallowed and fault.req_level >= it.level
    huge = fmt.is_present(it.old)
    if huge and not version.split_on_fault:
        if not (yield from zap_atomic(vm, it)):
            return False
        it.old = yield Load(it.address)
        if fmt.is_present(it.old):
            return True
        huge = False
    if it.old == fmt.frozen:
        return False
    table = yield from new_child(vm, it)
    if version.nx_mark_every_table:
        table.nx_disallowed = fault.huge_page_disallowed
    if not (yield from (split if huge else link)(vm, it, table, shared=True)):
        vm.free_table(table)
        return False
    if could_be_huge and (table.nx_disallowed or not version.nx_mark_every_table):
        table.nx_disallowed = True
        yield from track(vm, table)
    return True


def _respect_split(vm: Vm, fault: Fault, it: TdpIter) -> None:
    """disallowed_hugepage_adjust: do not put a huge page back over a table that the NX mitigation made."""
    fmt = vm.fmt
    if it.level > 1 and it.level == fault.goal_level and fmt.is_table(it.old, it.level):
        child = vm.tables[fmt.pfn(it.old)]
        if child.nx_disallowed:
            assert fault.pfn is not None
            fault.pfn |= fault.gfn & pages(it.level) - pages(it.level - 1)
            fault.goal_level -= 1


def new_leaf(vm: Vm, fault: Fault, root: Table, level: int, old: int) -> int:
    """make_spte of the page that the fault resolved to, in place of the entry `old` of a table under `root`."""
    assert fault.pfn is not None
    return vm.fmt.leaf(
        fault.pfn,
        level,
        0 if vm.version.dirty_always else old,
        host_writable=fault.map_writable,
        executable=vm.executable(level),
        prefetch=fault.prefetch,
        memory_type=fault.memory_type,
        tracked=level == 1 and is_tracked(fault),
        protect_only=root.guest_mode and vm.params.log_by_dirty_bit,
    )


def is_tracked(fault: Fault) -> bool:
    """kvm_gfn_is_write_tracked."""
    slot = fault.slot
    return slot is not None and fault.gfn in slot.write_tracked


def _set_leaf(vm: Vm, vcpu: Vcpu, fault: Fault, it: TdpIter) -> KvmAgent[int]:
    """tdp_mmu_map_handle_target_level."""
    fmt, version = vm.fmt, vm.version
    if version.spurious_early and fmt.is_present(it.old):
        leaf = fmt.is_leaf(it.old, it.level)
        if fault.prefetch and (leaf or not version.prefetch_needs_leaf):
            return version.ret_spurious
        if leaf and fmt.allows(it.old, write=fault.write, execute=fault.execute):
            return version.ret_spurious
    old = it.old
    if fault.pfn is None:
        new = fmt.mmio(it.gfn, mmio_generation(vm, vcpu.as_id), 0b111)
    else:
        new = new_leaf(vm, fault, it.root, it.level, old)
        if new & WRITABLE and fault.slot is not None and fault.slot.logging:
            yield from mark_dirty(vm, fault.slot, it.gfn, vcpu)
    result = version.ret_fixed
    if new == old:
        result = version.ret_spurious
    elif not (yield from set_atomic(vm, it, new)):
        return version.ret_retry
    elif fmt.is_table(old, it.level):
        if version.parent_flush_range:
            yield from flush_range(vm, it.gfn & ~(pages(it.level + 1) - 1), pages(it.level + 1))
        else:
            yield from flush_range(vm, it.gfn, pages(it.level))
    if fault.pfn is None:
        yield Trace("mark_mmio_spte", (("gfn", it.gfn), ("access", 7), ("gen", fmt.mmio_generation(new))))
        return version.ret_emulate
    now = yield Load(it.address)
    if vm.traced:
        yield Trace("set_spte", (("gfn", it.gfn), ("spte", now), ("level", it.level)))
    return version.ret_write_protected if fault.write and is_tracked(fault) else result


def prefault(vm: Vm, vcpu: Vcpu, gpa: int, size: int) -> KvmAgent[int]:
    """KVM_PRE_FAULT_MEMORY (6.11+): map `size` bytes from `gpa` as reads would, without A; 0 or an errno.

    Each try may pause (`Resched`): one for a slot that is going is repeated without any other effect.
    The errno is reported only if nothing was mapped before.
    """
    if not vm.version.pre_fault or gpa & 0xFFF or size & 0xFFF or size <= 0:
        return EINVAL
    done = 0
    while done < size:
        while True:
            yield from reload_root(vm, vcpu)
            yield Resched()
            private = gpa + done >> 12 in vm.private
            fault = Fault(gpa + done, 0, prefetch=True, max_level=vm.params.max_level, private=private)
            result = yield from tdp_fault(vm, vcpu, fault)
            if result != vm.version.ret_retry:
                break
        if result not in (vm.version.ret_fixed, vm.version.ret_spurious):
            return 0 if done else (_ENOENT if result == vm.version.ret_emulate else -result)
        span = pages(fault.goal_level) << 12
        done = min(size, (gpa + done & ~(span - 1)) + span - gpa)
    return 0
