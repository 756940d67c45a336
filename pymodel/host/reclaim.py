"""Reclaim: pages that nobody touched lately go to swap and come back at the next fault (mm/vmscan.c, mm/rmap.c)."""

from collections.abc import Iterable

from pymodel.host import entries
from pymodel.host.effects import CopyPage, HostAgent
from pymodel.host.errors import OutOfMemory
from pymodel.host.files import MemFile
from pymodel.host.frames import Folio
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Host
from pymodel.host.rmap import Span, spans
from pymodel.host.split import split_entry, split_folio, split_quietly
from pymodel.host.swap import Slot

__all__ = ["reclaim", "referenced"]


def reclaim(host: Host, folios: Iterable[Folio], *, ages: bool = True) -> HostAgent[int]:
    """shrink_folio_list: how many 4K pages went to swap.

    With `ages`, a page that any page table or secondary MMU saw accessed since the last time stays, and its marks
    are cleared (clear_flush_young). Pages that are pinned, in use, hugetlb, or zero pages stay in any case; those of
    a file are unmapped nevertheless, for that they are pinned is looked at only then.
    """
    done = 0
    for folio in folios:
        if folio.refs == 0 or folio.locked or folio.pool is not None or not (folio.anonymous or folio.cache):
            continue
        if ages and (yield from referenced(folio)):
            continue
        if (folio.pins and folio.anonymous) or folio.locked or folio.refs == 0:
            continue
        if folio.order and _goes_in_parts(host, folio):
            frames = range(folio.frame, folio.frame + folio.count)
            if (yield from split_folio(host, folio)):
                live = [host.frames.folio(frame) for frame in frames if host.frames.is_live(frame)]
                # The first part has had its turn.
                head = [part for part in live if part.frame == frames[0]]
                done += yield from reclaim(host, head, ages=False)
                done += yield from reclaim(host, [part for part in live if part not in head], ages=ages)
            continue
        if (yield from _swap_out(host, folio)):
            done += folio.count
    return done


def _goes_in_parts(host: Host, folio: Folio) -> bool:
    """A huge page that no 2M entry maps (from 6.10 on: of which a part is unmapped) is split before it is taken.

    So is one that swap has no room for.
    """
    if host.swap.count - host.swap.used < folio.count - len(folio.slots):
        return True
    if host.kernel.huge_parts_stay:
        return folio in host.deferred
    return 2 not in folio.mappings.values()


def referenced(folio: Folio) -> HostAgent[bool]:
    """folio_referenced: clear A in every entry of the page and in every secondary MMU, and flush; True if any was set.

    Also what shrink_active_list does to a page before it may be reclaimed.
    """
    young, folio.young = folio.young, False
    for span in spans(folio):
        for hva, level in span.places:
            value = span.mm.table.value(level, hva)
            if entries.mapped_frame(value) is not None and value & entries.ACCESSED:
                young = True
                span.mm.table.set(level, hva, value & ~entries.ACCESSED)
            if (yield from span.mm.clear_flush_young(hva, hva + entries.page_size(level))):
                young = True
    if young:
        folio.idle = False
    return young


def _swap_out(host: Host, folio: Folio) -> HostAgent[bool]:
    """add_to_swap, try_to_unmap, pageout, __remove_mapping; False where swap is full or somebody got hold of the page.

    A page of a file leaves its slot in the page cache and nothing in the page tables; an anonymous one leaves swap
    entries. What is written is what the page holds once nobody can write it any more.
    """
    if not _add_to_swap(host, folio):
        return False
    folio.locked = True
    folio.refs += 1
    for span in spans(folio):
        if folio.order and host.kernel.reclaim_announces_split:
            yield from split_entry(span.mm, span.start, only=folio)
        yield from span.mm.invalidate_start(span.start, span.end, MmuEvent.CLEAR)
        for hva, level in span.places:
            if level == 2 and span.mm.folio_at(hva, 2) is folio:
                yield from split_quietly(span.mm, hva)
        span.refresh(folio)
        yield from _unmap(folio, span)
        yield from span.mm.invalidate_end(span.start, span.end, MmuEvent.CLEAR)
    done = False
    if not folio.mappings:
        for index, slot in folio.slots.items():
            yield CopyPage(folio.frame + index, slot.frame)
        done = folio.unexpected_refs() == 1 and not folio.mappings and not folio.pins
    yield from _leave_caches(host, folio, gone=done)
    folio.locked = False
    yield from host.put(folio)
    return done


def _add_to_swap(host: Host, folio: Folio) -> bool:
    """add_to_swap: before the page is unmapped, so that a fault finds it as long as it is there."""
    slots: list[Slot] = []
    wanted = [index for index in range(folio.count) if index not in folio.slots]
    try:
        for _ in wanted:
            slots.append(host.swap.allocate())
    except OutOfMemory:
        for slot in slots:
            host.swap.release(slot)
        return False
    for index, slot in zip(wanted, slots):
        slot.attach(folio, index)
    return True


def _unmap(folio: Folio, span: Span) -> HostAgent[None]:
    """try_to_unmap_one."""
    for hva, level in span.places:
        value = span.mm.table.value(level, hva)
        frame = entries.mapped_frame(value)
        # A 2M entry can only be of a child that was born after the others were split: the page stays.
        if folio.mappings.get((span.mm, hva)) != level or level > 1 or frame is None:
            continue
        if folio.pins and folio.anonymous:
            continue
        new = 0
        if folio.anonymous:
            slot = folio.slots[frame - folio.frame]
            slot.refs += 1
            new = entries.swap_entry(slot.number, exclusive=folio.is_exclusive(frame))
        change, _ = span.mm.unmap_page(hva, level, new)
        folio.refs -= 1
        yield change


def _leave_caches(host: Host, folio: Folio, *, gone: bool) -> HostAgent[None]:
    """__remove_mapping where the page is `gone`: its slots stay where something names them.

    Otherwise it keeps the slots that swap entries name, so that whoever finds one gets the page itself.
    """
    if gone and folio.cache is not None:
        file, index = folio.cache
        assert isinstance(file, MemFile)
        file.pages[index] = folio.slots[0]
        folio.slots[0].refs += 1
        folio.cache = None
        folio.refs -= 1
    for slot in list(folio.slots.values()):
        if not gone and slot.refs:
            continue
        alone = slot.detach()
        if slot.refs == 0:
            host.swap.release(slot)
        if alone is not None:
            yield from host.put(alone)
