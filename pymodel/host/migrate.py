"""Migration: a page moves to another frame, seen by nobody (mm/migrate.c)."""

from enum import Enum

from pymodel.host import entries
from pymodel.host.effects import CopyPage, HostAgent
from pymodel.host.errors import OutOfMemory
from pymodel.host.frames import Folio
from pymodel.host.process import Host, Process
from pymodel.host.rmap import restore_entries, still_mapped, to_migration_entries
from pymodel.host.split import split_folio

__all__ = ["Moved", "move_page"]


class Moved(Enum):
    """How an attempt ended (the status of move_pages)."""

    DONE = "moved"
    ABSENT = "no page of this process is there (ENOENT)"
    BUSY = "somebody uses the page (EBUSY)"
    NO_MEMORY = "no frame to move it to (ENOMEM)"


_ATTEMPTS = 10
"""NR_MAX_MIGRATE_PAGES_RETRY."""
_BATCH_ATTEMPTS = (3, 7)
"""NR_MAX_MIGRATE_ASYNC_RETRY, NR_MAX_MIGRATE_SYNC_RETRY."""


def move_page(mm: Process, hva: int) -> HostAgent[Moved]:
    """move_pages (MPOL_MF_MOVE_ALL) of one address: the whole page that maps it moves, huge ones too.

    A page that is in use is tried again and again: each time the notifiers take it from the guest, though it stays.
    From 6.3 on, one that could be unmapped stays so while it is tried, once in each of the two rounds; hugetlb pages
    are not of that kind. From 6.10 on a huge page of which a part is unmapped is split, and its parts are tried once.
    """
    entry = mm.table.lookup(hva)
    folio = mm.folio_at(entry.hva, entry.level) if entry is not None else None
    if entry is None or folio is None:
        return Moved.ABSENT
    if entries.is_migration(entry.value):
        return Moved.BUSY
    host = mm.host
    if host.kernel.huge_parts_stay and folio in host.deferred:
        frames = range(folio.frame, folio.frame + folio.count)
        if (yield from split_folio(host, folio)):
            return (yield from _move_parts(host, frames))
    batches = host.kernel.migrates_in_batches and folio.pool is None
    result = Moved.BUSY
    for attempts in _BATCH_ATTEMPTS if batches else (_ATTEMPTS,):
        for _ in range(attempts):
            result, unmapped = yield from _migrate_folio(host, folio)
            if result is not Moved.BUSY or not folio.mappings:
                return result
            if unmapped and batches:
                break
    return result


def _move_parts(host: Host, frames: range) -> HostAgent[Moved]:
    result = Moved.DONE
    # A part that is free may become the new place of another.
    for part in [host.frames.folio(frame) for frame in frames if host.frames.is_live(frame)]:
        moved, _ = yield from _migrate_folio(host, part)
        result = result if moved is Moved.DONE else moved
    return result


def _migrate_folio(host: Host, folio: Folio) -> HostAgent[tuple[Moved, bool]]:
    """unmap_and_move: every mapping to migration entries, copy, every mapping to the new page, free the old one.

    One attempt; also whether nothing mapped the page any more. Only then it is known for sure whether somebody uses
    it (folio_migrate_mapping); where it is pinned, the entries stay (folio_try_share_anon_rmap).
    """
    if folio.locked or folio.refs == 0:
        return Moved.BUSY, False
    try:
        new = _target(host, folio)
    except OutOfMemory:
        return Moved.NO_MEMORY, False
    folio.locked = new.locked = True
    folio.refs += 1
    yield from to_migration_entries(folio)
    unmapped = not still_mapped(folio)
    busy = not unmapped or folio.unexpected_refs() != 1
    if not busy:
        for index in range(folio.count):
            yield CopyPage(folio.frame + index, new.frame + index)
        _take_over(host, folio, new)
    yield from restore_entries(folio, folio if busy else new)
    folio.locked = new.locked = False
    yield from host.free_unused_slots(folio if busy else new)
    yield from host.put(folio)
    yield from host.put(new)
    return Moved.BUSY if busy else Moved.DONE, unmapped


def _target(host: Host, folio: Folio) -> Folio:
    """alloc_migration_target. Where the pool has none to spare, free memory gives a temporary 2M hugetlb page.

    One of the two goes back there in the end (alloc_migrate_hugetlb_folio). Raises `OutOfMemory`.
    """
    if folio.pool is None:
        return host.frames.allocate(folio.order)
    new = folio.pool.take(reserved=False)
    if new is None and folio.level == 2:
        new = host.frames.allocate(folio.order)
        new.pool, new.temporary = folio.pool, True
    if new is None:
        raise OutOfMemory("no free gigabyte page in the pool")
    return new


def _take_over(host: Host, folio: Folio, new: Folio) -> None:
    """folio_migrate_mapping, folio_migrate_flags: caches and what is known about the page."""
    new.anonymous, new.exclusive, new.ksm = folio.anonymous, folio.exclusive, folio.ksm
    new.young, new.idle = folio.young, folio.idle
    # move_hugetlb_state: the pool keeps as many pages as it had.
    new.temporary, folio.temporary = folio.temporary, new.temporary
    if folio in host.deferred:
        host.deferred[new] = None
        del host.deferred[folio]
    if folio.ksm:
        content = host.ksm_pages[new] = host.ksm_pages.pop(folio)
        host.ksm_by_content[content] = new
        folio.ksm = False
    if folio.cache is not None:
        file, index = folio.cache
        file.pages[index] = new
        new.cache, folio.cache = folio.cache, None
        new.refs += 1
        folio.refs -= 1
    for slot in folio.slots.values():
        slot.folio = new
    if folio.slots:
        new.slots, folio.slots = folio.slots, {}
        new.refs += 1
        folio.refs -= 1
