"""Migration: a page moves to another frame, seen by nobody (mm/migrate.c)."""

from enum import Enum

from pymodel.host import entries
from pymodel.host.effects import CopyPage, HostAgent
from pymodel.host.errors import OutOfMemory
from pymodel.host.frames import Folio
from pymodel.host.process import Host, Process
from pymodel.host.rmap import restore_entries, still_mapped, to_migration_entries

__all__ = ["Moved", "migrate_folio", "move_page"]


class Moved(Enum):
    """How an attempt ended (the status of move_pages)."""

    DONE = "moved"
    ABSENT = "no page of this process is there (ENOENT)"
    BUSY = "somebody uses the page (EBUSY)"
    NO_MEMORY = "no frame to move it to (ENOMEM)"


_ATTEMPTS = 10
"""NR_MAX_MIGRATE_PAGES_RETRY."""


def move_page(mm: Process, hva: int) -> HostAgent[Moved]:
    """move_pages (MPOL_MF_MOVE_ALL) of one address: the whole page that maps it moves, huge ones too.

    A page that is in use is tried again and again: each time the notifiers take it from the guest, though it stays.
    """
    entry = mm.table.lookup(hva)
    folio = mm.folio_at(entry.hva, entry.level) if entry is not None else None
    if entry is None or folio is None:
        return Moved.ABSENT
    if entries.is_migration(entry.value):
        return Moved.BUSY
    result = Moved.BUSY
    for _ in range(_ATTEMPTS):
        result = yield from migrate_folio(mm.host, folio)
        if result is not Moved.BUSY or not folio.mappings:
            break
    return result


def migrate_folio(host: Host, folio: Folio) -> HostAgent[Moved]:
    """unmap_and_move: every mapping to migration entries, copy, every mapping to the new page, free the old one.

    One attempt. Whether somebody uses the page is known for sure only when nothing maps it any more
    (folio_migrate_mapping); where it is pinned, the entries stay (folio_try_share_anon_rmap).
    """
    if folio.locked or folio.refs == 0:
        return Moved.BUSY
    try:
        new = _target(host, folio)
    except OutOfMemory:
        return Moved.NO_MEMORY
    if new is None:
        return Moved.NO_MEMORY
    folio.locked = new.locked = True
    folio.refs += 1
    yield from to_migration_entries(folio)
    busy = folio.unexpected_refs() != 1 or still_mapped(folio)
    if not busy:
        for index in range(folio.count):
            yield CopyPage(folio.frame + index, new.frame + index)
        _take_over(host, folio, new)
    yield from restore_entries(folio, folio if busy else new)
    folio.locked = new.locked = False
    yield from host.free_unused_slots(folio if busy else new)
    yield from host.put(folio)
    yield from host.put(new)
    return Moved.BUSY if busy else Moved.DONE


def _target(host: Host, folio: Folio) -> Folio | None:
    if folio.pool is not None:
        return folio.pool.take(reserved=False)
    return host.frames.allocate(folio.order)


def _take_over(host: Host, folio: Folio, new: Folio) -> None:
    """folio_migrate_mapping, folio_migrate_flags: caches and what is known about the page."""
    new.anonymous, new.exclusive, new.ksm = folio.anonymous, folio.exclusive, folio.ksm
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
