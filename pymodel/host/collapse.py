"""MADV_COLLAPSE and khugepaged: 512 small pages become one huge page (mm/khugepaged.c)."""

from enum import Enum

from pymodel.host import entries
from pymodel.host.effects import ClearPage, CopyPage, HostAgent, MmapLock, MmapUnlock
from pymodel.host.errors import OutOfMemory
from pymodel.host.fault import handle_fault
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process, check_range
from pymodel.host.regions import holds_huge

__all__ = ["Collapsed", "collapse"]

_HUGE = 1 << 21


class Collapsed(Enum):
    """How it ended (enum scan_result)."""

    DONE = "collapsed"
    ALREADY = "a huge page is mapped there already"
    UNSUITABLE = "not 2 MiB of one anonymous mapping, or MADV_NOHUGEPAGE (EINVAL)"
    EMPTY = "nothing is mapped there (EINVAL)"
    READ_ONLY = "no page may be written (EINVAL)"
    BUSY = "a page is in use, or cannot be brought back (EAGAIN)"
    NO_MEMORY = "no huge page is free (ENOMEM)"


def collapse(mm: Process, start: int, length: int) -> HostAgent[list[Collapsed]]:
    """MADV_COLLAPSE: the result of every 2 MiB that lies whole in the range."""
    end = check_range(start, length)
    results = []
    for base in range(start + _HUGE - 1 & ~(_HUGE - 1), end - _HUGE + 1, _HUGE):
        results.append((yield from _collapse(mm, base)))
    return results


def _collapse(mm: Process, base: int) -> HostAgent[Collapsed]:
    """collapse_huge_page: look, allocate, swap in; then, alone with the mapping: clear, copy, map."""
    host = mm.host
    vma = mm.vmas.find(base)
    if vma is None or not vma.anonymous or vma.no_huge or not holds_huge(vma.start, vma.end, base):
        return Collapsed.UNSUITABLE
    if mm.table.value(2, base):
        return Collapsed.ALREADY
    reason = _scan(mm, base)
    if reason is not None:
        return reason
    try:
        new = host.frames.allocate(9, anonymous=True)
    except OutOfMemory:
        return Collapsed.NO_MEMORY
    yield MmapLock(mm.ident, False)
    back = yield from _swap_in_all(mm, base)
    yield MmapUnlock(mm.ident, False)
    if not back:
        yield from host.put(new)
        return Collapsed.BUSY
    yield MmapLock(mm.ident, True)
    same = mm.vmas.find(base) is vma and not vma.no_huge and holds_huge(vma.start, vma.end, base)
    done = same and not mm.table.value(2, base) and (yield from _replace(mm, base, new))
    yield MmapUnlock(mm.ident, True)
    yield from host.put(new)
    return Collapsed.DONE if done else Collapsed.BUSY


def _scan(mm: Process, base: int) -> Collapsed | None:
    """hpage_collapse_scan_pmd: why the pages cannot be collapsed, before anybody is told."""
    found = mm.table.leaves(base, base + _HUGE)
    if not found:
        return Collapsed.EMPTY
    if not all(entries.is_swap(entry.value) or _suitable(mm, entry.hva, entry.value) for entry in found):
        return Collapsed.BUSY
    return None if any(entry.writable for entry in found) else Collapsed.READ_ONLY


def _swap_in_all(mm: Process, base: int) -> HostAgent[bool]:
    """__collapse_huge_page_swapin."""
    for entry in mm.table.leaves(base, base + _HUGE):
        while entries.is_swap(mm.table.value(1, entry.hva)):
            if (yield from handle_fault(mm, entry.hva, write=False)) is not None:
                return False
    return True


def _replace(mm: Process, base: int, new: Folio) -> HostAgent[bool]:
    """The entries are out of the table while the pages are looked at and copied; True if the huge page is mapped."""
    vma = mm.vmas.find(base)
    assert vma is not None
    yield from mm.invalidate_start(base, base + _HUGE, MmuEvent.CLEAR)
    old = mm.table.leaves(base, base + _HUGE)
    suitable = all(_suitable(mm, entry.hva, entry.value) for entry in old)
    # The references of the entries are held on to until the pages are copied.
    taken = [mm.unmap_page(entry.hva, 1) for entry in old] if suitable else []
    yield from [change for change, _ in taken]
    yield from mm.invalidate_end(base, base + _HUGE, MmuEvent.CLEAR)
    if not suitable:
        return False
    sources = {(entry.hva - base) >> 12: entries.frame_of(entry.value) for entry in old}
    for index in range(512):
        source = sources.get(index)
        if source is None or mm.host.is_zero(source):
            yield ClearPage(new.frame + index)
        else:
            yield CopyPage(source, new.frame + index)
    new.exclusive = new.whole
    vma.anon_vma = True
    mm.pte_tables.discard(base >> 21)
    yield mm.map_page(base, 2, entries.leaf(new.frame, 2, writable=vma.write, dirty=True), new)
    for _, folio in taken:
        if folio is not None:
            yield from mm.host.put(folio)
    return True


def _suitable(mm: Process, hva: int, value: int) -> bool:
    """__collapse_huge_page_isolate: a zero page, or an anonymous page that nobody uses but through mappings."""
    if not value & entries.PRESENT:
        return False
    folio = mm.folio_at(hva, 1)
    return folio is None or (
        folio.anonymous and not folio.ksm and not folio.locked and not folio.pins and not folio.unexpected_refs()
    )
