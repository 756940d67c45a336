"""fork: a child with the same private pages, write-protected on both sides (mm/memory.c copy_page_range)."""

from dataclasses import replace

from pymodel.host import entries
from pymodel.host.effects import CopyPage, HostAgent, MmapLock, MmapUnlock
from pymodel.host.errors import OutOfMemory
from pymodel.host.frames import Folio
from pymodel.host.mapping import exit_process
from pymodel.host.notifier import MmuEvent
from pymodel.host.page_table import HostEntry
from pymodel.host.process import Process
from pymodel.host.split import split_entry
from pymodel.host.vma import Vma

__all__ = ["fork"]


def fork(mm: Process) -> HostAgent[Process]:
    """The child. Notifiers stay with the parent: the child has no VM.

    Shared mappings are faulted in anew. Private ones with anonymous pages are copied between a start and an end over
    the whole mapping (PROTECTION_PAGE; hugetlb: CLEAR). A pinned page is copied at once, so that the parent keeps it.
    Raises `OutOfMemory` where such a copy finds no frame; there is no child then.
    """
    child = mm.host.new_process()
    failure: OutOfMemory | None = None
    yield MmapLock(mm.ident, True)
    for vma in mm.vmas:
        child.vmas.insert(replace(vma, reserve=None))
        if vma.file is not None:
            vma.file.mappers.setdefault(child)
        if vma.shared or not vma.anon_vma:
            continue
        failure = yield from _copy_mapping(mm, child, vma)
        if failure is not None:
            break
    yield MmapUnlock(mm.ident, True)
    if failure is not None:
        yield from exit_process(child)
        raise failure
    return child


def _copy_mapping(mm: Process, child: Process, vma: Vma) -> HostAgent[OutOfMemory | None]:
    """copy_page_range, copy_hugetlb_page_range; the end is called whatever happens."""
    failure = None
    event = MmuEvent.PROTECTION_PAGE if vma.pool is None else MmuEvent.CLEAR
    yield from mm.invalidate_start(vma.start, vma.end, event)
    try:
        for entry in mm.table.walk(vma.start, vma.end):
            yield from _copy_entry(mm, child, vma, entry)
    except OutOfMemory as error:
        failure = error
    yield from mm.invalidate_end(vma.start, vma.end, event)
    return failure


def _copy_entry(mm: Process, child: Process, vma: Vma, entry: HostEntry) -> HostAgent[None]:
    """copy_nonpresent_pte, copy_present_pte, copy_huge_pmd: both entries change in one section under both locks."""
    hva, level, value = entry.hva, entry.level, mm.table.value(entry.level, entry.hva)
    if entries.is_swap(value):
        value = entries.swap_shared(value)
        mm.host.swap.slot(entries.swap_number(value)).refs += 1
        yield from (mm.write_entry(hva, level, value), child.write_entry(hva, level, value))
        return
    folio = mm.folio_at(hva, level)
    if folio is None:
        if value:
            yield child.write_entry(hva, level, value)
        return
    if entries.is_migration(value):
        value = entries.migration_read_only(value, exclusive=False)
    else:
        frame = entries.mapped_frame(value)
        assert frame is not None
        if folio.pins and folio.anonymous and folio.is_exclusive(frame):
            yield from _copy_pinned(mm, child, vma, HostEntry(hva, level, value), folio)
            return
        value = entries.write_protect(value, mm.host.kernel) if value & entries.PRESENT else value
        if level == 2 and folio.pool is None:
            folio.exclusive = 0
        else:
            folio.set_exclusive(frame, False)
    # The child has touched nothing yet; hugetlb entries are copied as they are.
    copied = value & ~entries.ACCESSED if value & entries.PRESENT and vma.pool is None else value
    yield from (mm.write_entry(hva, level, value), child.map_page(hva, level, copied, folio))


def _copy_pinned(mm: Process, child: Process, vma: Vma, entry: HostEntry, folio: Folio) -> HostAgent[None]:
    """copy_present_page; a 2M entry of a pinned page is split for it. Nobody else has the copy: it is writable."""
    host = mm.host
    if entry.level == 2 and folio.pool is None:
        yield from split_entry(mm, entry.hva)
        for part in mm.table.leaves(entry.hva, entry.hva + (1 << 21)):
            yield from _copy_pinned(mm, child, vma, part, folio)
        return
    new = host.frames.allocate(0, anonymous=True) if folio.pool is None else folio.pool.take(reserved=False)
    if new is None:
        raise OutOfMemory(f"no hugetlb page for the child's copy of the pinned page at {entry.hva:#x}")
    new.anonymous, new.exclusive = True, 1
    frame = entries.mapped_frame(entry.value)
    assert frame is not None
    for index in range(new.count):
        yield CopyPage(frame + index, new.frame + index)
    leaf = entries.leaf(new.frame, entry.level, writable=vma.write, dirty=True)
    yield child.map_page(entry.hva, entry.level, leaf if vma.read else entries.none_protection(leaf), new)
    yield from host.put(new)
