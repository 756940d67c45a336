"""Ageing: A bits cleared, or without them R and X taken away and remembered (facts C7; tdp_mmu.c)."""

from pymodel.effects import CompareExchange, FetchAnd, Store
from pymodel.kvm.effects import KvmAgent, SpteChanged, exchange
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.vm import Table, Vm, call, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["age_range", "test_age_range"]


def _accessed(vm: Vm, spte: int) -> bool:
    fmt = vm.fmt
    return bool(spte & fmt.accessed) if fmt.ad_enabled else not fmt.is_access_track(spte)


def _roots(vm: Vm, slot: Memslot) -> list[Table]:
    """Newer kernels leave invalid roots alone: nobody runs on them (facts C3)."""
    older = vm.version.invalid_root_flush
    return [root for root in vm.roots if root.as_id == slot.as_id and (older or not root.invalid)]


def age_range(vm: Vm, slot: Memslot, start: int, end: int) -> KvmAgent[bool]:
    """kvm_tdp_mmu_age_gfn_range: True if a leaf of the range had been accessed.

    Without a lock (6.15+) an access-tracked entry is left alone where another task changed it: it is young then.
    """
    fmt = vm.fmt
    yield call("kvm_tdp_mmu_age_gfn_range", range_start=start, range_end=end)
    young = False
    for root in _roots(vm, slot):
        it = TdpIter(vm, root, start, end)
        while (yield from it.step()):
            if not fmt.is_present(it.old) or not fmt.is_leaf(it.old, it.level) or not _accessed(vm, it.old):
                continue
            young = True
            if fmt.ad_enabled:
                it.old = yield FetchAnd(it.address, ~fmt.accessed & (1 << 64) - 1)
                new = it.old & ~fmt.accessed
            else:
                new = fmt.access_track(it.old)
                if vm.version.age_locked and fmt.is_volatile(it.old):
                    it.old = yield from exchange(it.address, new)
                elif vm.version.age_locked:
                    yield Store(it.address, new)
                elif (yield CompareExchange(it.address, it.old, new)) != it.old:
                    continue
            yield SpteChanged(it.as_id, it.gfn, it.level, it.old, new)
    yield returned("kvm_tdp_mmu_age_gfn_range", int(young))
    return young


def test_age_range(vm: Vm, slot: Memslot, start: int, end: int) -> KvmAgent[bool]:
    """kvm_tdp_mmu_test_age_gfn: whether a leaf of the range has been accessed."""
    fmt = vm.fmt
    yield call("kvm_tdp_mmu_test_age_gfn", range_start=start, range_end=end)
    young = False
    for root in _roots(vm, slot):
        it = TdpIter(vm, root, start, end)
        while (yield from it.step()):
            if fmt.is_present(it.old) and fmt.is_leaf(it.old, it.level) and _accessed(vm, it.old):
                young = True
    yield returned("kvm_tdp_mmu_test_age_gfn", int(young))
    return young
