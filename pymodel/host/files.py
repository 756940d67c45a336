"""Files in memory: memfd (shmem) and hugetlbfs, with the page caches that processes share."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from pymodel.host.errors import BadRange, DoubleFree, OutOfMemory
from pymodel.host.frames import Folio, Frames
from pymodel.host.swap import Slot

if TYPE_CHECKING:
    from pymodel.host.process import Process

__all__ = ["HugetlbFile", "HugetlbPool", "MemFile", "PageCache", "pages_within"]


class MemFile:
    """A memfd: 4K pages, in memory or in a swap slot, by their index in the file."""

    level = 1

    def __init__(self) -> None:
        self.pages: dict[int, Folio | Slot] = {}
        self.mappers: dict[Process, None] = {}
        """Processes that map it (i_mmap), oldest first."""


class HugetlbPool:
    """Huge pages set aside at boot (nr_hugepages), with the reservations of the mappings."""

    def __init__(self, frames: Frames, level: int, count: int) -> None:
        """`level`: 2 or 3. Raises `BadRange`, and `OutOfMemory` where memory has no `count` such pages."""
        if level not in (2, 3):
            raise BadRange(f"hugetlb pages are of level 2 or 3, not {level}")
        self.level = level
        self.total = count
        self.reserved = 0
        """Free pages that belong to mappings which have not touched them yet."""
        self._free: list[Folio] = []
        for _ in range(count):
            folio = frames.allocate(9 * (level - 1))
            folio.refs, folio.pool = 0, self
            self._free.append(folio)

    @property
    def free(self) -> int:
        """Free pages, reserved ones included."""
        return len(self._free)

    def reserve(self, count: int) -> None:
        """hugetlb_acct_memory. Raises `OutOfMemory`: mmap fails with ENOMEM."""
        if self.reserved + count > self.free:
            raise OutOfMemory(f"{count} hugetlb pages of level {self.level} asked for, "
                              f"{self.free - self.reserved} neither used nor reserved")  # fmt: skip
        self.reserved += count

    def unreserve(self, count: int) -> None:
        """Give reservations back."""
        if count > self.reserved:
            raise DoubleFree(f"{count} hugetlb reservations given back, {self.reserved} are held")
        self.reserved -= count

    def take(self, *, reserved: bool) -> Folio | None:
        """A page with one reference, out of the reservation or beside it; None: the access ends in SIGBUS."""
        if reserved:
            self.reserved -= 1
        elif self.free <= self.reserved:
            return None
        folio = self._free.pop()
        folio.refs = 1
        return folio

    def give_back(self, folio: Folio) -> None:
        """free_huge_folio. Raises `DoubleFree`."""
        if folio.refs or folio.mappings:
            raise DoubleFree(f"hugetlb page {folio.frame:#x} is given back while it is in use")
        folio.exclusive, folio.anonymous, folio.young, folio.idle = 0, False, False, False
        self._free.append(folio)


class HugetlbFile:
    """A file of hugetlbfs (memfd with MFD_HUGETLB): pages of its pool by their index."""

    def __init__(self, pool: HugetlbPool) -> None:
        self.pool = pool
        self.level = pool.level
        self.pages: dict[int, Folio | Slot] = {}
        self.mappers: dict[Process, None] = {}
        self.reserved: set[int] = set()
        """Indices that a shared mapping has reserved and nobody has touched."""


PageCache: TypeAlias = MemFile | HugetlbFile


def pages_within(pages: Mapping[int, object], first: int, end: int) -> list[int]:
    """Indices `first`..`end` that have a page, rising; costs no more than the smaller of range and cache."""
    if end - first < len(pages):
        return [index for index in range(first, end) if index in pages]
    return sorted(index for index in pages if first <= index < end)
