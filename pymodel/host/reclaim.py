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
from pymodel.host.split import split_folio, split_mappings
from pymodel.host.swap import Slot

__all__ = ["reclaim", "referenced"]


def reclaim(host: Host, folios: Iterable[Folio], *, ages: bool = True) -> HostAgent[int]:
    """shrink_folio_list: how many 4K pages went to swap.

    With `ages`, a page that any page table or secondary MMU saw accessed since the last time stays, and its marks
    are cleared (clear_flush_young). Pages that are pinned, in use, hugetlb, or zero pages stay in any case.
    """
    done = 0
    for folio in folios:
        if folio.refs == 0 or folio.locked or folio.pool is not None or not (folio.anonymous or folio.cache):
            continue
        if ages and (yield from referenced(folio)):
            continue
        if folio.pins or folio.locked or folio.refs == 0:
            continue
        if folio.order and any(level == 1 for level in folio.mappings.values()):
            frames = range(folio.frame, folio.frame + folio.count)
            if (yield from split_folio(host, folio)):
                live = [host.frames.folio(frame) for frame in frames if host.frames.is_live(frame)]
                done += yield from reclaim(host, live, ages=False)
            continue
        if (yield from _swap_out(host, folio)):
            done += folio.count
    return done


def referenced(folio: Folio) -> HostAgent[bool]:
    """folio_referenced: clear A in every entry of the page and in every secondary MMU, and flush; True if any was set.

    Also what shrink_active_list does to a page before it may be reclaimed.
    """
    young = False
    for span in spans(folio):
        for hva, level in span.places:
            value = span.mm.table.value(level, hva)
            if value & entries.PRESENT and value & entries.ACCESSED:
                young = True
                span.mm.table.set(level, hva, value & ~entries.ACCESSED)
            if (yield from span.mm.clear_flush_young(hva, hva + entries.page_size(level))):
                young = True
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
    yield from split_mappings(folio)
    for span in spans(folio):
        yield from span.mm.invalidate_start(span.start, span.end, MmuEvent.CLEAR)
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
        if folio.mappings.get((span.mm, hva)) != level or level > 1 or frame is None or folio.pins:
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
