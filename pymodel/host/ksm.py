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

    A page is compared with the pages that are shared already, then with those seen before in this scan.
    """
    merged = 0
    seen: list[tuple[Process, int]] = []
    for mm, hva in places:
        folio = yield from _candidate(host, mm, hva)
        if folio is None:
            continue
        content = yield from _content(folio.frame)
        target = yield from _shared_twin(host, content)
        if target is None:
            for other in seen:
                twin = _mergeable(*other)
                if twin is None or twin is folio or (yield from _content(twin.frame)) != content:
                    continue
                if (yield from _make_shared(other[0], other[1], twin)):
                    target = twin
                    seen.remove(other)
                    break
        if target is None:
            seen.append((mm, hva))
        elif (yield from merge_page(mm, hva, target)):
            merged += 1
    return merged


def _mergeable(mm: Process, hva: int) -> Folio | None:
    """The page of this process's own at `hva`, if its mapping is mergeable and nobody uses it otherwise."""
    vma = mm.vmas.find(hva)
    entry = mm.table.lookup(hva)
    if vma is None or not vma.mergeable or entry is None or not entry.present:
        return None
    folio = mm.folio_at(entry.hva, entry.level)
    return folio if folio is not None and folio.anonymous and not folio.ksm and not folio.locked else None


def _candidate(host: Host, mm: Process, hva: int) -> HostAgent[Folio | None]:
    """A 4K page to look at; a huge page is split for it."""
    folio = _mergeable(mm, hva)
    if folio is not None and folio.order:
        if not (yield from split_folio(host, folio)):
            return None
        folio = _mergeable(mm, hva)
    return folio


def _content(frame: int) -> HostAgent[tuple[int, ...]]:
    words = []
    for offset in range(0, 4096, 8):
        words.append((yield Load((frame << 12) + offset)))
    return tuple(words)


def _shared_twin(host: Host, content: tuple[int, ...]) -> HostAgent[Folio | None]:
    """The stable tree: a shared page with this content."""
    for folio in list(host.ksm_pages):
        if folio.refs and not folio.locked and (yield from _content(folio.frame)) == content:
            return folio
    return None


def _make_shared(mm: Process, hva: int, folio: Folio) -> HostAgent[bool]:
    """try_to_merge_one_page without a partner: the page is write-protected and becomes one that others may join."""
    if (yield from _write_protect(mm, hva, folio)) is None:
        return False
    folio.ksm, folio.exclusive = True, 0
    mm.host.ksm_pages[folio] = None
    return True


def _write_protect(mm: Process, hva: int, folio: Folio) -> HostAgent[int | None]:
    """write_protect_page: the clean, read-only entry, or None where the page changed or is in use."""
    yield from mm.invalidate_start(hva, hva + 4096, MmuEvent.CLEAR)
    value = mm.table.value(1, hva)
    result = None
    if entries.mapped_frame(value) == folio.frame and len(folio.mappings) == 1 and not _in_use(folio):
        if value & entries.WRITABLE or entries.is_dirty(value):
            new = entries.write_protect(value, mm.host.kernel) & ~(entries.DIRTY | entries.SAVED_DIRTY)
            yield from mm.change_pte(hva, folio.frame, False)
            if mm.table.value(1, hva) == value:
                result = new
                yield mm.write_entry(hva, 1, new)
        else:
            result = value
    yield from mm.invalidate_end(hva, hva + 4096, MmuEvent.CLEAR)
    return result


def _in_use(folio: Folio) -> bool:
    return bool(folio.unexpected_refs() or folio.pins or folio.slots)


def merge_page(mm: Process, hva: int, target: Folio) -> HostAgent[bool]:
    """try_to_merge_one_page: map the shared page `target` in the place of an equal one. False where they differ."""
    folio = _mergeable(mm, hva)
    if folio is None or folio is target or folio.order or not target.ksm:
        return False
    target.refs += 1
    value = yield from _write_protect(mm, hva, folio)
    same = False
    if value is not None:
        # Compared only now: before, the page could still be written.
        same = (yield from _content(folio.frame)) == (yield from _content(target.frame))
    if value is not None and same:
        same = yield from _replace(mm, hva, value, target)
    yield from mm.host.put(target)
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
    """unmerge_ksm_pages, break_ksm: a write fault on each shared page gives the process its own copy."""
    yield MmapLock(mm.ident, False)
    for entry in mm.table.leaves(start, end):
        folio = mm.folio_at(entry.hva, entry.level)
        while folio is not None and folio.ksm:
            vma = mm.vmas.find(entry.hva)
            unshare = vma is not None and not vma.write
            refusal = yield from handle_fault(mm, entry.hva, write=not unshare, unshare=unshare)
            if refusal is not None:
                break
            folio = mm.folio_at(entry.hva, entry.level)
    yield MmapUnlock(mm.ident, False)
