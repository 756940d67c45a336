"""The lockless fast page fault: give back W (dirty logging) or the access bits (access tracking); facts C1 step 2."""

from dataclasses import dataclass

from pymodel.effects import CompareExchange, Load
from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import KvmAgent, Trace
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import ADDRESS, WRITABLE
from pymodel.kvm.vm import Vcpu, Vm

__all__ = ["Fault", "fast_page_fault"]

_PRESENT, _WRITE, _RSVD, _FETCH = 1, 2, 8, 16


@dataclass(slots=True)
class Fault:
    """struct kvm_page_fault: one nested page fault on its way through the MMU."""

    address: int
    error: int
    """Error code as reported; bits 32 and 33 say whether the final access or the guest's table walk faulted."""
    prefetch: bool = False
    slot: Memslot | None = None
    pfn: int | None = None
    """None: no slot (KVM_PFN_NOSLOT)."""
    map_writable: bool = False
    mmu_seq: int = 0
    max_level: int = 3
    req_level: int = 1
    goal_level: int = 1
    huge_page_disallowed: bool = False
    private: bool = False
    """The guest asked for private memory (facts C9)."""
    memory_type: int | None = None

    @property
    def gfn(self) -> int:
        """Frame number of the faulting address."""
        return self.address >> 12

    @property
    def present(self) -> bool:
        """The entry was there, but forbade the access."""
        return bool(self.error & _PRESENT)

    @property
    def write(self) -> bool:
        """A write."""
        return bool(self.error & _WRITE)

    @property
    def rsvd(self) -> bool:
        """A reserved bit was set: an MMIO entry."""
        return bool(self.error & _RSVD)

    @property
    def execute(self) -> bool:
        """An instruction fetch."""
        return bool(self.error & _FETCH)


def fast_page_fault(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """fast_page_fault: fixed, spurious or invalid (not for this path)."""
    fmt, version = vm.fmt, vm.version
    if fault.rsvd or (fmt.ad_enabled if not fault.present else not fault.write):
        return version.ret_invalid
    result = version.ret_invalid
    old = 0
    address: int | None = None
    for _ in range(5):
        found = yield from _last_entry(vm, vcpu, fault.gfn)
        if found is None:
            return result
        address, level, old = found
        if not fmt.is_present(old) or not fmt.is_leaf(old, level):
            break
        if fmt.allows(old, write=fault.write, execute=fault.execute):
            result = version.ret_spurious
            break
        new = fmt.restore_access_track(old) if fmt.is_access_track(old) else old
        if fault.write and fmt.is_mmu_writable(old):
            new |= WRITABLE
            if level > 1 and fault.slot is not None and fault.slot.logging:
                break
        if new == old or not fmt.allows(new, write=fault.write, execute=fault.execute):
            break
        seen = yield CompareExchange(address, old, new)
        if seen == old:
            if new & ~old & WRITABLE:
                yield from mark_dirty(vm, fault.slot, fault.gfn, vcpu)
            result = version.ret_fixed
            break
    now = 0 if address is None else (yield Load(address))
    yield Trace(
        "fast_page_fault",
        (
            ("vcpu", vcpu.ident),
            ("addr", fault.address),
            ("old", old),
            ("new", now),
            ("spurious", int(result == version.ret_spurious)),
            ("fixed", int(result == version.ret_fixed)),
        ),
    )
    return result


def _last_entry(vm: Vm, vcpu: Vcpu, gfn: int) -> KvmAgent[tuple[int, int, int] | None]:
    """kvm_tdp_mmu_fast_pf_get_last_sptep: (address, level, value) where a walk without the lock ends."""
    root = vcpu.root
    if root is None:
        return None
    table = root.frame << 12
    level = root.level
    while True:
        address = table + 8 * (gfn >> 9 * (level - 1) & 511)
        entry: int = yield Load(address)
        if not vm.fmt.is_table(entry, level):
            return address, level, entry
        table = entry & ADDRESS
        level -= 1
