"""State of a VM and its vCPUs as the TDP MMU sees them, and the traces and flushes that all parts share."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from pymodel.kvm.effects import KvmAgent, TlbFlush, Trace
from pymodel.kvm.errors import E2BIG, EINVAL, KvmError
from pymodel.kvm.gfn_set import GfnSet
from pymodel.kvm.memslots import Memslot, Memslots
from pymodel.kvm.spte import SpteFormat, npt
from pymodel.kvm.version import KvmVersion

__all__ = ["Host", "KvmParams", "Table", "Vcpu", "Vm", "call", "flush_all", "flush_memslot", "flush_range", "returned"]

FLUSH = "tlb_flush"
FREE_OBSOLETE = "free_obsolete_roots"
FLUSH_GUEST = "tlb_flush_guest"
PML_ENTRIES = 512
"""Entries of a vCPU's page-modification log: one page."""
RING_PER_PAGE, RING_LIMIT = 256, 65536
"""Entries of a dirty ring: one page of 16-byte entries at least, KVM_DIRTY_RING_MAX_ENTRIES at most."""


class Host(Protocol):
    """What KVM reads of the primary MMU without faulting."""

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """host_pfn_mapping_level: 1, 2 or 3, by the entry that maps the page now; 1 if none does."""


@dataclass(slots=True)
class KvmParams:
    """Module parameters and capabilities that change what the MMU does."""

    eager_page_split: bool = True
    nx_huge_pages: bool = False
    mmio_caching: bool = True
    recovery_ratio: int = 60
    recovery_period_ms: int = 0
    manual_protect: bool = False
    """KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 with ENABLE."""
    initially_set: bool = False
    slot_zap_all: bool = True
    """KVM_X86_QUIRK_SLOT_ZAP_ALL still enabled."""
    log_by_dirty_bit: bool = False
    """D bits are the log (EPT with A/D and PML) instead of write protection; no IOMMU's write is in it (facts C7)."""
    ranged_flush: bool = False
    """The platform can flush a range of gfns (Hyper-V; or importers, facts D1); otherwise each flush is of all."""
    cd_quirk: bool = True
    """KVM_X86_QUIRK_CD_NW_CLEARED still enabled: CR0.CD does not make the guest's memory uncached (C11)."""
    wbinvd_exit: bool = True
    """The CPU leaves the guest at WBINVD; otherwise caches are written back when a vCPU changes its CPU (C11)."""
    hardware_private: bool = False
    """The guest says itself whether it wants private memory (SNP, TDX); otherwise the attributes decide."""
    dirty_ring_size: int = 0
    """Entries of each vCPU's dirty ring (KVM_CAP_DIRTY_LOG_RING); 0: bitmaps."""
    dirty_ring_reserved: int = 64
    """Entries that are kept for KVM's own writes, on top of a PML buffer's."""
    max_level: int = 3
    """Largest page: 3 is 1 GiB."""
    gfn_bits: int = 40
    """Bits of a guest-physical address (shadow_phys_bits)."""
    root_level: int = 4

    def check(self, fmt: SpteFormat) -> None:
        """What no kernel or CPU offers is refused. Raises `KvmError` (EINVAL)."""
        if self.root_level not in (4, 5):
            raise KvmError(EINVAL, "root_level", "4 or 5", self.root_level)
        if not 1 <= self.max_level <= 3:
            raise KvmError(EINVAL, "max_level", "1 (4K), 2 (2M) or 3 (1G)", self.max_level)
        if not 32 <= self.gfn_bits <= 52:
            raise KvmError(EINVAL, "gfn_bits", "32..52", self.gfn_bits)
        if self.recovery_ratio < 0:
            raise KvmError(EINVAL, "recovery_ratio", "at least 0", self.recovery_ratio)
        if self.initially_set and not self.manual_protect:
            raise KvmError(EINVAL, "initially_set", "False without manual_protect", True)
        if self.log_by_dirty_bit and not (fmt.is_ept and fmt.ad_enabled):
            raise KvmError(EINVAL, "log_by_dirty_bit", f"False for {fmt.name} with ad_enabled={fmt.ad_enabled}", True)
        self._check_ring()

    def _check_ring(self) -> None:
        """kvm_vm_ioctl_enable_dirty_log_ring: a power of two that holds a page and the reserved entries."""
        size, least = self.dirty_ring_size, max(RING_PER_PAGE, self.ring_reserved + 1)
        if size and (size & size - 1 or not least <= size <= RING_LIMIT):
            error = E2BIG if size > RING_LIMIT else EINVAL
            raise KvmError(error, "dirty_ring_size", f"0 or a power of two in {least}..{RING_LIMIT}", size)

    @property
    def ring_reserved(self) -> int:
        """kvm_dirty_ring_get_rsvd_entries."""
        return self.dirty_ring_reserved + (PML_ENTRIES if self.log_by_dirty_bit else 0)


@dataclass(slots=True, eq=False)
class Table:
    """struct kvm_mmu_page of the TDP MMU."""

    frame: int
    level: int
    gfn: int
    as_id: int = 0
    parent: int = 0
    """Address of the entry that points here; 0 for a root."""
    guest_mode: bool = False
    """role.guest_mode: for a guest of the guest that runs on its parent's addresses (facts C0)."""
    nx_disallowed: bool = False
    """nx_huge_page_disallowed (6.1: lpage_disallowed)."""
    invalid: bool = False
    """role.invalid of a root."""
    refcount: int = 0
    scheduled_zap: bool = False
    exported: bool = False
    """Walked by an IOMMU: never invalidated, its leaves are zapped instead (facts C3, RFC:36)."""
    mmu_valid_gen: int = 0


@dataclass(slots=True, eq=False)
class Vcpu:
    """One vCPU: the root that it runs on, pending requests, the MMIO cache."""

    ident: int
    root: Table | None = None
    as_id: int = 0
    """1 while in system management mode: other slots, another root."""
    guest_mode: bool = False
    """Runs a guest of its own that has no nested paging: another root over the same slots."""
    requests: set[str] = field(default_factory=set)
    mmio_gfn: int | None = None
    """vcpu_cache_mmio_info: the last MMIO page and the generation it is good for."""
    mmio_generation: int = 0
    ring: list[tuple[int, int]] = field(default_factory=list)
    """Dirty ring: (slot, page) that userspace has not read yet."""
    ring_collected: list[tuple[int, int]] = field(default_factory=list)
    """Read, and waiting for the next reset."""
    pml: list[int] = field(default_factory=list)
    """gpas that the CPU logged at a D transition and KVM has not read yet (`pymodel.kvm.pml`)."""
    pml_enabled: bool = False
    cpu: int | None = None
    """Physical CPU that it ran on last."""
    wbinvd_cpus: set[int] = field(default_factory=set)
    """wbinvd_dirty_mask: physical CPUs whose caches may hold what the guest wrote (facts C11)."""
    cache_disabled: bool = False
    """CR0.CD."""
    mtrrs: list[tuple[int, int, int]] = field(default_factory=list)
    """Variable-range MTRRs of the guest: (first gfn, end gfn, memory type); elsewhere write-back."""
    last_retry: tuple[int, int] | None = None
    """last_retry_eip and last_retry_addr: the instruction that the emulator made the guest try again."""


class Vm:
    """One VM. `frames` gives a fresh, zeroed table page for each call; `release` takes it back."""

    def __init__(
        self,
        version: KvmVersion,
        host: Host,
        frames: Callable[[], int],
        *,
        fmt: SpteFormat | None = None,
        params: KvmParams | None = None,
        release: Callable[[int], None] | None = None,
    ) -> None:
        self.version = version
        self.fmt = npt(suppress_ve_empty=version.suppress_ve_empty) if fmt is None else fmt
        self.host = host
        self.params = KvmParams() if params is None else params
        self.params.check(self.fmt)
        self.slots = Memslots()
        self.vcpus: list[Vcpu] = []
        self.tables: dict[int, Table] = {}
        self.roots: list[Table] = []
        """tdp_mmu_roots, newest first (list_add_rcu)."""
        self.mmu_valid_gen = 0
        self.mmu_invalidate_seq = 0
        self.mmu_invalidate_in_progress = 0
        self.invalidate_start = 0
        self.invalidate_end = 0
        self.notifiers_active = 0
        """mn_active_invalidate_count: notifier ranges that are open, whether or not they touch a slot."""
        self.private = GfnSet()
        """gfns with KVM_MEMORY_ATTRIBUTE_PRIVATE."""
        self.noncoherent_devices = 0
        """Devices whose DMA may not snoop (facts C11)."""
        self.possible_nx: OrderedDict[Table, None] = OrderedDict()
        """Tables that would be huge pages but for the NX mitigation, in the order of recovery."""
        self.traced = True
        """Whether anybody listens to `Trace`. If not, faults build none, as a kernel skips disabled tracepoints (they
        are nearly half of a fault's effects); nothing else changes."""
        self._new_frame = frames
        self._release = release

    def add_vcpu(self) -> Vcpu:
        """KVM_CREATE_VCPU: one more, with the requests that a new one has."""
        vcpu = Vcpu(len(self.vcpus))
        if self.version.load_flushes_guest:
            vcpu.requests.add(FLUSH_GUEST)
        self.vcpus.append(vcpu)
        return vcpu

    @property
    def gfn_limit(self) -> int:
        """tdp_mmu_max_gfn_exclusive."""
        return 1 << (self.params.gfn_bits - 12)

    def new_table(self, level: int, gfn: int, as_id: int, parent: int, guest_mode: bool = False) -> Table:
        """tdp_mmu_alloc_sp and tdp_mmu_init_sp; the caller fills the page with empty entries."""
        table = Table(self._new_frame(), level, gfn, as_id, parent, guest_mode)
        self.tables[table.frame] = table
        return table

    def free_table(self, table: Table) -> None:
        """call_rcu(tdp_mmu_free_sp): what is done once no walker of the CPU can hold the page."""
        self.tables.pop(table.frame, None)
        if self._release is not None:
            self._release(table.frame)

    def retry(self, seq: int, gfn: int, hva: int) -> bool:
        """mmu_invalidate_retry_gfn (6.8+) or mmu_invalidate_retry_hva: may the looked-up pfn be old (facts C1.5)?"""
        if self.mmu_invalidate_in_progress:
            point = gfn if self.version.retry_by_gfn else hva
            if self.invalidate_start <= point < self.invalidate_end:
                return True
        return self.mmu_invalidate_seq != seq

    def begin_invalidation(self, start: int, end: int) -> None:
        """kvm_mmu_invalidate_begin and _range_add, under the exclusive lock; nested ones merge into one range."""
        self.mmu_invalidate_in_progress += 1
        self.widen_invalidation(start, end, first=self.mmu_invalidate_in_progress == 1)

    def widen_invalidation(self, start: int, end: int, *, first: bool) -> None:
        """kvm_mmu_invalidate_range_add."""
        if first:
            self.invalidate_start, self.invalidate_end = start, end
        else:
            self.invalidate_start = min(self.invalidate_start, start)
            self.invalidate_end = max(self.invalidate_end, end)

    def end_invalidation(self) -> None:
        """kvm_mmu_invalidate_end: the sequence grows before the count falls."""
        self.mmu_invalidate_seq += 1
        self.mmu_invalidate_in_progress -= 1

    def executable(self, level: int) -> bool:
        """Whether a leaf of this level may be executed: huge ones not under the NX mitigation (facts C8)."""
        return level == 1 or not self.params.nx_huge_pages


def call(name: str, **fields: int | str) -> Trace:
    """The record of a probe on the entry of a kernel function."""
    return Trace("call " + name, tuple(fields.items()))


@lru_cache(maxsize=256, typed=True)
def returned(name: str, value: int) -> Trace:
    """The record of a probe on its return."""
    return Trace("ret " + name, (("ret", value),))


def flush_all(vm: Vm) -> KvmAgent[None]:
    """kvm_flush_remote_tlbs: every vCPU flushes before it enters the guest again."""
    yield call("kvm_flush_remote_tlbs")
    yield from _flush(vm, TlbFlush())


def _flush(vm: Vm, flush: TlbFlush) -> KvmAgent[None]:
    yield flush
    for vcpu in vm.vcpus:
        vcpu.requests.add(FLUSH)


def _flush_ranged(vm: Vm, gfn: int, count: int) -> KvmAgent[None]:
    """kvm_arch_flush_remote_tlbs_range where there is one; else all."""
    if vm.params.ranged_flush:
        yield from _flush(vm, TlbFlush(gfn, count))
    else:
        yield from flush_all(vm)


def flush_range(vm: Vm, gfn: int, count: int) -> KvmAgent[None]:
    """kvm_flush_remote_tlbs_range / _with_address; NPT has no ranged flush, so that the full one follows."""
    if vm.version.has_change_pte:
        yield call("kvm_flush_remote_tlbs_with_address", start_gfn=gfn, pages=count)
    else:
        yield call("kvm_flush_remote_tlbs_range", gfn=gfn, nr_pages=count)
    yield from _flush_ranged(vm, gfn, count)


def flush_memslot(vm: Vm, slot: Memslot) -> KvmAgent[None]:
    """kvm_flush_remote_tlbs_memslot (6.1: kvm_arch_flush_remote_tlbs_memslot)."""
    if vm.version.has_change_pte:
        yield call("kvm_arch_flush_remote_tlbs_memslot", memslot_id=slot.ident, memslot_flags=slot.flags)
    else:
        yield call("kvm_flush_remote_tlbs_memslot", memslot_id=slot.ident, memslot_flags=slot.flags)
    yield from _flush_ranged(vm, slot.base_gfn, slot.npages)
