"""Taking entries away: the walk that munmap, DONTNEED, truncation and exit share (mm/memory.c unmap_page_range)."""

from dataclasses import dataclass, field

from pymodel.host import entries
from pymodel.host.effects import HostAgent
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Host, Process
from pymodel.host.split import split_entry
from pymodel.host.vma import Vma

__all__ = ["Gather", "unmap_pages", "zap_range", "zap_single"]


@dataclass(slots=True)
class Gather:
    """struct mmu_gather: pages whose entries are gone; their references are dropped behind the TLB flush."""

    folios: list[Folio] = field(default_factory=list)

    def finish(self, host: Host) -> HostAgent[None]:
        """tlb_finish_mmu."""
        for folio in self.folios:
            yield from host.put(folio)
        self.folios.clear()


def zap_range(
    mm: Process, vma: Vma, start: int, end: int, gather: Gather, *, copies: bool = True
) -> HostAgent[None]:
    """unmap_single_vma: clear every entry in the part of the range that lies in `vma`; a huge page at an edge is split.

    Without `copies`, private copies of file pages stay. The caller calls the notifiers around it. Raises `BadRange`
    inside a hugetlb page, which callers rule out.
    """
    start, end = max(start, vma.start), min(end, vma.end)
    nested = vma.pool is not None and mm.host.kernel.nested_hugetlb_unmap
    if nested:
        yield from mm.invalidate_start(*vma.announced(start, end), MmuEvent.UNMAP)
    for entry in mm.table.walk(start, end):
        last = entry.hva + entries.page_size(entry.level)
        if not copies:
            page = mm.folio_at(entry.hva, entry.level)
            if page is None or page.anonymous:
                continue
        if start <= entry.hva and last <= end:
            yield from _zap_entry(mm, entry.hva, entry.level, gather)
            continue
        yield from split_entry(mm, entry.hva)
        for part in mm.table.leaves(max(start, entry.hva), min(end, last)):
            yield from _zap_entry(mm, part.hva, part.level, gather)
    if nested:
        yield from mm.invalidate_end(*vma.announced(start, end), MmuEvent.UNMAP)


def _zap_entry(mm: Process, hva: int, level: int, gather: Gather) -> HostAgent[None]:
    value = mm.table.value(level, hva)
    if not value:
        return
    change, folio = mm.unmap_page(hva, level)
    if folio is not None:
        gather.folios.append(folio)
    yield change
    if entries.is_swap(value):
        yield from mm.host.put_slot(mm.host.swap.slot(entries.swap_number(value)))


def zap_single(mm: Process, vma: Vma, start: int, end: int, *, copies: bool = True) -> HostAgent[None]:
    """zap_page_range_single: one VMA, between a start and an end of CLEAR; then the pages are freed."""
    gather = Gather()
    yield from mm.invalidate_start(*vma.announced(start, end), MmuEvent.CLEAR)
    own = _own_hugetlb(mm, vma, start, end)
    yield from zap_range(mm, vma, start, end, gather, copies=copies)
    yield from mm.invalidate_end(*vma.announced(start, end), MmuEvent.CLEAR)
    yield from gather.finish(mm.host)
    for hva in own:
        if vma.pool is not None and vma.reserve is not None and vma.pool.free > vma.pool.reserved:
            vma.pool.reserve(1)
            vma.reserve.add(hva)


def _own_hugetlb(mm: Process, vma: Vma, start: int, end: int) -> list[int]:
    """Where the owner of the reservations has pages that nobody else uses (__vma_private_lock)."""
    if not mm.host.kernel.hugetlb_reserves_again or vma.reserve is None:
        return []
    found = [(entry.hva, mm.folio_at(entry.hva, entry.level)) for entry in mm.table.leaves(start, end)]
    return [hva for hva, folio in found if folio is not None and folio.refs == 1 and not folio.temporary]


def unmap_pages(mm: Process, vma: Vma, start: int, end: int) -> HostAgent[None]:
    """unmap_mapping_range, unmap_hugepage_range in one VMA: the pages of its file go, or those of its hugetlb memory.

    Where unmapping hugetlb pages calls the notifiers by itself, nobody else does.
    """
    if vma.pool is not None and mm.host.kernel.nested_hugetlb_unmap:
        gather = Gather()
        yield from zap_range(mm, vma, start, end, gather)
        yield from gather.finish(mm.host)
    else:
        yield from zap_single(mm, vma, start, end, copies=vma.pool is not None)
