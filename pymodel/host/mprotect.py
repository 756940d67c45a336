"""mprotect: entries of a range get other permissions between a start and an end (mm/mprotect.c)."""

from pymodel.host import entries
from pymodel.host.effects import HostAgent, MmapLock, MmapUnlock
from pymodel.host.errors import BadRange
from pymodel.host.mapping import split_at
from pymodel.host.notifier import MmuEvent
from pymodel.host.page_table import HostEntry
from pymodel.host.process import Process, check_range
from pymodel.host.vma import Vma

__all__ = ["mprotect"]


def mprotect(mm: Process, start: int, length: int, *, read: bool = True, write: bool) -> HostAgent[None]:
    """Set the permissions of a range without holes. Raises `BadRange` (EINVAL, ENOMEM)."""
    end = check_range(start, length)
    if write and not read:
        raise BadRange("a writable mapping must be readable")
    for vma in mm.vmas.covering(start, end):
        check_range(max(start, vma.start), min(end, vma.end) - max(start, vma.start), vma.level)
    yield MmapLock(mm.ident, True)
    for vma in mm.vmas.touching(start, end):
        if (vma.read, vma.write) == (read, write):
            continue
        low, high = max(start, vma.start), min(end, vma.end)
        yield from split_at(mm, low)
        yield from split_at(mm, high)
        part = mm.vmas.find(low)
        assert part is not None
        part.read, part.write = read, write
        yield from _change_protection(mm, part)
    mm.vmas.merge(start, end)
    yield MmapUnlock(mm.ident, True)


def _change_protection(mm: Process, vma: Vma) -> HostAgent[None]:
    """change_protection: hugetlb always calls the notifiers; others from the first span that has a table."""
    if vma.pool is not None:
        yield from _notified(mm, vma, vma.start, vma.end)
        return
    chunk = 1 << (30 if mm.host.kernel.mprotect_notifies_level == 2 else 39)
    low = vma.start
    while low < vma.end:
        high = min(vma.end, (low & ~(chunk - 1)) + chunk)
        first = _first_populated(mm, low, high)
        if first is not None:
            yield from _notified(mm, vma, first, high)
        low = high


def _first_populated(mm: Process, low: int, high: int) -> int | None:
    """Where the walk meets the first 2M (or 1G) span that holds anything."""
    shift = 30 if mm.host.kernel.mprotect_notifies_level == 3 else 21
    for span in range(low >> shift, ((high - 1) >> shift) + 1):
        if span in mm.pmd_tables if shift == 30 else span in mm.pte_tables or mm.table.value(2, span << shift):
            return max(low, span << shift)
    return None


def _notified(mm: Process, vma: Vma, low: int, high: int) -> HostAgent[None]:
    yield from mm.invalidate_start(low, high, MmuEvent.PROTECTION_VMA)
    for entry in mm.table.walk(low, high):
        new = _changed(mm, vma, entry)
        if new != entry.value:
            yield mm.write_entry(entry.hva, entry.level, new)
    yield from mm.invalidate_end(low, high, MmuEvent.PROTECTION_VMA)


def _changed(mm: Process, vma: Vma, entry: HostEntry) -> int:
    """change_pte_range, change_huge_pmd, hugetlb_change_protection: the new value of one entry."""
    kernel, value = mm.host.kernel, entry.value
    if entries.is_swap(value):
        return value
    if entries.is_migration(value):
        if vma.write:
            return value
        return entries.migration_read_only(value, exclusive=entries.migration_exclusive(value))
    if not entry.present:
        value = entries.undo_none_protection(value)
    if not vma.read:
        return entries.none_protection(entries.write_protect(value, kernel))
    if not vma.write:
        return entries.write_protect(value, kernel)
    if value & entries.WRITABLE or _may_upgrade(mm, vma, entry, value):
        return entries.make_writable(value)
    return value


def _may_upgrade(mm: Process, vma: Vma, entry: HostEntry, value: int) -> bool:
    """can_change_pte_writable: without a fault that would have to look whether somebody shares the page."""
    frame = entries.frame_of(value)
    if mm.host.is_zero(frame) or vma.pool is not None:
        return False
    if vma.shared:
        return True
    if not mm.host.kernel.mprotect_upgrades_all and (entry.level == 2 or not entries.is_dirty(value)):
        return False
    folio = mm.host.frames.folio(frame)
    return folio.anonymous and not folio.ksm and folio.is_exclusive(frame)
