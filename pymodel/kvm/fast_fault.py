"""The lockless fast page fault: give back W (dirty logging) or the access bits (access tracking); facts C1 step 2."""

from pymodel.effects import CompareExchange, Load
from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import KvmAgent, Trace
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import ADDRESS, WRITABLE
from pymodel.kvm.vm import Vcpu, Vm

__all__ = ["Fault", "can_be_fast", "fast_page_fault", "last_entry"]

_PRESENT, _WRITE, _RSVD, _FETCH = 1, 2, 8, 16


class Fault:
    """struct kvm_page_fault: one nested page fault on its way through the MMU."""

    __slots__ = ("address", "error", "execute", "gfn", "goal_level", "huge_page_disallowed", "hva", "map_writable",
                 "max_level", "memory_type", "mmu_seq", "pfn", "prefetch", "present", "private", "req_level", "rsvd",
                 "slot", "write")  # fmt: skip

    def __init__(
        self, address: int, error: int, prefetch: bool = False, max_level: int = 3, private: bool = False
    ) -> None:
        """`error`: low bits of the code as reported; `private`: the guest asked for private memory (facts C9)."""
        self.address = address
        self.gfn = address >> 12
        self.error = error
        self.present = error & _PRESENT != 0
        """The entry was there, but forbade the access."""
        self.write = error & _WRITE != 0
        self.rsvd = error & _RSVD != 0
        """A reserved bit was set: an MMIO entry."""
        self.execute = error & _FETCH != 0
        self.prefetch = prefetch
        self.private = private
        self.slot: Memslot | None = None
        self.hva = 0
        """Host address of the frame, with a slot."""
        self.pfn: int | None = None
        """None: no slot (KVM_PFN_NOSLOT)."""
        self.map_writable = False
        self.memory_type: int | None = None
        self.mmu_seq = 0
        self.max_level = max_level
        self.req_level = 1
        self.goal_level = 1
        self.huge_page_disallowed = False


def can_be_fast(vm: Vm, fault: Fault) -> bool:
    """page_fault_can_be_fast: no MMIO entry, and what is missing may be W or, without A bits, any access.

    A fault of the wrong kind of memory must come to its refusal (6.11+), and not be taken for a spurious one.
    """
    if fault.rsvd or (vm.version.mismatch_not_fast and fault.private != (fault.gfn in vm.private)):
        return False
    return fault.write if fault.present else not vm.fmt.ad_enabled


def fast_page_fault(vm: Vm, vcpu: Vcpu, fault: Fault) -> KvmAgent[int]:
    """fast_page_fault of a fault that `can_be_fast`: fixed, spurious or invalid (not for this path)."""
    fmt, version = vm.fmt, vm.version
    result = version.ret_invalid
    old = 0
    address: int | None = None
    for _ in range(5):
        found = yield from last_entry(vm, vcpu, fault.gfn)
        if found is None:
            return result
        address, level, old = found
        if not fmt.is_present(old) or not fmt.is_leaf(old, level):
            break
        if fmt.allows(old, write=fault.write, execute=fault.execute):
            result = version.ret_spurious
            break
        new = old
        if fmt.is_access_track(old):
            new = fmt.restore_access_track(old) | (fmt.accessed if fmt.software_ad else 0)
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
    if vm.traced:
        spurious, fixed = int(result == version.ret_spurious), int(result == version.ret_fixed)
        fields = (("vcpu", vcpu.ident), ("addr", fault.address), ("old", old), ("new", now))
        yield Trace("fast_page_fault", (*fields, ("spurious", spurious), ("fixed", fixed)))
    return result


def last_entry(vm: Vm, vcpu: Vcpu, gfn: int) -> KvmAgent[tuple[int, int, int] | None]:
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
