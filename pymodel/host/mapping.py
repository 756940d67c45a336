"""mmap, munmap, mremap and exit, with the splits of VMAs that they need (mm/mmap.c, mm/mremap.c)."""

from dataclasses import replace

from pymodel.host import entries
from pymodel.host.effects import HostAgent, MmapLock, MmapUnlock
from pymodel.host.errors import BadRange, OutOfMemory
from pymodel.host.files import HugetlbFile, MemFile, PageCache
from pymodel.host.ksm import unmerge
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process, check_range
from pymodel.host.regions import KINDS, holds_huge
from pymodel.host.split import split_entry
from pymodel.host.vma import Vma
from pymodel.host.zap import Gather, zap_range

__all__ = ["exit_process", "mmap", "mremap", "munmap", "split_at"]

_LEVELS = {"hugetlb2m": 2, "hugetlb1g": 3}


def split_at(mm: Process, hva: int) -> HostAgent[None]:
    """split_vma: make `hva` a boundary. A huge page around it is split first (vma_adjust_trans_huge).

    The notifiers hear of that wherever the huge page would fit, if the process has tables there at all.
    """
    vma = mm.vmas.find(hva)
    if vma is None or vma.start == hva:
        return
    if vma.pool is None and hva % (1 << 21) and holds_huge(vma.start, vma.end, hva) and hva >> 30 in mm.pmd_tables:
        yield from split_entry(mm, hva)
    mm.vmas.split(vma, hva)


def mmap(
    mm: Process,
    hva: int,
    length: int,
    kind: str,
    *,
    read: bool = True,
    write: bool = True,
    file: PageCache | None = None,
    offset: int = 0,
    shared: bool | None = None,
) -> HostAgent[Vma]:
    """MAP_FIXED: map `length` bytes at `hva`, in the place of what was there.

    `kind` is of `regions.KINDS`; memfd needs a `file`, the hugetlb kinds may have one. `shared` is the default
    with a file. Raises `BadRange` for what mmap refuses (EINVAL), `OutOfMemory` where hugetlb pages cannot be reserved.
    """
    if kind not in KINDS:
        raise BadRange(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    level = _LEVELS.get(kind, 1)
    end = check_range(hva, length, level)
    vma = Vma(hva, end, kind, read, write, file is not None if shared is None else shared, file,
              offset if file is not None else hva)  # fmt: skip
    _check_backing(mm, vma, level)
    _check_edges(mm, hva, end)
    yield MmapLock(mm.ident, True)
    yield from _munmap_locked(mm, hva, end)
    try:
        _reserve(vma, level)
    except OutOfMemory:
        yield MmapUnlock(mm.ident, True)
        raise
    mm.vmas.insert(vma)
    if file is not None:
        file.mappers.setdefault(mm)
    mm.vmas.merge(hva, end)
    yield MmapUnlock(mm.ident, True)
    found = mm.vmas.find(hva)
    assert found is not None
    return found


def _check_backing(mm: Process, vma: Vma, level: int) -> None:
    wanted = {"memfd": MemFile, "hugetlb2m": HugetlbFile, "hugetlb1g": HugetlbFile}.get(vma.kind)
    if vma.file is None and vma.kind == "memfd":
        raise BadRange("a memfd mapping needs a file")
    if vma.file is not None and (wanted is None or not isinstance(vma.file, wanted) or vma.file.level != level):
        raise BadRange(f"a {vma.kind} mapping cannot show a {type(vma.file).__name__} of level {vma.file.level}")
    if vma.shared != (vma.file is not None) and vma.kind != "memfd":
        raise BadRange(f"a {vma.kind} mapping is shared with a file and private without")
    if vma.file is not None and (vma.offset % entries.page_size(level) or vma.offset < 0):
        raise BadRange(f"file offset must be a multiple of {entries.page_size(level):#x}, not {vma.offset:#x}")
    if level > 1:
        pool = vma.file.pool if isinstance(vma.file, HugetlbFile) else mm.host.pools.get(level)
        if pool is None:
            raise BadRange(f"the host has no pool of {vma.kind} pages")
        vma.pool = pool


def _reserve(vma: Vma, level: int) -> None:
    """hugetlb_reserve_pages: one page for each that is not there yet."""
    if vma.pool is None:
        return
    size = entries.page_size(level)
    if isinstance(vma.file, HugetlbFile):
        first = vma.index(vma.start)
        wanted = set(range(first, first + (vma.end - vma.start) // size))
        new = {index for index in wanted if index not in vma.file.pages} - vma.file.reserved
        vma.pool.reserve(len(new))
        vma.file.reserved |= new
    else:
        vma.pool.reserve((vma.end - vma.start) // size)
        vma.reserve = set(range(vma.start, vma.end, size))


def munmap(mm: Process, hva: int, length: int) -> HostAgent[None]:
    """Take mappings away; holes are fine. Raises `BadRange` (EINVAL) for part of a page."""
    end = check_range(hva, length)
    _check_edges(mm, hva, end)
    yield MmapLock(mm.ident, True)
    yield from _munmap_locked(mm, hva, end)
    yield MmapUnlock(mm.ident, True)


def _check_edges(mm: Process, start: int, end: int) -> None:
    """Before anything changes: nobody can cut a hugetlb page."""
    for vma in mm.vmas.touching(start, end):
        for edge in (start, end):
            if vma.start < edge < vma.end and edge % entries.page_size(vma.level):
                raise BadRange(f"hva {edge:#x} lies inside a {vma.kind} page")


def _munmap_locked(mm: Process, start: int, end: int) -> HostAgent[None]:
    """do_vmi_munmap, unmap_region: one start and end of UNMAP over the whole range, then the pages are freed."""
    yield from split_at(mm, start)
    yield from split_at(mm, end)
    vmas = mm.vmas.touching(start, end)
    if not vmas:
        return
    gather = Gather()
    yield from mm.invalidate_start(start, end, MmuEvent.UNMAP)
    for vma in vmas:
        yield from zap_range(mm, vma, start, end, gather)
    yield from mm.invalidate_end(start, end, MmuEvent.UNMAP)
    for vma in vmas:
        mm.vmas.remove(vma)
        if vma.pool is not None and vma.reserve is not None:
            vma.pool.unreserve(len(vma.reserve))
    _free_tables(mm, start, end)
    for file in {vma.file for vma in vmas if vma.file is not None}:
        if not mm.vmas.of_file(file):
            file.mappers.pop(mm, None)
    yield from gather.finish(mm.host)


def _free_tables(mm: Process, start: int, end: int) -> None:
    """free_pgtables: tables go where no mapping is left over their span."""
    for tables, shift in ((mm.pte_tables, 21), (mm.pmd_tables, 30)):
        inside = range(start >> shift, ((end - 1) >> shift) + 1)
        few, many = (tables, inside) if len(tables) < len(inside) else (inside, tables)
        for span in [span for span in few if span in many]:
            if not mm.vmas.touching(span << shift, (span + 1) << shift):
                tables.discard(span)


def mremap(mm: Process, hva: int, length: int, to: int) -> HostAgent[None]:
    """MREMAP_FIXED without a change of size: move entries from one mapping to `to` (move_vma).

    The notifiers hear of the place that is overwritten, of KSM pages that are copied again, of the move and of the
    unmapping of the old place. Raises `BadRange` where the ranges overlap, the source is not one mapping, or it is
    hugetlb.
    """
    end, target_end = check_range(hva, length), check_range(to, length)
    if hva < target_end and to < end:
        raise BadRange(f"mremap of {length:#x} bytes from {hva:#x} to {to:#x} overlaps itself")
    source = mm.vmas.find(hva)
    if source is None or source.end < end or source.pool is not None:
        raise BadRange(f"mremap needs one mapping that is not hugetlb over {hva:#x}..{end:#x}")
    _check_edges(mm, to, target_end)
    yield MmapLock(mm.ident, True)
    yield from _munmap_locked(mm, to, target_end)
    target = replace(source, start=to, end=target_end)
    target.offset = source.offset + hva - source.start if source.file is not None or source.anon_vma else to
    if source.mergeable:
        yield from unmerge(mm, hva, end)
    mm.vmas.insert(target)
    announced = _move_start(mm, hva, end, to)
    yield from mm.invalidate_start(announced, end, MmuEvent.UNMAP)
    for entry in mm.table.leaves(hva, end):
        whole = hva <= entry.hva and entry.hva + entries.page_size(entry.level) <= end
        place = entry.hva - hva + to
        fits = entry.level == 1 or (place % (1 << 21) == 0 and place >> 21 not in mm.pte_tables)
        if not (whole and fits):
            yield from split_entry(mm, entry.hva)
            for part in mm.table.leaves(max(hva, entry.hva), min(end, entry.hva + (1 << 21))):
                yield from _move_entry(mm, part.hva, part.hva - hva + to, part.level)
        else:
            yield from _move_entry(mm, entry.hva, place, entry.level)
    yield from mm.invalidate_end(announced, end, MmuEvent.UNMAP)
    yield from _munmap_locked(mm, hva, end)
    mm.vmas.merge(to, target_end)
    yield MmapUnlock(mm.ident, True)


def _move_start(mm: Process, hva: int, end: int, to: int) -> int:
    """try_realign_addr: the move begins 2 MiB aligned, so that a whole table can be moved, where that hurts nobody.

    That is where both places are equal within their 2 MiB, the range reaches the next, and nothing is mapped before.
    """
    before = hva & (1 << 21) - 1
    if not mm.host.kernel.mremap_aligns or not before or to & (1 << 21) - 1 != before:
        return hva
    if end - hva < (1 << 21) - before:
        return hva
    free = not any(mm.vmas.touching(start - before, start) for start in (hva, to))
    return hva - before if free else hva


def _move_entry(mm: Process, hva: int, to: int, level: int) -> HostAgent[None]:
    value = mm.table.value(level, hva)
    if not value:
        return
    folio = mm.folio_at(hva, level)
    gone, come = mm.write_entry(hva, level, 0), mm.write_entry(to, level, value)
    if folio is not None:
        del folio.mappings[mm, hva]
        folio.mappings[mm, to] = level
    yield gone
    yield come


def exit_process(mm: Process) -> HostAgent[None]:
    """exit_mmap: the notifiers release first, then everything goes without another word to them."""
    yield MmapLock(mm.ident, True)
    for notifier in mm.notifiers:
        yield from notifier.release()
    mm.notifiers.clear()
    for vma in mm.vmas:
        yield from _munmap_locked(mm, vma.start, vma.end)
    del mm.host.processes[mm.ident]
    yield MmapUnlock(mm.ident, True)
