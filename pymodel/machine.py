"""The machine: the only place where memory, the host's memory management and KVM are wired together (DESIGN 3).

One process runs one VM whose memslots show the process's memory. Faults of the guest are resolved by the process,
and what the host does to its pages reaches KVM through MMU notifiers. A guest access goes through KVM's nested
tables and a TLB to the very frame that the host gave it, so that a missing notifier is seen in the data.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar, get_args

from pymodel.effects import Load, Store, Words, changed
from pymodel.host.cpu_cache import CpuCache
from pymodel.host.effects import HostAgent, HostEffect, PageReused, perform
from pymodel.host.files import HugetlbPool
from pymodel.host.frames import Frames
from pymodel.host.guest_memfd import GuestMemfd
from pymodel.host.gup import get_user_page, load, store
from pymodel.host.kernel import HostKernel, kernel_for
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Host, Process
from pymodel.host.swap import Swap
from pymodel.kvm import guest_memfd, notifier, roots, slot_ops
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, KvmEffect, TlbFlush, Wbinvd, run_kvm
from pymodel.kvm.fault import page_fault
from pymodel.kvm.hardware import PML_FULL, READ, WRITE, nested_walk
from pymodel.kvm.invariants import Held, InvariantError, check_entries, check_held, entries_of
from pymodel.kvm.memslots import GUEST_MEMFD, Memslot
from pymodel.kvm.pml import flush_buffer
from pymodel.kvm.spte import ADDRESS, WRITABLE, SpteFormat, pages
from pymodel.kvm.version import V6_12, KvmVersion
from pymodel.kvm.vm import KvmParams, Table, Vcpu, Vm
from pymodel.memory import PhysMem

__all__ = ["GuestError", "KvmNotifier", "Machine"]

T = TypeVar("T")
_OF_HOST = get_args(HostEffect)


class GuestError(Exception):
    """A guest access that KVM did not complete: it left to userspace with an error, or found no memory."""


class KvmNotifier:
    """KVM as an MMU notifier of the process (`pymodel.host.notifier.MmuNotifier`)."""

    def __init__(self, vm: Vm, stop: Callable[[], None]) -> None:
        """`stop`: the vCPUs' threads are gone and their TLBs with them, which is why a release flushes nothing."""
        self._vm = vm
        self._stop = stop

    def invalidate_range_start(self, start: int, end: int, event: MmuEvent) -> KvmAgent[None]:
        """kvm_mmu_notifier_invalidate_range_start; KVM does not look at the event."""
        return notifier.invalidate_range_start(self._vm, start, end)

    def invalidate_range_end(self, start: int, end: int, event: MmuEvent) -> KvmAgent[None]:
        """kvm_mmu_notifier_invalidate_range_end."""
        return notifier.invalidate_range_end(self._vm, start, end)

    def change_pte(self, hva: int, frame: int, writable: bool) -> KvmAgent[None]:
        """kvm_mmu_notifier_change_pte."""
        return notifier.change_pte(self._vm, hva, frame, writable)

    def clear_flush_young(self, start: int, end: int) -> KvmAgent[bool]:
        """kvm_mmu_notifier_clear_flush_young."""
        return notifier.clear_flush_young(self._vm, start, end)

    def clear_young(self, start: int, end: int) -> KvmAgent[bool]:
        """kvm_mmu_notifier_clear_young."""
        return notifier.clear_young(self._vm, start, end)

    def test_young(self, hva: int) -> KvmAgent[bool]:
        """kvm_mmu_notifier_test_young."""
        return notifier.test_young(self._vm, hva)

    def release(self) -> KvmAgent[None]:
        """kvm_mmu_notifier_release, called once no thread of the process runs any more."""
        self._stop()
        return roots.release(self._vm)


class _GmemSlot:
    """KVM as the user of a guest_memfd in one memslot (`pymodel.host.guest_memfd.GmemNotifier`)."""

    def __init__(self, vm: Vm, slot: int) -> None:
        self._vm, self._slot = vm, slot

    def _ranges(self, first: int, end: int) -> list[tuple[Memslot, int, int]]:
        slot = self._vm.slots.get(self._slot)
        if slot is None or first >= slot.npages:
            return []
        return [(slot, first, min(end, slot.npages))]

    def invalidate_begin(self, first: int, end: int) -> KvmAgent[None]:
        """kvm_gmem_invalidate_begin."""
        for found in self._ranges(first, end):
            yield from guest_memfd.invalidate_begin(self._vm, *found)

    def invalidate_end(self, first: int, end: int) -> KvmAgent[None]:
        """kvm_gmem_invalidate_end."""
        for found in self._ranges(first, end):
            yield from guest_memfd.invalidate_end(self._vm, *found)


class Machine:
    """Memory, host, process, VM and vCPUs; runs agents untimed."""

    def __init__(
        self,
        version: KvmVersion = V6_12,
        *,
        kernel: HostKernel | None = None,
        fmt: SpteFormat | None = None,
        params: KvmParams | None = None,
        base: int = 0x10_0000,
        frames: int = 1 << 14,
        swap: int = 1 << 12,
        hugetlb: Mapping[int, int] | None = None,
        vcpus: int = 1,
        cached: bool = False,
    ) -> None:
        """`frames` 4K pages of memory from frame `base`, then `swap` slots; `hugetlb`: pool sizes by level (2, 3).

        `kernel` is the host's side of `version` if not given. With `cached`, all CPU accesses go through a CPU cache
        that devices may or may not snoop. Raises the errors of `Frames`, `HugetlbPool` and `KvmParams`.
        """
        if kernel is None:
            major, minor = version.name.split(".")
            kernel = kernel_for((int(major), int(minor)))
        self.memory = PhysMem()
        self.cache = CpuCache(self.memory) if cached else None
        allocator = Frames(base, frames)
        pools = [HugetlbPool(allocator, level, count) for level, count in (hugetlb or {}).items()]
        self.host = Host(allocator, kernel=kernel, swap=Swap(base + frames, swap), pools=pools)
        self.process: Process = self.host.new_process()
        self.on_effect: list[Callable[[Any], None]] = []
        """Called with every effect that is not a plain memory access, before it is done."""
        self._tables: dict[int, Any] = {}
        self._tlb: dict[int, dict[int, tuple[int, bool]]] = {}
        """vCPU -> gfn -> (frame, whether writes may use it: W and D were set)."""
        self._flushes = 0
        self._private: dict[int, GuestMemfd] = {}
        """guest_memfd of the memslots that have one."""
        self._tlb_root: dict[int, Table | None] = {}
        self.vm = Vm(version, self, self._new_table, fmt=fmt, params=params, release=self._free_table)
        for ident in range(vcpus):
            self.vm.vcpus.append(Vcpu(ident))
            self._tlb[ident] = {}
        self.process.notifiers.append(KvmNotifier(self.vm, self._flush))

    @property
    def cpu(self) -> Words:
        """Memory as the CPUs see it."""
        return self.memory if self.cache is None else self.cache

    # --- what KVM needs of the host ------------------------------------------------------------------------

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """`pymodel.kvm.vm.Host`: the level at which the process maps the page now."""
        return self.process.mapping_level(slot.hva_of(gfn))

    def _new_table(self) -> int:
        folio = self.host.frames.allocate(0)
        for offset in range(0, 4096, 8):
            self.cpu.store((folio.frame << 12) + offset, 0)
        self._tables[folio.frame] = folio
        return folio.frame

    def _free_table(self, frame: int) -> None:
        folio = self._tables.pop(frame)
        folio.refs = 0
        self.host.frames.release(folio)

    # --- running agents ------------------------------------------------------------------------------------

    def run(self, agent: Generator[Any, Any, T]) -> T:
        """Run an agent of host, KVM or guest to its end, every effect at once, and return what it returns."""
        return run_kvm(self.resolved(agent), self.cpu, self.handle)

    def resolved(self, agent: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        """The same agent with its `HostFault` answered by the process, whose own effects come in their place."""
        return changed(agent, lambda effect: self._host_page(effect) if isinstance(effect, HostFault) else None)

    def _host_page(self, fault: HostFault) -> HostAgent[HostPage]:
        if fault.private:
            return (yield from self._private_page(fault))
        page = yield from get_user_page(self.process, fault.hva, write=fault.write)
        return HostPage(page.frame, page.writable)

    def _private_page(self, fault: HostFault) -> HostAgent[HostPage]:
        slot, file = self.vm.slots.get(fault.slot), self._private.get(fault.slot)
        if slot is None or file is None:
            return HostPage(None)
        found = yield from file.page((fault.hva - slot.hva) >> 12)
        return HostPage(None) if found is None else HostPage(found[0], writable=True, max_level=found[1])

    def handle(self, effect: KvmEffect | Any) -> Any:
        """Do one effect that is no plain memory access; for drivers that run `resolved` agents step by step."""
        for observer in self.on_effect:
            observer(effect)
        if isinstance(effect, TlbFlush):
            self._flush()
            return None
        if isinstance(effect, Wbinvd) and self.cache is not None:
            self.cache.wbinvd()
            return None
        return perform(effect, self.cpu) if isinstance(effect, _OF_HOST) else None

    def _flush(self) -> None:
        """No vCPU's TLB holds anything any more."""
        self._flushes += 1
        for held in self._tlb.values():
            held.clear()

    # --- userspace and guest -------------------------------------------------------------------------------

    def add_slot(
        self, ident: int, gfn: int, npages: int, hva: int, flags: int = 0, *, private: GuestMemfd | None = None
    ) -> None:
        """KVM_SET_USER_MEMORY_REGION2 of a new slot: `npages` from `gfn` show the memory at `hva`.

        `private`: the file behind gfns that are private. Raises `KvmError` where KVM refuses the slot.
        """
        kind = flags if private is None else flags | GUEST_MEMFD
        self.run(slot_ops.create(self.vm, Memslot(ident, gfn, npages, hva, kind)))
        if private is not None:
            self._private[ident] = private
            private.notifiers.append(_GmemSlot(self.vm, ident))

    def load(self, hva: int) -> int:
        """The process reads a 64-bit word of its own memory. Raises `Signal`."""
        return self.run(load(self.process, hva))

    def store(self, hva: int, value: int) -> None:
        """The process writes a 64-bit word. Raises `Signal`."""
        self.run(store(self.process, hva, value))

    def read(self, gpa: int, vcpu: int = 0) -> int:
        """The guest reads a 64-bit word. Raises `GuestError`."""
        return self.run(self.guest_load(gpa, vcpu))

    def write(self, gpa: int, value: int, vcpu: int = 0) -> None:
        """The guest writes a 64-bit word. Raises `GuestError`."""
        self.run(self.guest_store(gpa, value, vcpu))

    def guest_load(self, gpa: int, vcpu: int = 0) -> KvmAgent[int]:
        """Agent of a guest load."""
        address = yield from self._reach(self.vm.vcpus[vcpu], gpa, READ)
        value: int = yield Load(address)
        return value

    def guest_store(self, gpa: int, value: int, vcpu: int = 0) -> KvmAgent[None]:
        """Agent of a guest store."""
        address = yield from self._reach(self.vm.vcpus[vcpu], gpa, WRITE)
        yield Store(address, value)

    def _reach(self, vcpu: Vcpu, gpa: int, kind: str) -> KvmAgent[int]:
        """Enter the guest and translate, faulting as needed; the TLB is looked at first and filled last.

        A flush that comes in the middle of a walk makes the CPU walk again: it had to leave the guest for it.
        """
        while True:
            yield from roots.prepare_entry(self.vm, vcpu)
            root = vcpu.root
            assert root is not None
            tlb = self._tlb[vcpu.ident]
            if self._tlb_root.get(vcpu.ident) is not root:
                tlb.clear()
                self._tlb_root[vcpu.ident] = root
            held = tlb.get(gpa >> 12)
            if held is not None and (held[1] or kind == READ):
                return held[0] << 12 | gpa & 0xFFF
            flushes = self._flushes
            log = vcpu.pml if vcpu.pml_enabled else None
            error = yield from nested_walk(self.vm.fmt, root, gpa, kind, log=log)
            if error is None:
                found = yield from self._leaf(root, gpa)
                if found is None or flushes != self._flushes:
                    continue
                tlb[gpa >> 12] = found[0], kind == WRITE
                return found[0] << 12 | gpa & 0xFFF
            yield from flush_buffer(self.vm, vcpu)
            if error == PML_FULL:
                continue
            outcome = yield from page_fault(self.vm, vcpu, gpa, error)
            if outcome.error or outcome.emulate:
                what = f"errno {outcome.error}" if outcome.error else "no memory that it may use"
                raise GuestError(f"{kind} of gpa {gpa:#x}: {what}")

    def _leaf(self, root: Table, gpa: int) -> KvmAgent[tuple[int, bool] | None]:
        """(4K frame, W) of the live leaf over `gpa`."""
        fmt, level = self.vm.fmt, root.level
        table = root.frame << 12
        while True:
            value: int = yield Load(table + 8 * (gpa >> 12 + 9 * (level - 1) & 511))
            if not fmt.is_present(value) or not value & fmt.hw_present:
                return None
            if fmt.is_leaf(value, level):
                return fmt.pfn(value) + (gpa >> 12 & pages(level) - 1), bool(value & WRITABLE)
            table, level = value & ADDRESS, level - 1

    # --- devices that walk KVM's table ---------------------------------------------------------------------

    def dma_read(self, gpa: int, *, snooped: bool = True) -> int | None:
        """A device reads a 64-bit word through the nested table of vCPU 0; None where it may not."""
        address = self._dma_address(gpa, False)
        if address is None or self.cache is None:
            return None if address is None else self.memory.load(address)
        return self.cache.read_snooped(address) if snooped else self.cache.read_unsnooped(address)

    def dma_write(self, gpa: int, value: int, *, snooped: bool = True) -> bool:
        """A device writes a 64-bit word; False where it may not."""
        address = self._dma_address(gpa, True)
        if address is None:
            return False
        if self.cache is None:
            self.memory.store(address, value)
        elif snooped:
            self.cache.write_snooped(address, value)
        else:
            self.cache.write_unsnooped(address, value)
        return True

    def _dma_address(self, gpa: int, write: bool) -> int | None:
        """The table itself is read coherently, whatever the device does (an IOMMU with page-walk coherency)."""
        root = self.vm.vcpus[0].root
        found = None if root is None else self.run(self._leaf(root, gpa))
        return None if found is None or (write and not found[1]) else found[0] << 12 | gpa & 0xFFF

    # --- what must hold ------------------------------------------------------------------------------------

    def check(self) -> None:
        """I1 to I5 of facts C12 over every root, I7 over the TLBs, with nothing running. Raises `InvariantError`."""
        for root in self.vm.roots:
            found = dict(entries_of(self.vm, root, self.cpu.load))
            check_entries(self.vm, root, found, settled=True)
            for (level, gfn), value in found.items():
                if self.vm.fmt.is_present(value) and self.vm.fmt.is_leaf(value, level):
                    self._check_backing(root, level, gfn, value)
        held = [Held(f"the TLB of vCPU {ident}, gfn {gfn:#x},", frame)
                for ident, entries in self._tlb.items() for gfn, (frame, _) in entries.items()]  # fmt: skip
        check_held(held, {one.frame for one in held if self.host.frames.is_free(one.frame)})

    def _check_backing(self, root: Table, level: int, gfn: int, value: int) -> None:
        """I1 and I5 against the process: same page, at least as large a mapping, writable only if the host's is."""
        slot = self.vm.slots.find(gfn, root.as_id)
        if slot is None or root.invalid:
            return
        hva = slot.hva_of(gfn)
        if gfn in self.vm.private:
            self._check_private(slot, level, gfn, value)
            return
        entry = self.process.table.lookup(hva)
        place = f"level {level} gfn {gfn:#x} value {value:#x}"
        if entry is None or not entry.present or entry.level < level or entry.pfn(hva) != self.vm.fmt.pfn(value):
            raise InvariantError(f"I1: the process maps hva {hva:#x} as {entry}, the guest as {place}")
        if value & WRITABLE and not entry.writable:
            raise InvariantError(f"I5: writable, but hva {hva:#x} is not: {place}")

    def _check_private(self, slot: Memslot, level: int, gfn: int, value: int) -> None:
        file = self._private.get(slot.ident)
        found = None if file is None else file.find(gfn - slot.base_gfn)
        if found is None or found[0] != self.vm.fmt.pfn(value) or found[1].level < level:
            raise InvariantError(f"I1: private gfn {gfn:#x} has {found}, the guest level {level} value {value:#x}")

    def check_reuse(self, effect: Any) -> None:
        """I7 at the very moment, for `on_effect`: a page may be reused only when no TLB holds it."""
        if isinstance(effect, PageReused):
            held = [Held(f"the TLB of vCPU {ident}", frame)
                    for ident, entries in self._tlb.items() for frame, _ in entries.values()]  # fmt: skip
            check_held(held, range(effect.frame, effect.frame + effect.count))
