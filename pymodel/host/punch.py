"""fallocate(PUNCH_HOLE): pages of a file vanish from every process that maps it (mm/shmem.c, fs/hugetlbfs/inode.c)."""

from pymodel.host import entries
from pymodel.host.effects import HostAgent, PageBusy
from pymodel.host.errors import BadRange
from pymodel.host.files import PageCache, pages_within
from pymodel.host.frames import Folio
from pymodel.host.process import Host
from pymodel.host.swap import Slot
from pymodel.host.zap import unmap_pages

__all__ = ["punch_hole"]


def punch_hole(host: Host, file: PageCache, offset: int, length: int) -> HostAgent[None]:
    """Drop the pages of `length` bytes from `offset`: unmap_mapping_range in each process, then out of the cache.

    Each mapping sees a start and an end over its part, mapped or not, private mappings too, whose copies stay.
    Raises `BadRange` for part of a page.
    """
    size = entries.page_size(file.level)
    if offset < 0 or length <= 0 or offset % size or length % size:
        raise BadRange(f"a hole must be whole pages of {size:#x} bytes, not {length:#x} at {offset:#x}")
    for mm in list(file.mappers):
        for vma in mm.vmas.of_file(file):
            low = max(vma.start, vma.start + offset - vma.offset)
            high = min(vma.end, vma.start + offset + length - vma.offset)
            if low < high:
                yield from unmap_pages(mm, vma, low, high)
    for index in pages_within(file.pages, offset // size, (offset + length) // size):
        while (page := file.pages.get(index)) is not None:
            if isinstance(page, Slot):
                del file.pages[index]
                yield from host.put_slot(page)
            elif page.locked or page.mappings:
                yield PageBusy(0, offset)
            else:
                yield from _drop(host, file, index, page)


def _drop(host: Host, file: PageCache, index: int, page: Folio) -> HostAgent[None]:
    """delete_from_page_cache. Hugetlb mappings have no reservation for the page any more (vma_has_reserves)."""
    del file.pages[index]
    page.cache = None
    yield from host.put(page)
