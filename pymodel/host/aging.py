"""Access monitoring of a range, as DAMON does it: forget accesses, later ask for them (mm/damon/vaddr.c)."""

from pymodel.host import entries
from pymodel.host.effects import HostAgent
from pymodel.host.process import Process

__all__ = ["make_old", "was_accessed"]


def make_old(mm: Process, hva: int) -> HostAgent[None]:
    """damon_va_mkold: clear A of the page at `hva`, in the table and in the secondary MMUs (clear_young, no flush)."""
    entry = mm.table.lookup(hva)
    if entry is None or not entry.present:
        return
    mm.table.set(entry.level, entry.hva, entry.value & ~entries.ACCESSED)
    yield from mm.clear_young(entry.hva, entry.hva + entries.page_size(entry.level))


def was_accessed(mm: Process, hva: int) -> HostAgent[bool]:
    """damon_va_young: whether the page at `hva` was touched; secondary MMUs are asked where A does not say so."""
    entry = mm.table.lookup(hva)
    if entry is None or not entry.present:
        return False
    if entry.value & entries.ACCESSED:
        return True
    return (yield from mm.test_young(entry.hva))
