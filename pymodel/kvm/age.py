"""Ageing: A bits cleared, or without them R and X taken away and remembered (facts C7; tdp_mmu.c)."""

from collections.abc import Callable

from pymodel.effects import CompareExchange, FetchAnd
from pymodel.kvm.effects import KvmAgent, SpteChanged
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.root_list import roots_of
from pymodel.kvm.tdp_mmu import clear_bits, set_exclusive
from pymodel.kvm.vm import Vm, call, returned
from pymodel.kvm.walk import TdpIter

__all__ = ["age_range", "test_age_range"]

_WORD = (1 << 64) - 1


def age_range(vm: Vm, slot: Memslot, start: int, end: int) -> KvmAgent[bool]:
    """kvm_tdp_mmu_age_gfn_range: True if a leaf of the range had been accessed.

    Without a lock (6.15+) an access-tracked entry is left alone where another task changed it: it is young then.
    """
    age = _age_locked if vm.version.age_locked else _age_unlocked
    return (yield from _any_young(vm, slot, start, end, "kvm_tdp_mmu_age_gfn_range", age))


def test_age_range(vm: Vm, slot: Memslot, start: int, end: int) -> KvmAgent[bool]:
    """kvm_tdp_mmu_test_age_gfn: whether a leaf of the range has been accessed."""
    return (yield from _any_young(vm, slot, start, end, "kvm_tdp_mmu_test_age_gfn", None))


def _any_young(
    vm: Vm, slot: Memslot, start: int, end: int, name: str, age: Callable[[Vm, TdpIter], KvmAgent[None]] | None
) -> KvmAgent[bool]:
    """Whether a leaf of the range had been accessed; each that had is passed to `age`."""
    fmt = vm.fmt
    yield call(name, range_start=start, range_end=end)
    young = False
    for root in roots_of(vm, slot.as_id, dying=vm.version.age_dying_roots):
        it = TdpIter(vm, root, start, end)
        while (yield from it.step()):
            if not fmt.is_present(it.old) or not fmt.is_leaf(it.old, it.level) or not fmt.is_accessed(it.old):
                continue
            young = True
            if age is not None:
                yield from age(vm, it)
    yield returned(name, int(young))
    return young


def _age_locked(vm: Vm, it: TdpIter) -> KvmAgent[None]:
    """age_gfn_range of one leaf, under the exclusive lock."""
    if vm.fmt.ad_enabled:
        yield from clear_bits(vm, it, vm.fmt.accessed)
    else:
        yield from set_exclusive(vm, it.as_id, it.gfn, it.level, it.address, it.old, vm.fmt.access_track(it.old))


def _age_unlocked(vm: Vm, it: TdpIter) -> KvmAgent[None]:
    """kvm_tdp_mmu_age_spte of one leaf, beside anybody."""
    fmt = vm.fmt
    if fmt.ad_enabled:
        it.old = yield FetchAnd(it.address, ~fmt.accessed & _WORD)
        new = it.old & ~fmt.accessed
    else:
        new = fmt.access_track(it.old)
        if (yield CompareExchange(it.address, it.old, new)) != it.old:
            return
    yield SpteChanged(it.as_id, it.gfn, it.level, it.old, new)
