"""Copy-on-write of one 4K entry: reuse in place, or a copy between a start and an end (mm/memory.c do_wp_page)."""

from pymodel.host import entries
from pymodel.host.effects import ClearPage, CopyPage, HostAgent
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.page_table import HostEntry
from pymodel.host.process import Process

__all__ = ["copy_page", "make_writable", "may_reuse", "reuse"]


def may_reuse(folio: Folio, frame: int) -> bool:
    """Whether no other process can see the page (PageAnonExclusive, wp_can_reuse_anon_folio)."""
    if not folio.anonymous or folio.ksm:
        return False
    return folio.is_exclusive(frame) or (folio.order == 0 and folio.refs == 1)


def reuse(mm: Process, entry: HostEntry, folio: Folio, unshare: bool) -> HostAgent[None]:
    """wp_page_reuse: the page becomes this process's own; no notifier, for nothing that was allowed is taken away."""
    folio.set_exclusive(entry.pfn(entry.hva), True)
    yield from make_writable(mm, entry, unshare)


def make_writable(mm: Process, entry: HostEntry, unshare: bool) -> HostAgent[None]:
    """Set W, D and A in place, for a write; an unsharing read fault leaves the permission as it is."""
    value = entry.value | entries.ACCESSED
    if not unshare:
        value = entries.make_writable(value) | entries.DIRTY | entries.SOFT_DIRTY
    yield mm.write_entry(entry.hva, entry.level, value)


def copy_page(mm: Process, entry: HostEntry, folio: Folio | None, unshare: bool) -> HostAgent[None]:
    """wp_page_copy: copy (None: the zero page), then replace the entry between a start and an end.

    The page-table lock is held from the comparison to the new entry, so that the empty entry in between is never
    seen; change_pte comes before the new entry is stored (set_pte_at_notify).
    """
    host, hva = mm.host, entry.hva
    source = entry.pfn(hva)
    new = host.frames.allocate(0, anonymous=True)
    new.exclusive = 1
    if folio is not None:
        folio.refs += 1
    yield ClearPage(new.frame) if folio is None else CopyPage(source, new.frame)
    yield from mm.invalidate_start(hva, hva + 4096, MmuEvent.CLEAR)
    replaced = None
    if mm.table.value(1, hva) == entry.value:
        yield from mm.change_pte(hva, new.frame, not unshare)
        if mm.table.value(1, hva) == entry.value:
            value = entries.leaf(new.frame, 1, writable=not unshare, dirty=not unshare)
            change, replaced = mm.replace_page(hva, 1, value, new)
            yield change
    yield from mm.invalidate_end(hva, hva + 4096, MmuEvent.CLEAR)
    for done in (replaced, folio, new):
        if done is not None:
            yield from host.put(done)
