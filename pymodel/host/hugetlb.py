"""Faults on hugetlb memory: reservations, private copies, shared files (mm/hugetlb.c)."""

from pymodel.host import entries
from pymodel.host.effects import ClearPage, CopyPage, HostAgent, PageBusy
from pymodel.host.files import HugetlbFile
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process
from pymodel.host.vma import Vma
from pymodel.host.zap import unmap_pages

__all__ = ["hugetlb_fault"]


def hugetlb_fault(mm: Process, vma: Vma, hva: int, *, write: bool, unshare: bool) -> HostAgent[bool]:
    """hugetlb_fault: one step; False where the pool has no page for it (SIGBUS)."""
    base = hva & ~(entries.page_size(vma.level) - 1)
    value = mm.table.value(vma.level, base)
    if not value:
        return (yield from _no_page(mm, vma, base, write))
    if entries.is_migration(value):
        yield PageBusy(mm.ident, hva)
        return True
    folio = mm.folio_at(base, vma.level)
    assert folio is not None
    if folio.locked:
        yield PageBusy(mm.ident, hva)
    elif (write and not value & entries.WRITABLE) or (unshare and not folio.exclusive):
        return (yield from _write(mm, vma, base, value, folio, unshare))
    return True


def _no_page(mm: Process, vma: Vma, base: int, write: bool) -> HostAgent[bool]:
    """hugetlb_no_page. A private page that is only read is mapped read-only, though it is the process's own."""
    if isinstance(vma.file, HugetlbFile):
        return (yield from _file_page(mm, vma, vma.file, base, write))
    assert vma.pool is not None
    reserved = vma.reserve is not None and base in vma.reserve
    folio = vma.pool.take(reserved=reserved)
    if folio is None:
        return False
    if reserved and vma.reserve is not None:
        vma.reserve.discard(base)
    folio.anonymous, folio.exclusive = True, 1
    vma.anon_vma = True
    yield from _clear(folio)
    if not mm.table.value(vma.level, base):
        yield mm.map_page(base, vma.level, entries.leaf(folio.frame, vma.level, writable=write, dirty=write), folio)
    yield from mm.host.put(folio)
    return True


def _file_page(mm: Process, vma: Vma, file: HugetlbFile, base: int, write: bool) -> HostAgent[bool]:
    index = vma.index(base)
    folio = file.pages.get(index)
    if folio is None:
        folio = file.pool.take(reserved=index in file.reserved)
        if folio is None:
            return False
        file.reserved.discard(index)
        yield from _clear(folio)
        if index in file.pages:
            yield from mm.host.put(folio)
            return True
        file.pages[index] = folio
        folio.cache = file, index
    assert isinstance(folio, Folio)
    if folio.locked:
        yield PageBusy(mm.ident, base)
    elif not mm.table.value(vma.level, base) and file.pages.get(index) is folio:
        value = entries.leaf(folio.frame, vma.level, writable=vma.write, dirty=vma.write)
        yield mm.map_page(base, vma.level, value, folio)
    return True


def _clear(folio: Folio) -> HostAgent[None]:
    for frame in range(folio.frame, folio.frame + folio.count):
        yield ClearPage(frame)


def _write(mm: Process, vma: Vma, base: int, value: int, folio: Folio, unshare: bool) -> HostAgent[bool]:
    """hugetlb_wp: reuse, or copy; the owner of the reservation takes the page from its children if it must."""
    level = vma.level
    new_value = value | entries.ACCESSED
    if not unshare:
        new_value = entries.make_writable(new_value) | entries.DIRTY | entries.SOFT_DIRTY
    if vma.shared or folio.exclusive or (folio.refs == 1 and folio.anonymous):
        folio.exclusive = int(folio.anonymous)
        yield mm.write_entry(base, level, new_value)
        return True
    assert vma.pool is not None
    new = vma.pool.take(reserved=False)
    if new is None:
        if vma.reserve is None:
            return False
        yield from _take_from_children(mm, folio)
        return True
    new.anonymous, new.exclusive = True, 1
    folio.refs += 1
    for index in range(folio.count):
        yield CopyPage(folio.frame + index, new.frame + index)
    end = base + entries.page_size(level)
    yield from mm.invalidate_start(base, end, MmuEvent.CLEAR)
    replaced = None
    if mm.table.value(level, base) == value:
        leaf = entries.leaf(new.frame, level, writable=not unshare, dirty=not unshare)
        change, replaced = mm.replace_page(base, level, leaf, new)
        yield change
    yield from mm.invalidate_end(base, end, MmuEvent.CLEAR)
    for done in (replaced, folio, new):
        if done is not None:
            yield from mm.host.put(done)
    return True


def _take_from_children(mm: Process, folio: Folio) -> HostAgent[None]:
    """unmap_ref_private: whoever has no reservation loses the page; its next access is a SIGBUS."""
    for (other, hva), level in list(folio.mappings.items()):
        vma = other.vmas.find(hva)
        if other is not mm and vma is not None:
            yield from unmap_pages(other, vma, hva, hva + entries.page_size(level))
