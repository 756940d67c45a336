"""Page faults of the primary MMU on memory that is not hugetlb: demand, copy-on-write, swap (mm/memory.c)."""

from enum import Enum

from pymodel.host import entries
from pymodel.host.cow import copy_page, make_writable, may_reuse, reuse
from pymodel.host.effects import ClearPage, CopyPage, HostAgent, PageBusy
from pymodel.host.errors import OutOfMemory
from pymodel.host.files import MemFile
from pymodel.host.frames import Folio
from pymodel.host.hugetlb import hugetlb_fault
from pymodel.host.notifier import MmuEvent
from pymodel.host.page_table import HostEntry
from pymodel.host.pagecache import cache_page
from pymodel.host.process import Process
from pymodel.host.split import split_entry
from pymodel.host.vma import Vma

__all__ = ["Refusal", "handle_fault"]

_HUGE = 1 << 21


class Refusal(Enum):
    """Why the host does not give a page; KVM sees EFAULT for all of them."""

    SEGV = "nothing is mapped there, or not with this access"
    SIGBUS = "no hugetlb page is left for it"
    OOM = "no memory is left for it"


def handle_fault(mm: Process, hva: int, *, write: bool, unshare: bool = False) -> HostAgent[Refusal | None]:
    """handle_mm_fault: one step towards a page that allows the access; the caller looks at the entry again.

    `unshare` (FAULT_FLAG_UNSHARE): a page to be pinned for reading must belong to this process alone.
    """
    vma = mm.vmas.find(hva)
    if vma is None or not (vma.write if write else vma.read):
        return Refusal.SEGV
    try:
        if vma.pool is not None:
            served = yield from hugetlb_fault(mm, vma, hva, write=write, unshare=unshare)
            return None if served else Refusal.SIGBUS
        yield from _fault(mm, vma, hva, write, unshare)
    except OutOfMemory:
        return Refusal.OOM
    return None


def _fault(mm: Process, vma: Vma, hva: int, write: bool, unshare: bool) -> HostAgent[None]:
    entry = mm.table.lookup(hva)
    if entry is None:
        if vma.takes_huge(hva) and hva >> 21 not in mm.pte_tables and (yield from _huge_anonymous(mm, vma, hva, write)):
            return
        yield from (_anonymous if vma.anonymous else _file)(mm, vma, hva & ~0xFFF, write)
    elif entries.is_migration(entry.value):
        yield PageBusy(mm.ident, hva)
    elif entries.is_swap(entry.value):
        yield from _swap_in(mm, vma, entry, write)
    elif (write and not entry.writable) or unshare:
        yield from (_huge_write if entry.level == 2 else _write)(mm, vma, entry, unshare)
    elif entry.present:
        mm.table.set(entry.level, entry.hva, entry.value | entries.ACCESSED)


# --- nothing there yet -------------------------------------------------------------------------------------------


def _huge_anonymous(mm: Process, vma: Vma, hva: int, write: bool) -> HostAgent[bool]:
    """do_huge_pmd_anonymous_page: False where it falls back to 4K."""
    base, host = hva & ~(_HUGE - 1), mm.host
    vma.anon_vma = True
    if not write:
        zero = yield from _huge_zero(mm)
        if zero is None:
            return False
        if mm.table.lookup(hva) is None and base >> 21 not in mm.pte_tables:
            yield mm.write_entry(base, 2, entries.zero_leaf(zero.frame, 2))
        return True
    try:
        folio = host.frames.allocate(9, anonymous=True)
    except OutOfMemory:
        return False
    folio.exclusive = folio.whole
    for frame in range(folio.frame, folio.frame + 512):
        yield ClearPage(frame)
    if mm.table.lookup(hva) is None and base >> 21 not in mm.pte_tables:
        yield mm.map_page(base, 2, entries.leaf(folio.frame, 2, writable=True, dirty=True), folio)
    yield from host.put(folio)
    return True


def _huge_zero(mm: Process) -> HostAgent[Folio | None]:
    """get_huge_zero_page; None without memory."""
    host = mm.host
    if host.huge_zero is None:
        try:
            folio = host.frames.allocate(9)
        except OutOfMemory:
            return None
        for frame in range(folio.frame, folio.frame + 512):
            yield ClearPage(frame)
        kept = host.keep_huge_zero(folio)
        if kept is not folio:
            yield from host.put(folio)
        return kept
    return host.huge_zero


def _anonymous(mm: Process, vma: Vma, hva: int, write: bool) -> HostAgent[None]:
    """do_anonymous_page."""
    if not write:
        yield mm.write_entry(hva, 1, entries.zero_leaf(mm.host.zero.frame, 1))
        return
    vma.anon_vma = True
    folio = mm.host.frames.allocate(0, anonymous=True)
    folio.exclusive = 1
    yield ClearPage(folio.frame)
    if mm.table.lookup(hva) is None:
        yield mm.map_page(hva, 1, entries.leaf(folio.frame, 1, writable=True, dirty=True), folio)
    yield from mm.host.put(folio)


def _file(mm: Process, vma: Vma, hva: int, write: bool) -> HostAgent[None]:
    """do_read_fault, do_shared_fault, do_cow_fault. A shared memfd page is writable at once, dirty once written."""
    assert isinstance(vma.file, MemFile)
    page = yield from cache_page(mm.host, vma.file, vma.index(hva))
    if page is None:
        yield PageBusy(mm.ident, hva)
        return
    if vma.shared or not write:
        if mm.table.lookup(hva) is None and vma.file.pages.get(vma.index(hva)) is page:
            value = entries.leaf(page.frame, 1, writable=vma.shared and vma.write, dirty=write)
            yield mm.map_page(hva, 1, value, page)
        return
    vma.anon_vma = True
    copy = mm.host.frames.allocate(0, anonymous=True)
    copy.exclusive = 1
    page.refs += 1
    yield CopyPage(page.frame, copy.frame)
    if mm.table.lookup(hva) is None:
        yield mm.map_page(hva, 1, entries.leaf(copy.frame, 1, writable=True, dirty=True), copy)
    yield from mm.host.put(page)
    yield from mm.host.put(copy)


# --- swapped out -------------------------------------------------------------------------------------------------


def _swap_in(mm: Process, vma: Vma, entry: HostEntry, write: bool) -> HostAgent[None]:
    """do_swap_page: the page comes from the swap cache, or is read; the slot goes with its last user."""
    host, hva = mm.host, entry.hva
    slot = host.swap.slot(entries.swap_number(entry.value))
    if slot.folio is None:
        folio = host.frames.allocate(0, anonymous=True)
        yield CopyPage(slot.frame, folio.frame)
        if mm.table.value(1, hva) != entry.value or slot.folio is not None:
            yield from host.put(folio)
            return
        slot.attach(folio, 0)
    else:
        folio = slot.folio
        if folio.locked:
            yield PageBusy(mm.ident, hva)
            return
        folio.refs += 1
    last = slot.refs == 1 and folio.order == 0 and folio.unexpected_refs() == 1 and not folio.mappings
    exclusive = entries.swap_exclusive(entry.value) or (write and last)
    writable = vma.write and not vma.shared and exclusive and (write or host.kernel.swapin_writable)
    frame = folio.frame + slot.offset
    folio.set_exclusive(frame, exclusive)
    # Until the slot is given up nobody may write the page out to it.
    folio.locked = True
    yield mm.map_page(hva, 1, entries.leaf(frame, 1, writable=writable, dirty=writable and write), folio)
    folio.locked = False
    yield from host.put_slot(slot)
    yield from host.put(folio)


# --- write to a page that may not be written ---------------------------------------------------------------------


def _huge_write(mm: Process, vma: Vma, entry: HostEntry, unshare: bool) -> HostAgent[None]:
    """do_huge_pmd_wp_page, do_huge_zero_wp_pmd: reuse, or split and let the 4K fault copy."""
    host = mm.host
    if host.is_zero(entry.pfn(entry.hva)):
        if host.kernel.huge_zero_replaced:
            yield from _replace_huge_zero(mm, vma, entry)
        else:
            yield from split_entry(mm, entry.hva)
        return
    folio = host.frames.folio(entry.pfn(entry.hva))
    if folio.locked:
        yield PageBusy(mm.ident, entry.hva)
    elif folio.exclusive or (folio.refs == 1 and not folio.ksm):
        folio.exclusive = folio.whole
        yield from make_writable(mm, entry, unshare)
    else:
        yield from split_entry(mm, entry.hva)


def _replace_huge_zero(mm: Process, vma: Vma, entry: HostEntry) -> HostAgent[None]:
    """do_huge_zero_wp_pmd: also where a page to be pinned for reading must be the process's own."""
    vma.anon_vma = True
    try:
        folio = mm.host.frames.allocate(9, anonymous=True)
    except OutOfMemory:
        yield from split_entry(mm, entry.hva)
        return
    folio.exclusive = folio.whole
    for frame in range(folio.frame, folio.frame + 512):
        yield ClearPage(frame)
    yield from mm.invalidate_start(entry.hva, entry.hva + _HUGE, MmuEvent.CLEAR)
    if mm.table.value(2, entry.hva) == entry.value:
        yield mm.map_page(entry.hva, 2, entries.leaf(folio.frame, 2, writable=vma.write, dirty=True), folio)
    yield from mm.invalidate_end(entry.hva, entry.hva + _HUGE, MmuEvent.CLEAR)
    yield from mm.host.put(folio)


def _write(mm: Process, vma: Vma, entry: HostEntry, unshare: bool) -> HostAgent[None]:
    """do_wp_page."""
    frame = entry.pfn(entry.hva)
    folio = None if mm.host.is_zero(frame) else mm.host.frames.folio(frame)
    if folio is not None and folio.locked:
        yield PageBusy(mm.ident, entry.hva)
    elif vma.shared:
        yield from make_writable(mm, entry, unshare)
    elif folio is not None and may_reuse(folio, frame):
        yield from reuse(mm, entry, folio, unshare)
    else:
        vma.anon_vma = True
        yield from copy_page(mm, entry, folio, unshare)
