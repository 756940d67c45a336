"""The host's memory and a process (struct mm_struct): mappings, page table, reverse map, MMU notifiers (facts C2).

Conventions of all agents of this package:
- an entry changes together with the reverse map and the references, then `HostPteChanged` is yielded;
- who frees pages does so behind invalidate_range_end at the latest, never before the entry is gone;
- addresses `hva` are bytes, `start`..`end` half-open and multiples of 4096.
"""

from collections.abc import Iterable

from pymodel.host import entries
from pymodel.host.effects import HostAgent, HostPteChanged, PageReused
from pymodel.host.errors import BadRange, DoubleFree
from pymodel.host.files import HugetlbPool
from pymodel.host.frames import Folio, Frames
from pymodel.host.kernel import HOST_6_12, HostKernel
from pymodel.host.notifier import MmuEvent, MmuNotifier
from pymodel.host.page_table import HostEntry, HostPageTable
from pymodel.host.swap import Slot, Swap
from pymodel.host.vma import VmaMap

__all__ = ["Host", "Process", "check_range"]


class Host:
    """What all processes share: frames, swap, zero pages, hugetlb pools, the deferred-split queue."""

    def __init__(
        self,
        frames: Frames,
        *,
        kernel: HostKernel = HOST_6_12,
        swap: Swap | None = None,
        pools: Iterable[HugetlbPool] = (),
    ) -> None:
        """Memory must read as zero when the host starts: the zero pages are taken as they are."""
        self.frames = frames
        self.kernel = kernel
        self.swap = Swap(frames.base + frames.count, 0) if swap is None else swap
        self.pools = {pool.level: pool for pool in pools}
        self.zero = frames.allocate(0)
        """The zero page; entries that map it hold no reference."""
        self.huge_zero: Folio | None = None
        """The huge zero page, once a read asked for it."""
        self.processes: dict[int, Process] = {}
        self.deferred: dict[Folio, None] = {}
        """Huge pages of which a part is unmapped (deferred_split_folio)."""
        self.ksm_pages: dict[Folio, tuple[int, ...]] = {}
        """KSM's stable tree: pages shared by content -> the 512 words of that content, which nobody can change."""
        self.ksm_by_content: dict[tuple[int, ...], Folio] = {}
        self._next_ident = 1

    def is_zero(self, frame: int) -> bool:
        """is_zero_pfn, is_huge_zero_page."""
        huge = self.huge_zero
        return frame == self.zero.frame or (huge is not None and huge.frame <= frame < huge.frame + huge.count)

    def keep_huge_zero(self, folio: Folio) -> Folio:
        """The huge zero page: `folio`, which is clear, unless another was faster."""
        if self.huge_zero is None:
            self.huge_zero = folio
        return self.huge_zero

    def new_process(self) -> "Process":
        """An empty address space."""
        process = Process(self, self._next_ident)
        self.processes[process.ident] = process
        self._next_ident += 1
        return process

    def put(self, folio: Folio) -> HostAgent[None]:
        """folio_put: drop a reference; the last frees the page. Raises `DoubleFree`."""
        folio.refs -= 1
        if folio.refs < 0:
            raise DoubleFree(f"a reference to frame {folio.frame:#x} was dropped twice")
        if folio.refs:
            return
        self.deferred.pop(folio, None)
        if folio.ksm:
            del self.ksm_by_content[self.ksm_pages.pop(folio)]
        yield PageReused(folio.frame, folio.count)
        if folio.pool is not None and not folio.temporary:
            folio.pool.give_back(folio)
        else:
            self.frames.release(folio)

    def put_slot(self, slot: Slot) -> HostAgent[None]:
        """swap_free: drop a reference; the last frees the slot and takes the page out of the swap cache.

        While somebody works on the page the slot stays (SWAP_HAS_CACHE), for `free_unused_slots`.
        """
        slot.refs -= 1
        if slot.refs < 0:
            raise DoubleFree(f"swap slot {slot.number} was dropped twice")
        if slot.refs == 0 and (slot.folio is None or not slot.folio.locked):
            yield from self._free_slot(slot)

    def free_unused_slots(self, folio: Folio) -> HostAgent[None]:
        """folio_free_swap: slots that nothing names any more, of a page that is not locked any more."""
        for slot in list(folio.slots.values()):
            if slot.refs == 0:
                yield from self._free_slot(slot)

    def _free_slot(self, slot: Slot) -> HostAgent[None]:
        folio = slot.detach()
        self.swap.release(slot)
        if folio is not None:
            yield from self.put(folio)


class Process:
    """One address space. Registered notifiers are called in their order."""

    def __init__(self, host: Host, ident: int) -> None:
        self.host = host
        self.ident = ident
        self.vmas = VmaMap()
        self.table = HostPageTable()
        self.pte_tables: set[int] = set()
        """hva >> 21 where a table of 4K entries exists; it stays when its entries go, and keeps huge pages out."""
        self.pmd_tables: set[int] = set()
        """hva >> 30 where a table of 2M entries exists."""
        self.notifiers: list[MmuNotifier] = []

    # --- entries -------------------------------------------------------------------------------------------

    def write_entry(self, hva: int, level: int, value: int) -> HostPteChanged:
        """Set (0: clear) one entry and give the effect that says so; the caller keeps the reverse map true."""
        old = self.table.value(level, hva)
        if value:
            self.table.set(level, hva, value)
            if level == 1:
                self.pte_tables.add(hva >> 21)
            self.pmd_tables.add(hva >> 30)
        else:
            self.table.clear(level, hva)
        return HostPteChanged(self.ident, hva, level, old, value)

    def map_page(self, hva: int, level: int, value: int, folio: Folio) -> HostPteChanged:
        """Map a page where none was: entry, reverse map, reference."""
        if self.folio_at(hva, level) is not None:
            raise DoubleFree(f"process {self.ident} maps {hva:#x} twice")
        folio.mappings[self, hva] = level
        folio.refs += 1
        return self.write_entry(hva, level, value)

    def unmap_page(self, hva: int, level: int, value: int = 0) -> tuple[HostPteChanged, Folio | None]:
        """Replace an entry that has a page by `value`; the caller drops the reference of the page it is given.

        None for the zero page, swap entries and empty entries, which have none.
        """
        folio = self.folio_at(hva, level)
        if folio is not None:
            self._forget(folio, hva, level)
        return self.write_entry(hva, level, value), folio

    def replace_page(self, hva: int, level: int, value: int, folio: Folio) -> tuple[HostPteChanged, Folio | None]:
        """Map `folio` in the place of another page, whose reference the caller drops."""
        old = self.folio_at(hva, level)
        if old is not None:
            self._forget(old, hva, level)
        folio.mappings[self, hva] = level
        folio.refs += 1
        return self.write_entry(hva, level, value), old

    def _forget(self, folio: Folio, hva: int, level: int) -> None:
        """folio_remove_rmap; a huge page that loses a part waits for being split."""
        del folio.mappings[self, hva]
        if level == 1 and folio.order:
            self.host.deferred[folio] = None

    def folio_at(self, hva: int, level: int) -> Folio | None:
        """The page of an entry, also while it migrates; None if it has none, or the zero page."""
        value = self.table.value(level, hva)
        if entries.is_migration(value):
            return self.host.frames.folio(entries.migration_frame(value))
        frame = entries.mapped_frame(value)
        return None if frame is None or self.host.is_zero(frame) else self.host.frames.folio(frame)

    def mapping_level(self, hva: int) -> int:
        """Level (1, 2, 3) of the present entry that maps `hva`, 1 if none does (host_pfn_mapping_level)."""
        entry = self.table.lookup(hva)
        return entry.level if entry is not None and entry.present else 1

    def huge_entry(self, hva: int) -> HostEntry | None:
        """The 2M entry around `hva`."""
        value = self.table.value(2, hva)
        return HostEntry(hva >> 21 << 21, 2, value) if value else None

    # --- notifiers -----------------------------------------------------------------------------------------

    def invalidate_start(self, start: int, end: int, event: MmuEvent) -> HostAgent[None]:
        """mmu_notifier_invalidate_range_start."""
        for notifier in self.notifiers:
            yield from notifier.invalidate_range_start(start, end, event)

    def invalidate_end(self, start: int, end: int, event: MmuEvent) -> HostAgent[None]:
        """mmu_notifier_invalidate_range_end."""
        for notifier in self.notifiers:
            yield from notifier.invalidate_range_end(start, end, event)

    def change_pte(self, hva: int, frame: int, writable: bool) -> HostAgent[None]:
        """The notifier half of set_pte_at_notify, in kernels that have it."""
        if self.host.kernel.has_change_pte:
            for notifier in self.notifiers:
                yield from notifier.change_pte(hva, frame, writable)

    def clear_flush_young(self, start: int, end: int) -> HostAgent[bool]:
        """mmu_notifier_clear_flush_young."""
        young = False
        for notifier in self.notifiers:
            if (yield from notifier.clear_flush_young(start, end)):
                young = True
        return young

    def clear_young(self, start: int, end: int) -> HostAgent[bool]:
        """mmu_notifier_clear_young."""
        young = False
        for notifier in self.notifiers:
            if (yield from notifier.clear_young(start, end)):
                young = True
        return young

    def test_young(self, hva: int) -> HostAgent[bool]:
        """mmu_notifier_test_young; the first that says yes ends the search."""
        for notifier in self.notifiers:
            if (yield from notifier.test_young(hva)):
                return True
        return False


def check_range(start: int, length: int, level: int = 1) -> int:
    """The end of a range of whole pages of `level`. Raises `BadRange` (EINVAL)."""
    size = entries.page_size(level)
    if start < 0 or start % size or length <= 0 or length % size or start + length > 1 << 47:
        raise BadRange(f"range must be whole pages of {size:#x} bytes below 2**47, not {length:#x} at hva {start:#x}")
    return start + length
