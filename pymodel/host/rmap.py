"""Reverse map: every entry of a page, and the migration entries that stand in for it (mm/rmap.c, mm/migrate.c)."""

from collections.abc import Callable
from dataclasses import dataclass, field

from pymodel.host import entries
from pymodel.host.effects import HostAgent
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process

__all__ = ["Span", "restore_entries", "spans", "still_mapped", "to_migration_entries", "waiting_entry"]


@dataclass(slots=True)
class Span:
    """One mapping's view of a page: the range that the notifiers are told, and the entries in it."""

    mm: Process
    start: int
    end: int
    places: list[tuple[int, int]] = field(default_factory=list)
    """(hva, level)."""

    def refresh(self, folio: Folio) -> None:
        """Find `places` anew, after a split."""
        self.places = [(hva, level) for (mm, hva), level in folio.mappings.items()
                       if mm is self.mm and self.start <= hva < self.end]  # fmt: skip


def spans(folio: Folio) -> list[Span]:
    """The mappings of a page, oldest first: from where the page begins to where it ends, within each VMA."""
    found: dict[tuple[Process, int, int], Span] = {}
    for (mm, hva), level in folio.mappings.items():
        vma = mm.vmas.find(hva)
        assert vma is not None, f"process {mm.ident} has an entry at {hva:#x} outside every mapping"
        value = mm.table.value(level, hva)
        frame = entries.migration_frame(value) if entries.is_migration(value) else entries.mapped_frame(value)
        assert frame is not None
        first = hva - ((frame - folio.frame) << 12)
        span = found.get((mm, vma.start, first))
        if span is None:
            start, end = vma.announced(max(vma.start, first), min(vma.end, first + (folio.count << 12)))
            span = found[mm, vma.start, first] = Span(mm, start, end)
        span.places.append((hva, level))
    return list(found.values())


def waiting_entry(folio: Folio, value: int) -> int | None:
    """The migration entry for the leaf `value` of `folio`; None where it must stay, or is no leaf."""
    frame = entries.mapped_frame(value)
    # A pinned page must stay where its DMA goes (folio_try_share_anon_rmap).
    if frame is None or (folio.pins and folio.is_exclusive(frame)):
        return None
    present = value if value & entries.PRESENT else entries.undo_none_protection(value)
    return entries.migration_entry(present, exclusive=folio.is_exclusive(frame))


def to_migration_entries(folio: Folio, prepare: Callable[[Span], HostAgent[None]] | None = None) -> HostAgent[None]:
    """try_to_migrate: a start and an end for each mapping; in between its entries become migration entries.

    `prepare` runs before the start of each mapping, and may change its entries.
    """
    for span in spans(folio):
        if prepare is not None:
            yield from prepare(span)
            span.refresh(folio)
        yield from span.mm.invalidate_start(span.start, span.end, MmuEvent.CLEAR)
        for hva, level in span.places:
            if folio.mappings.get((span.mm, hva)) != level:
                continue
            new = waiting_entry(folio, span.mm.table.value(level, hva))
            if new is not None:
                yield span.mm.write_entry(hva, level, new)
        yield from span.mm.invalidate_end(span.start, span.end, MmuEvent.CLEAR)


def still_mapped(folio: Folio) -> bool:
    """folio_mapped, after `to_migration_entries`: an entry stayed, or came by a fork."""
    return any(not entries.is_migration(mm.table.value(level, hva)) for (mm, hva), level in folio.mappings.items())


def restore_entries(folio: Folio, target: Folio) -> HostAgent[None]:
    """remove_migration_ptes: every migration entry of `folio` becomes a leaf again, to the pages of `target`.

    `target` may be `folio` itself. No notifier is called: nothing was mapped. A mapping that appears meanwhile (by
    a fork) is served as well.
    """
    while True:
        waiting = [(mm, hva, level) for (mm, hva), level in folio.mappings.items()
                   if entries.is_migration(mm.table.value(level, hva))]  # fmt: skip
        if not waiting:
            return
        for mm, hva, level in waiting:
            value = mm.table.value(level, hva)
            if folio.mappings.get((mm, hva)) != level or not entries.is_migration(value):
                continue
            vma = mm.vmas.find(hva)
            assert vma is not None
            frame = target.frame + entries.migration_frame(value) - folio.frame
            new = entries.after_migration(value, frame, level, may_write=vma.write)
            if target.anonymous:
                # The entry knows whose the page is: a fork may have shared it meanwhile.
                _set_exclusive(target, frame, level, entries.migration_exclusive(value))
            if target is not folio:
                del folio.mappings[mm, hva]
                target.mappings[mm, hva] = level
                folio.refs -= 1
                target.refs += 1
            yield mm.write_entry(hva, level, new if vma.read else entries.none_protection(new))


def _set_exclusive(folio: Folio, frame: int, level: int, value: bool) -> None:
    if level > 1:
        folio.exclusive = folio.whole if value else 0
    else:
        folio.set_exclusive(frame, value)
