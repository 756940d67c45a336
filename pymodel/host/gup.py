"""What others ask of a process's memory: get_user_pages, pins, and the process's own loads and stores (mm/gup.c)."""

from dataclasses import dataclass

from pymodel.effects import Load, Store
from pymodel.host import entries
from pymodel.host.effects import HostAgent, MmapLock, MmapUnlock
from pymodel.host.errors import BadRange, HostError
from pymodel.host.fault import Refusal, handle_fault
from pymodel.host.frames import Folio
from pymodel.host.page_table import grants
from pymodel.host.process import Process, check_range

__all__ = ["Signal", "UserPage", "get_user_page", "load", "pin_user_page", "populate", "store", "unpin"]


class Signal(HostError):
    """The process's own access was refused: SIGSEGV or SIGBUS."""

    def __init__(self, hva: int, write: bool, refusal: Refusal) -> None:
        super().__init__(f"{'store to' if write else 'load from'} hva {hva:#x}: {refusal.value}")
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class UserPage:
    """Answer of `get_user_page`: the 4K frame, or why there is none."""

    frame: int | None
    writable: bool = False
    """Whether the entry allows writes, asked for or not."""
    refusal: Refusal | None = None


def get_user_page(mm: Process, hva: int, *, write: bool) -> HostAgent[UserPage]:
    """hva_to_pfn: the page behind `hva`, faulted in as needed; no reference is kept, MMU notifiers guard it."""
    page = grants(mm.table.lookup(hva), hva, write)
    if page is not None:
        return UserPage(*page)
    yield MmapLock(mm.ident, False)
    refusal = yield from _fault_in(mm, hva, write)
    page = grants(mm.table.lookup(hva), hva, write)
    yield MmapUnlock(mm.ident, False)
    if refusal is not None or page is None:
        return UserPage(None, refusal=refusal)
    return UserPage(*page)


def _fault_in(mm: Process, hva: int, write: bool) -> HostAgent[Refusal | None]:
    while grants(mm.table.lookup(hva), hva, write) is None:
        refusal = yield from handle_fault(mm, hva, write=write)
        if refusal is not None:
            return refusal
    return None


def pin_user_page(mm: Process, hva: int, *, write: bool) -> HostAgent[Folio]:
    """pin_user_pages(FOLL_LONGTERM) of one page: it neither moves nor is it shared until `unpin`.

    A page that other processes see is first made this process's own. Raises `Signal`.
    """
    yield MmapLock(mm.ident, False)
    while True:
        page = grants(mm.table.lookup(hva), hva, write)
        vma = mm.vmas.find(hva)
        if page is not None and vma is not None and not mm.host.is_zero(page[0]):
            folio = mm.host.frames.folio(page[0])
            if not folio.locked and (vma.shared or folio.is_exclusive(page[0])):
                folio.pins += 1
                folio.refs += 1
                yield MmapUnlock(mm.ident, False)
                return folio
        refusal = yield from handle_fault(mm, hva, write=write, unshare=page is not None)
        if refusal is not None:
            yield MmapUnlock(mm.ident, False)
            raise Signal(hva, write, refusal)


def unpin(mm: Process, folio: Folio) -> HostAgent[None]:
    """unpin_user_page. Raises `BadRange` for a page that is not pinned."""
    if folio.pins == 0:
        raise BadRange(f"frame {folio.frame:#x} is not pinned")
    folio.pins -= 1
    yield from mm.host.put(folio)


def populate(mm: Process, start: int, length: int, *, write: bool) -> HostAgent[None]:
    """MADV_POPULATE_READ, MADV_POPULATE_WRITE: fault in every page of the range.

    Raises `Signal` for an access that the mapping refuses, `BadRange` for a hole.
    """
    end = check_range(start, length)
    mm.vmas.covering(start, end)
    yield MmapLock(mm.ident, False)
    hva = start
    while hva < end:
        refusal = yield from _fault_in(mm, hva, write)
        if refusal is not None:
            yield MmapUnlock(mm.ident, False)
            raise Signal(hva, write, refusal)
        entry = mm.table.lookup(hva)
        assert entry is not None
        hva = entry.hva + entries.page_size(entry.level)
    yield MmapUnlock(mm.ident, False)


def load(mm: Process, hva: int) -> HostAgent[int]:
    """The process reads the 64-bit word at `hva`. Raises `Signal`."""
    address = yield from _reach(mm, hva, False)
    value: int = yield Load(address)
    return value


def store(mm: Process, hva: int, value: int) -> HostAgent[None]:
    """The process writes the 64-bit word at `hva`. Raises `Signal`."""
    address = yield from _reach(mm, hva, True)
    yield Store(address, value)


def _reach(mm: Process, hva: int, write: bool) -> HostAgent[int]:
    """The physical address; the CPU sets A, and D for a store, in the entry that it uses."""
    while True:
        entry = mm.table.lookup(hva)
        page = grants(entry, hva, write)
        if page is not None and entry is not None:
            used = entry.value | entries.ACCESSED | (entries.DIRTY if write else 0)
            mm.table.set(entry.level, entry.hva, used)
            return page[0] << 12 | hva & 0xFFF
        yield MmapLock(mm.ident, False)
        refusal = yield from _fault_in(mm, hva, write)
        yield MmapUnlock(mm.ident, False)
        if refusal is not None:
            raise Signal(hva, write, refusal)
