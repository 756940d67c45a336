"""Access monitoring of an address, as DAMON does it: forget accesses, later ask for them (mm/damon/vaddr.c)."""

from pymodel.host import entries
from pymodel.host.effects import HostAgent
from pymodel.host.page_table import HostEntry
from pymodel.host.process import Process

__all__ = ["make_old", "was_accessed"]


def make_old(mm: Process, hva: int) -> HostAgent[None]:
    """damon_va_mkold: clear A of the page at `hva`, in the table and in the secondary MMUs (clear_young, no flush).

    `hva` is any byte. The range that the secondary MMUs are told begins there, not where the page does, and is as
    long as the page: it reaches into the next one. What is forgotten here is kept for reclaim (`Folio.young`).
    """
    entry = _mapped(mm, hva)
    if entry is None:
        return
    young = bool(entry.value & entries.ACCESSED)
    mm.table.set(entry.level, entry.hva, entry.value & ~entries.ACCESSED)
    folio = mm.folio_at(entry.hva, entry.level)
    assert folio is not None
    if (yield from mm.clear_young(hva, hva + entries.page_size(entry.level))) or young:
        folio.young = True
    folio.idle = True


def was_accessed(mm: Process, hva: int) -> HostAgent[bool]:
    """damon_va_young: whether the page at `hva` was touched since it was made old, or was never made so.

    Secondary MMUs are asked where neither A nor the page says so.
    """
    entry = _mapped(mm, hva)
    if entry is None:
        return False
    folio = mm.folio_at(entry.hva, entry.level)
    assert folio is not None
    if entry.value & entries.ACCESSED or not folio.idle:
        return True
    return (yield from mm.test_young(hva))


def _mapped(mm: Process, hva: int) -> HostEntry | None:
    """The entry of a page at `hva`, also under PROT_NONE; zero pages are not looked at (damon_get_folio)."""
    entry = mm.table.lookup(hva)
    if entry is None or entries.mapped_frame(entry.value) is None or mm.folio_at(entry.hva, entry.level) is None:
        return None
    return entry
