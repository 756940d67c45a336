"""madvise: DONTNEED, COLD, PAGEOUT, HUGEPAGE, MERGEABLE and their opposites (mm/madvise.c)."""

from collections.abc import Callable, Iterator

from pymodel.host import entries
from pymodel.host.effects import HostAgent, MmapLock, MmapUnlock
from pymodel.host.errors import BadRange
from pymodel.host.frames import Folio
from pymodel.host.ksm import unmerge
from pymodel.host.mapping import split_at
from pymodel.host.notifier import MmuEvent
from pymodel.host.page_table import HostEntry
from pymodel.host.process import Process, check_range
from pymodel.host.reclaim import reclaim
from pymodel.host.split import split_folio
from pymodel.host.vma import Vma
from pymodel.host.zap import zap_single

__all__ = ["cold", "dont_need", "free", "huge_page", "mergeable", "no_huge_page", "page_out", "unmergeable"]


def dont_need(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_DONTNEED: entries go, one start and end for each mapping; the next touch finds fresh or file pages.

    On hugetlb the range is rounded down to whole pages. Raises `BadRange` for a start inside a hugetlb page, a
    hole (ENOMEM, after the rest was done in Linux; here before), part of a page.
    """
    end = check_range(start, length)
    vmas = mm.vmas.covering(start, end)
    for vma in vmas:
        if max(start, vma.start) % entries.page_size(vma.level):
            raise BadRange(f"hva {start:#x} lies inside a {vma.kind} page")
    yield MmapLock(mm.ident, False)
    for vma in vmas:
        size = entries.page_size(vma.level)
        low, high = max(start, vma.start), min(end, vma.end) & ~(size - 1)
        if low < high:
            yield from zap_single(mm, vma, low, high)
    yield MmapUnlock(mm.ident, False)


def cold(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_COLD: A is cleared in the process's own entries; no notifier is asked, so a guest's accesses stay noted.

    Huge pages are split as for `page_out`. Raises `BadRange` for hugetlb (EINVAL) and holes.
    """
    end = check_range(start, length)
    vmas = _with_lru(mm, start, end)
    yield MmapLock(mm.ident, False)
    for low, high in _tables(vmas, start, end):
        yield from _split_parts(mm, low, high)
        _make_old(mm, low, high)
    yield MmapUnlock(mm.ident, False)


def _split_parts(mm: Process, start: int, end: int) -> HostAgent[None]:
    """madvise_cold_or_pageout_pte_range: huge pages of this process alone of which only a part is meant, or mapped.

    From 6.10 on a page stays whole that 512 entries of one table map, all of them in the range.
    """
    found: dict[Folio, list[int]] = {}
    for entry in mm.table.leaves(start, end):
        folio = mm.folio_at(entry.hva, entry.level)
        whole = entry.level == 2 and start <= entry.hva and entry.hva + entries.page_size(2) <= end
        if folio is not None and _is_mapped(entry) and folio.order and not whole:
            found.setdefault(folio, []).append(entry.hva)
    for folio, places in found.items():
        stays = mm.host.kernel.huge_parts_stay and len(places) == folio.count and places[0] >> 21 == places[-1] >> 21
        if not stays and all(other is mm for other, _ in folio.mappings):
            yield from split_folio(mm.host, folio)


def _is_mapped(entry: HostEntry) -> bool:
    """pte_present: a page is there, though PROT_NONE may hide it."""
    return entries.mapped_frame(entry.value) is not None


def _make_old(mm: Process, start: int, end: int, *, forget: bool = True) -> list[Folio]:
    """The pages that lie whole in the range and that only this process maps; with `forget`, A of them is cleared."""
    found: dict[Folio, list[HostEntry]] = {}
    for entry in mm.table.leaves(start, end):
        folio = mm.folio_at(entry.hva, entry.level)
        if folio is None or not _is_mapped(entry):
            continue
        if entry.hva >= start and entry.hva + entries.page_size(entry.level) <= end:
            found.setdefault(folio, []).append(entry)
    taken = []
    for folio, places in found.items():
        # A huge page of which only a part is here could not be split.
        whole = folio.order == 0 or sum(entries.pages(entry.level) for entry in places) == folio.count
        if not whole or any(other is not mm for other, _ in folio.mappings):
            continue
        for entry in places:
            if forget:
                mm.table.set(entry.level, entry.hva, entry.value & ~entries.ACCESSED)
        folio.young = False
        taken.append(folio)
    return taken


def free(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_FREE: between a start and an end, A and D are cleared and swapped pages dropped; reads may find zero later.

    Huge pages are split first as for `cold`; what other processes map as well is left as it is. The model never takes
    a freed page before the process or the guest writes to it again: a kernel that is not short of memory. Raises
    `BadRange` for memory that is not anonymous.
    """
    end = check_range(start, length)
    vmas = mm.vmas.covering(start, end)
    for vma in vmas:
        if not vma.anonymous:
            raise BadRange(f"the mapping at {vma.start:#x} must be anonymous, not {vma.kind}")
    yield MmapLock(mm.ident, False)
    for vma in vmas:
        low, high = max(start, vma.start), min(end, vma.end)
        yield from mm.invalidate_start(low, high, MmuEvent.CLEAR)
        yield from _split_parts(mm, low, high)
        for entry in mm.table.leaves(low, high):
            if entries.is_swap(entry.value):
                yield mm.write_entry(entry.hva, 1, 0)
                yield from mm.host.put_slot(mm.host.swap.slot(entries.swap_number(entry.value)))
            elif _may_be_freed(mm, entry, low, high):
                yield mm.write_entry(entry.hva, entry.level, entries.clean_and_old(entry.value))
        yield from mm.invalidate_end(low, high, MmuEvent.CLEAR)
    yield MmapUnlock(mm.ident, False)


def _may_be_freed(mm: Process, entry: HostEntry, low: int, high: int) -> bool:
    """madvise_free_pte_range, madvise_free_huge_pmd: no zero page, and no huge page that could not be split."""
    folio = mm.folio_at(entry.hva, entry.level) if _is_mapped(entry) else None
    if folio is None or entry.hva < low or entry.hva + entries.page_size(entry.level) > high:
        return False
    if folio.order == 0:
        return True
    return all(other is mm for other, _ in folio.mappings) and (entry.level == 2 or mm.host.kernel.huge_parts_stay)


def page_out(mm: Process, start: int, length: int) -> HostAgent[int]:
    """MADV_PAGEOUT: reclaim now what only this process maps; how many 4K pages went.

    Two megabytes after the other: huge pages are split as for `cold`, then what is there goes. Before 6.9 pages that
    the guest touched get a second chance. Raises `BadRange` for hugetlb (EINVAL) and holes.
    """
    end = check_range(start, length)
    vmas = _with_lru(mm, start, end)
    yield MmapLock(mm.ident, False)
    done, ages = 0, mm.host.kernel.pageout_ages
    for low, high in _tables(vmas, start, end):
        yield from _split_parts(mm, low, high)
        folios = _make_old(mm, low, high, forget=ages)
        done += yield from reclaim(mm.host, folios, ages=ages)
    yield MmapUnlock(mm.ident, False)
    return done


def _with_lru(mm: Process, start: int, end: int) -> list[Vma]:
    """can_madv_lru_vma: the mappings of the range, none of which may be hugetlb."""
    vmas = mm.vmas.covering(start, end)
    for vma in vmas:
        if vma.pool is not None:
            raise BadRange(f"the mapping at {vma.start:#x} must not be {vma.kind}")
    return vmas


def _tables(vmas: list[Vma], start: int, end: int) -> Iterator[tuple[int, int]]:
    """The range cut at the mappings and at every 2 MiB, as the walk meets the tables."""
    for vma in vmas:
        low, last = max(start, vma.start), min(end, vma.end)
        while low < last:
            high = min(last, (low >> 21) + 1 << 21)
            yield low, high
            low = high


def huge_page(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_HUGEPAGE: anonymous memory of the range takes huge pages from now on. Raises `BadRange` for other kinds."""
    yield from _set_kind(mm, start, length, "thp")


def no_huge_page(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_NOHUGEPAGE: no new huge pages; those that are mapped stay. Raises `BadRange` for other kinds."""
    yield from _set_kind(mm, start, length, "anon4k")


def _set_kind(mm: Process, start: int, length: int, kind: str) -> HostAgent[None]:
    def change(vma: Vma) -> None:
        vma.kind, vma.no_huge = kind, kind == "anon4k"

    yield from _change_vmas(mm, start, length, change, lambda vma: (vma.kind, vma.no_huge) != (kind, kind == "anon4k"))


def mergeable(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_MERGEABLE: KSM may share pages of the range. Raises `BadRange` for memory that is not anonymous."""

    def change(vma: Vma) -> None:
        vma.mergeable = True

    yield from _change_vmas(mm, start, length, change, lambda vma: not vma.mergeable)


def unmergeable(mm: Process, start: int, length: int) -> HostAgent[None]:
    """MADV_UNMERGEABLE: every page that KSM shares is copied again."""

    def change(vma: Vma) -> None:
        vma.mergeable = False

    yield from _change_vmas(mm, start, length, change, lambda vma: vma.mergeable, unmerge)


def _change_vmas(
    mm: Process,
    start: int,
    length: int,
    change: Callable[[Vma], None],
    differs: Callable[[Vma], bool],
    prepare: Callable[[Process, int, int], HostAgent[None]] | None = None,
) -> HostAgent[None]:
    """madvise_vma_behavior: prepare each part, cut at the edges of the range, change, join what is alike."""
    end = check_range(start, length)
    for vma in mm.vmas.covering(start, end):
        if not vma.anonymous:
            raise BadRange(f"the mapping at {vma.start:#x} must be anonymous, not {vma.kind}")
    yield MmapLock(mm.ident, True)
    for vma in mm.vmas.touching(start, end):
        if not differs(vma):
            continue
        low, high = max(start, vma.start), min(end, vma.end)
        if prepare is not None:
            yield from prepare(mm, low, high)
        yield from split_at(mm, low)
        yield from split_at(mm, high)
        part = mm.vmas.find(low)
        assert part is not None
        change(part)
    mm.vmas.merge(start, end)
    yield MmapUnlock(mm.ident, True)
