"""The page cache of memfd files: pages found, made, or read back from swap (mm/shmem.c shmem_get_folio)."""

from pymodel.host.effects import ClearPage, CopyPage, HostAgent
from pymodel.host.files import MemFile
from pymodel.host.frames import Folio
from pymodel.host.process import Host
from pymodel.host.swap import Slot

__all__ = ["cache_page"]


def cache_page(host: Host, file: MemFile, index: int) -> HostAgent[Folio | None]:
    """The page of the file, in memory; None while somebody holds its lock, or where another was faster.

    The cache's reference keeps it. Raises `OutOfMemory`.
    """
    found = file.pages.get(index)
    if isinstance(found, Folio):
        return None if found.locked else found
    folio = host.frames.allocate(0)
    yield ClearPage(folio.frame) if found is None else CopyPage(found.frame, folio.frame)
    if file.pages.get(index) is not found:
        yield from host.put(folio)
        return None
    file.pages[index] = folio
    folio.cache = file, index
    if isinstance(found, Slot):
        yield from host.put_slot(found)
    return folio
