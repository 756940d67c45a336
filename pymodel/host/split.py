"""Splitting: a 2M entry into 512 entries of the same page, and a 2M page into 512 pages (mm/huge_memory.c)."""

from collections.abc import Iterable

from pymodel.host import entries
from pymodel.host.effects import HostAgent, HostPteChanged
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Host, Process
from pymodel.host.rmap import Span, restore_entries, still_mapped, to_migration_entries, waiting_entry

__all__ = ["shrink_deferred", "split_entry", "split_folio", "split_quietly"]

_HUGE = 1 << 21


def split_entry(mm: Process, hva: int, *, freeze: bool = False, only: Folio | None = None) -> HostAgent[None]:
    """__split_huge_pmd: the notifiers hear of it even where no 2M entry is found between the calls.

    With `freeze` the 512 entries are migration entries at once. With `only`, the entry of another page stays.
    """
    base = hva & ~(_HUGE - 1)
    yield from mm.invalidate_start(base, base + _HUGE, MmuEvent.CLEAR)
    if only is None or mm.folio_at(base, 2) is only:
        yield from _split_locked(mm, base, freeze)
    yield from mm.invalidate_end(base, base + _HUGE, MmuEvent.CLEAR)


def split_quietly(mm: Process, hva: int) -> HostAgent[None]:
    """split_huge_pmd_locked: the caller is between a start and an end that cover the 2M entry."""
    yield from _split_locked(mm, hva & ~(_HUGE - 1), False)


def _split_locked(mm: Process, base: int, freeze: bool) -> Iterable[HostPteChanged]:
    """All entries change in one section under the lock; the effects follow."""
    value = mm.table.value(2, base)
    if not value:
        return []
    folio = mm.folio_at(base, 2)
    changes = [mm.write_entry(base, 2, 0)]
    if folio is not None:
        del folio.mappings[mm, base]
        folio.refs += 511
        if folio.exclusive:
            folio.exclusive = folio.whole
    for index in range(512):
        hva = base + (index << 12)
        small = _part(mm.host, value, index)
        if folio is not None:
            folio.mappings[mm, hva] = 1
            small = (waiting_entry(folio, small) if freeze else None) or small
        changes.append(mm.write_entry(hva, 1, small))
    return changes


def _part(host: Host, value: int, index: int) -> int:
    if entries.is_migration(value):
        return entries.migration_part(value, index)
    frame = entries.mapped_frame(value)
    assert frame is not None
    if host.is_zero(frame):
        return entries.zero_leaf(host.zero.frame, 1)
    small = entries.part(value, index)
    return small if host.kernel.split_keeps_dirty else small & ~entries.DIRTY


def split_folio(host: Host, folio: Folio) -> HostAgent[bool]:
    """split_huge_page: True if the page is 512 pages now, False if somebody uses it.

    Every mapping becomes migration entries while the page is taken apart (unmap_folio, remap_page); pages that
    nobody maps are freed.
    """
    if folio.order != 9 or folio.pool is not None or folio.locked:
        return False
    if folio.pins or folio.slots or folio.unexpected_refs():
        return False
    folio.locked = True
    folio.refs += 1

    def split(span: Span) -> HostAgent[None]:
        """TTU_SPLIT_HUGE_PMD: announced for every mapping, also where its entries are small already."""
        return split_entry(span.mm, span.start, freeze=True, only=folio)

    yield from to_migration_entries(folio, split)
    # A fork may have come in between with an entry of the whole page, or of a part.
    if folio.unexpected_refs() != 1 or still_mapped(folio) or 2 in folio.mappings.values():
        yield from restore_entries(folio, folio)
        folio.locked = False
        yield from host.put(folio)
        return False
    yield from _take_apart(host, folio)
    return True


def _take_apart(host: Host, folio: Folio) -> HostAgent[None]:
    """__split_huge_page, remap_page: every entry is a migration entry now, and goes to the page of its own."""
    host.deferred.pop(folio, None)
    mappings = list(folio.mappings.items())
    parts = host.frames.split(folio)
    for (mm, hva), level in mappings:
        part = parts[entries.migration_frame(mm.table.value(level, hva)) - folio.frame]
        part.mappings[mm, hva] = level
        part.refs += 1
    # Every part is held and locked until its entries are back; the first inherits what the caller held.
    for part in parts[1:]:
        part.refs, part.locked = part.refs + 1, True
    for part in parts:
        yield from restore_entries(part, part)
    for part in parts:
        part.locked = False
        yield from host.put(part)


def shrink_deferred(host: Host) -> HostAgent[int]:
    """deferred_split_scan: split the huge pages of which a part is unmapped; how many were."""
    done = 0
    for folio in list(host.deferred):
        if folio in host.deferred and (yield from split_folio(host, folio)):
            done += 1
    return done
