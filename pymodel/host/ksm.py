"""KSM: anonymous pages of equal content become one read-only page (mm/ksm.c).

Recordings: every step on a page is a start and an end over its 4 KiB, with change_pte in between before 6.10.
"""

from collections.abc import Iterable

from pymodel.effects import Load
from pymodel.host import entries
from pymodel.host.effects import HostAgent, MmapLock, MmapUnlock
from pymodel.host.fault import handle_fault
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Host, Process
from pymodel.host.split import split_folio

__all__ = ["merge_page", "scan", "unmerge"]


def scan(host: Host, places: Iterable[tuple[Process, int]]) -> HostAgent[int]:
    """ksmd: look at the pages at `places` (process, hva) in their order; how many were merged into another.

    A page is compared with the pages that are shared already (stable tree), then with those seen before in this
    scan (unstable tree), whose content may have changed since. Of two twins the one that is looked at becomes the
    shared page, and the one seen before is merged into it (try_to_merge_two_pages).
    """
    merged = 0
    seen: dict[tuple[int, ...], tuple[Process, int]] = {}
    for mm, hva in places:
        if _mergeable(mm, hva) is None:
            continue
        content = yield from _content(_frame(mm, hva))
        target = host.ksm_by_content.get(content)
        if target is not None:
            if not target.locked and (yield from merge_page(mm, hva, target)):
                merged += 1
            continue
        twin = seen.get(content)
        if twin is None or not (yield from _still_holds(*twin, content)):
            seen[content] = mm, hva
        elif (yield from _merge_two(host, mm, hva, *twin)):
            del seen[content]
            merged += 1
    return merged


def _still_holds(mm: Process, hva: int, content: tuple[int, ...]) -> HostAgent[bool]:
    return _mergeable(mm, hva) is not None and (yield from _content(_frame(mm, hva))) == content


def _merge_two(host: Host, mm: Process, hva: int, other: Process, place: int) -> HostAgent[bool]:
    """try_to_merge_two_pages; two parts of one huge page are only split from each other, for the next scan."""
    folio = _mergeable(mm, hva)
    if folio is not None and folio is _mergeable(other, place):
        yield from split_folio(host, folio)
        return False
    target = yield from _make_shared(mm, hva)
    if target is None:
        return False
    if (yield from merge_page(other, place, target)):
        return True
    # break_cow: nobody else shares it.
    yield MmapLock(mm.ident, False)
    yield from unmerge(mm, hva, hva + 4096)
    yield MmapUnlock(mm.ident, False)
    return False


def _mergeable(mm: Process, hva: int) -> Folio | None:
    """The anonymous page at `hva`, huge or not, if its mapping is mergeable and it is not shared yet."""
    vma = mm.vmas.find(hva)
    entry = mm.table.lookup(hva)
    if vma is None or not vma.mergeable or entry is None or not entry.present:
        return None
    folio = mm.folio_at(entry.hva, entry.level)
    return folio if folio is not None and folio.anonymous and not folio.ksm and not folio.locked else None


def _frame(mm: Process, hva: int) -> int:
    """The 4K frame at `hva`, which may be a part of a huge page."""
    entry = mm.table.lookup(hva)
    assert entry is not None
    return entry.pfn(hva)


def _candidate(mm: Process, hva: int) -> HostAgent[Folio | None]:
    """The 4K page to merge; a huge page is split only now (try_to_merge_one_page)."""
    folio = _mergeable(mm, hva)
    if folio is not None and folio.order:
        if not (yield from split_folio(mm.host, folio)):
            return None
        folio = _mergeable(mm, hva)
    return folio


def _content(frame: int) -> HostAgent[tuple[int, ...]]:
    words = []
    for offset in range(0, 4096, 8):
        words.append((yield Load((frame << 12) + offset)))
    return tuple(words)


def _make_shared(mm: Process, hva: int) -> HostAgent[Folio | None]:
    """try_to_merge_one_page without a partner: the page is write-protected and becomes one that others may join."""
    folio = yield from _candidate(mm, hva)
    if folio is None:
        return None
    done = False
    folio.refs += 1
    if (yield from _write_protect(mm, hva, folio)) is not None:
        # Only now it is the content that stays; a page with the same may have been shared meanwhile.
        content = yield from _content(folio.frame)
        done = content not in mm.host.ksm_by_content and bool(folio.mappings)
        if done:
            folio.ksm = True
            mm.host.ksm_pages[folio] = content
            mm.host.ksm_by_content[content] = folio
    yield from mm.host.put(folio)
    return folio if done else None


def _write_protect(mm: Process, hva: int, folio: Folio) -> HostAgent[int | None]:
    """write_protect_page: the clean, read-only entry, or None where the page changed or is in use.

    The caller holds a reference: whoever wants to write from now on gets a copy. Other processes may map the page
    as well, after a fork; their entries are read-only already and stay.
    """
    yield from mm.invalidate_start(hva, hva + 4096, MmuEvent.CLEAR)
    value = mm.table.value(1, hva)
    result = None
    if entries.mapped_frame(value) == folio.frame and not _in_use(folio):
        if value & entries.WRITABLE or entries.is_dirty(value) or folio.exclusive:
            new = entries.write_protect(value, mm.host.kernel) & ~(entries.DIRTY | entries.SAVED_DIRTY)
            yield from mm.change_pte(hva, folio.frame, False)
            if mm.table.value(1, hva) == value:
                result, folio.exclusive = new, 0
                yield mm.write_entry(hva, 1, new)
        else:
            result = value
    yield from mm.invalidate_end(hva, hva + 4096, MmuEvent.CLEAR)
    return result


def _in_use(folio: Folio) -> bool:
    return folio.unexpected_refs() != 1 or bool(folio.pins or folio.slots)


def merge_page(mm: Process, hva: int, target: Folio) -> HostAgent[bool]:
    """try_to_merge_one_page: map the shared page `target` in the place of an equal one. False where they differ."""
    folio = yield from _candidate(mm, hva)
    # While a huge page was split the shared page may have gone, or have begun to move.
    if folio is None or folio is target or not target.ksm or target.locked or target.refs == 0:
        return False
    for held in (folio, target):
        held.refs += 1
    value = yield from _write_protect(mm, hva, folio)
    same = False
    if value is not None:
        # Compared only now: before, the page could still be written.
        same = (yield from _content(folio.frame)) == (yield from _content(target.frame))
    if value is not None and same:
        same = yield from _replace(mm, hva, value, target)
    for held in (folio, target):
        yield from mm.host.put(held)
    return same


def _replace(mm: Process, hva: int, value: int, target: Folio) -> HostAgent[bool]:
    """replace_page."""
    replaced = None
    done = False
    yield from mm.invalidate_start(hva, hva + 4096, MmuEvent.CLEAR)
    if mm.table.value(1, hva) == value:
        yield from mm.change_pte(hva, target.frame, False)
        if mm.table.value(1, hva) == value:
            leaf = entries.leaf(target.frame, 1, writable=False, dirty=False)
            change, replaced = mm.replace_page(hva, 1, leaf, target)
            done = True
            yield change
    yield from mm.invalidate_end(hva, hva + 4096, MmuEvent.CLEAR)
    if replaced is not None:
        yield from mm.host.put(replaced)
    return done


def unmerge(mm: Process, start: int, end: int) -> HostAgent[None]:
    """unmerge_ksm_pages, break_ksm: a fault on each shared page gives the process its own copy.

    A write fault before 6.2, an unsharing one since, which leaves the copy read-only. The caller holds mmap_lock.
    """
    for entry in mm.table.leaves(start, end):
        folio = mm.folio_at(entry.hva, entry.level)
        while folio is not None and folio.ksm:
            vma = mm.vmas.find(entry.hva)
            unshare = mm.host.kernel.unmerge_unshares or (vma is not None and not vma.write)
            refusal = yield from handle_fault(mm, entry.hva, write=not unshare, unshare=unshare)
            if refusal is not None:
                break
            folio = mm.folio_at(entry.hva, entry.level)
