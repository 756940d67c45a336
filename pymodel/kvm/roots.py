"""Roots: made for a vCPU, shared by role, invalidated all at once, zapped and freed (facts C0, C3)."""

from pymodel.effects import Store
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, Trace
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import ADDRESS_SPACES
from pymodel.kvm.pml import update_logging
from pymodel.kvm.root_list import EachRoot, put_root
from pymodel.kvm.tdp_mmu import zap_leafs, zap_root
from pymodel.kvm.vm import FLUSH, FLUSH_GUEST, FREE_OBSOLETE, Table, Vcpu, Vm, call, flush_all, returned

__all__ = ["destroy", "find_root", "free_roots", "invalidate_all", "load_root", "new_root", "prepare_entry", "release",
           "reload_root", "switch_role", "zap_all_fast", "zap_invalidated"]  # fmt: skip

_NO_ROOT = (1 << 64) - 1
_PREVIOUS_ROOTS = 3


def prepare_entry(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """vcpu_enter_guest: serve the pending requests, in KVM's order, and see that there is a root."""
    yield from _serve_obsolete(vm, vcpu)
    if FLUSH in vcpu.requests:
        vcpu.requests.discard(FLUSH)
        yield call("svm_flush_tlb_all", vcpu=vcpu.ident)
        yield call("svm_flush_tlb_asid", vcpu=vcpu.ident)
    if FLUSH_GUEST in vcpu.requests:
        vcpu.requests.discard(FLUSH_GUEST)
        yield call("svm_flush_tlb_asid", vcpu=vcpu.ident)
    update_logging(vm, vcpu)
    if vcpu.root is None:
        yield from load_root(vm, vcpu)


def reload_root(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """kvm_mmu_reload outside of an entry: let go of an obsolete root, and see that there is one."""
    yield from _serve_obsolete(vm, vcpu)
    if vcpu.root is None:
        yield from load_root(vm, vcpu)


def _serve_obsolete(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    if FREE_OBSOLETE in vcpu.requests:
        vcpu.requests.discard(FREE_OBSOLETE)
        yield from _free_obsolete(vm, vcpu)


def load_root(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """kvm_mmu_load: find a valid root of the role or make one, then flush for it."""
    exclusive = not vm.version.roots_shared
    yield MmuLock(exclusive)
    yield call("kvm_tdp_mmu_alloc_root", vcpu=vcpu.ident)
    root = None if exclusive else (yield from _find_shared(vm, vcpu))
    if root is None:
        root = find_root(vm, vcpu.as_id, guest_mode=vcpu.guest_mode)
        if root is None:
            root = yield from new_root(vm, vcpu.as_id, guest_mode=vcpu.guest_mode)
        root.refcount += 1
    vcpu.root = root
    yield MmuUnlock(exclusive)
    yield returned("kvm_tdp_mmu_get_vcpu_root_hpa", root.frame << 12)
    yield call("svm_load_mmu_pgd", vcpu=vcpu.ident, root_hpa=root.frame << 12, root_level=root.level)
    yield call("svm_flush_tlb_current", vcpu=vcpu.ident)
    yield call("svm_flush_tlb_asid", vcpu=vcpu.ident)


def _find_shared(vm: Vm, vcpu: Vcpu) -> KvmAgent[Table | None]:
    """kvm_tdp_mmu_alloc_root (6.9+): the valid root for a vCPU, referenced; others on the way are taken and put."""
    each = EachRoot(vm, vcpu.as_id, valid=True)
    while (root := (yield from each.next())) is not None:
        if root.guest_mode == vcpu.guest_mode:
            break
    return root


def find_root(vm: Vm, as_id: int, *, guest_mode: bool = False) -> Table | None:
    """The valid root of a role (facts C0), if there is one."""
    role = as_id, guest_mode
    return next((root for root in vm.roots if not root.invalid and (root.as_id, root.guest_mode) == role), None)


def new_root(vm: Vm, as_id: int, *, guest_mode: bool = False) -> KvmAgent[Table]:
    """kvm_tdp_mmu_alloc_root under the lock: an empty root; its one reference is the MMU's own.

    Another vCPU that holds the lock, too, may have been faster (6.9+): then it is that one's.
    """
    root = vm.new_table(vm.params.root_level, 0, as_id, 0, guest_mode)
    if vm.fmt.empty:
        for index in range(512):
            yield Store((root.frame << 12) + 8 * index, vm.fmt.empty)
    other = find_root(vm, as_id, guest_mode=guest_mode)
    if other is not None:
        vm.free_table(root)
        return other
    root.refcount = 1
    root.mmu_valid_gen = vm.mmu_valid_gen
    vm.roots.insert(0, root)
    yield Trace("get_page", (("gfn", 0), ("level", root.level)))
    return root


def switch_role(vm: Vm, vcpu: Vcpu, *, as_id: int = 0, guest_mode: bool = False) -> KvmAgent[None]:
    """kvm_mmu_reset_context: enter or leave system management mode (`as_id` 1), or a guest of the guest.

    The roots of the other roles stay for the next to find. Raises `KvmError` (EINVAL) for an unknown address space.
    """
    if not 0 <= as_id < ADDRESS_SPACES:
        raise KvmError(EINVAL, "as_id", f"0..{ADDRESS_SPACES - 1}", as_id)
    if (as_id, guest_mode) == (vcpu.as_id, vcpu.guest_mode):
        return
    yield from free_roots(vm, vcpu)
    vcpu.as_id, vcpu.guest_mode = as_id, guest_mode


def _free_active(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """mmu_free_root_page of the active root, under the lock."""
    root = vcpu.root
    assert root is not None
    yield call("mmu_free_root_page", root_hpa=root.frame << 12)
    vcpu.root = None
    yield from put_root(vm, root)


def _free_obsolete(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """kvm_mmu_free_obsolete_roots."""
    yield call("kvm_mmu_free_obsolete_roots", vcpu=vcpu.ident)
    root = vcpu.root
    if root is not None and (root.invalid or root.mmu_valid_gen != vm.mmu_valid_gen):
        yield MmuLock(not vm.version.roots_shared)
        yield from _free_active(vm, vcpu)
        yield MmuUnlock(not vm.version.roots_shared)


def free_roots(vm: Vm, vcpu: Vcpu) -> KvmAgent[None]:
    """kvm_mmu_free_roots of all (a change of CR0, CR4 or EFER): the root stays for the next load to find."""
    if vcpu.root is None:
        return
    yield MmuLock(not vm.version.roots_shared)
    for _ in range(_PREVIOUS_ROOTS):
        yield call("mmu_free_root_page", root_hpa=_NO_ROOT)
    yield from _free_active(vm, vcpu)
    yield MmuUnlock(not vm.version.roots_shared)


def invalidate_all(vm: Vm, *, dying: bool = False) -> None:
    """kvm_tdp_mmu_invalidate_all_roots, under the exclusive lock; an exported root lives as long as the VM."""
    for root in vm.roots:
        if not root.invalid and (not root.exported or dying):
            root.invalid = True
            root.scheduled_zap = True


def zap_invalidated(vm: Vm, *, shared: bool = True) -> KvmAgent[None]:
    """kvm_tdp_mmu_zap_invalidated_roots: zap each and drop the MMU's own reference. No flush (facts C3)."""
    yield MmuLock(write=not shared)
    yield call("kvm_tdp_mmu_zap_invalidated_roots")
    each = EachRoot(vm)
    while (root := (yield from each.next())) is not None:
        if root.scheduled_zap:
            root.scheduled_zap = False
            yield from zap_root(vm, root, shared=shared)
            yield from put_root(vm, root)
    yield MmuUnlock(write=not shared)


def zap_all_fast(vm: Vm) -> KvmAgent[None]:
    """kvm_mmu_zap_all_fast: a new generation; every root dies, of other slots too; vCPUs must load another."""
    yield MmuLock(write=True)
    yield Trace("zap_all_fast")
    vm.mmu_valid_gen ^= 1
    yield call("kvm_tdp_mmu_invalidate_all_roots")
    invalidate_all(vm)
    yield from _zap_exported(vm)
    for vcpu in vm.vcpus:
        vcpu.requests.add(FREE_OBSOLETE)
    yield MmuUnlock(write=True)
    yield from zap_invalidated(vm)


def _zap_exported(vm: Vm) -> KvmAgent[None]:
    """RFC:36: an exported root keeps its page; all its leaves go, with a flush, in the new generation."""
    flush = False
    for root in [root for root in vm.roots if root.exported and not root.invalid]:
        root.mmu_valid_gen = vm.mmu_valid_gen
        flush = yield from zap_leafs(vm, root, 0, vm.gfn_limit, flush, may_block=False)
    if flush:
        yield from flush_all(vm)


def release(vm: Vm) -> KvmAgent[None]:
    """kvm_mmu_notifier_release: the address space dies; zap everything without a flush."""
    yield call("kvm_arch_flush_shadow_all")
    yield MmuLock(write=True)
    yield call("kvm_tdp_mmu_zap_all")
    each = EachRoot(vm)
    while (root := (yield from each.next())) is not None:
        yield from zap_root(vm, root, shared=False)
    yield MmuUnlock(write=True)


def destroy(vm: Vm) -> KvmAgent[None]:
    """kvm_destroy_vm after the release: vCPUs let go of their roots, the MMU of its own references."""
    for vcpu in vm.vcpus:
        yield call("kvm_mmu_unload", vcpu=vcpu.ident)
        yield from free_roots(vm, vcpu)
    invalidate_all(vm, dying=True)
    yield from zap_invalidated(vm, shared=not vm.version.destroy_exclusive)
