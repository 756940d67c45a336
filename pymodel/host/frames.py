"""Physical pages: folios of 4K, 2M and 1G with references, pins and their mappings (mm/page_alloc.c, mm/rmap.c).

Every operation costs the same in any memory; free memory is coalesced at once, and what was freed last is given
out first, so that a stale translation soon points to somebody else's data.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymodel.host.errors import BadRange, DoubleFree, OutOfMemory, UseAfterFree

if TYPE_CHECKING:
    from pymodel.host.files import HugetlbPool, PageCache
    from pymodel.host.process import Process
    from pymodel.host.swap import Slot

__all__ = ["ORDERS", "Folio", "Frames"]

ORDERS = (0, 9, 18)
"""log2 of the 4K pages of a folio: 4K, 2M, 1G."""
_FULL = (1 << 512) - 1


@dataclass(slots=True, eq=False)
class Folio:
    """struct folio: `1 << order` frames from `frame` that are allocated and freed as one."""

    frame: int
    order: int
    refs: int = 1
    pins: int = 0
    """FOLL_PIN: DMA by a device without page faults; the page must not move, nor be shared by a fork."""
    mappings: dict[tuple["Process", int], int] = field(default_factory=dict)
    """(process, hva) -> level of every entry that points here, migration entries too; one reference each."""
    exclusive: int = 0
    """PageAnonExclusive, a bit for each 4K page (one for all of a hugetlb page): only one process has it."""
    anonymous: bool = False
    ksm: bool = False
    """Shared by content; never written in place."""
    locked: bool = False
    slots: dict[int, "Slot"] = field(default_factory=dict)
    """Swap cache: slot of each 4K page, by its place in the folio; together they hold one reference."""
    cache: "tuple[PageCache, int] | None" = None
    """(file, index) in the page cache, which holds a reference."""
    pool: "HugetlbPool | None" = None
    """Pool that a hugetlb page goes back to."""
    temporary: bool = False
    """A hugetlb page beyond the size of its pool: freed, it is free memory (folio_test_hugetlb_temporary)."""
    young: bool = False
    """Accesses that monitoring made the page tables forget, kept for reclaim (PG_young)."""
    idle: bool = False
    """Monitoring made the page old, and nobody has looked at it since (PG_idle)."""

    @property
    def count(self) -> int:
        """4K frames."""
        return 1 << self.order

    @property
    def level(self) -> int:
        """Largest entry that can map it: 1, 2 or 3."""
        return self.order // 9 + 1

    @property
    def whole(self) -> int:
        """All bits of `exclusive`."""
        return 1 if self.pool is not None else (1 << self.count) - 1

    def is_exclusive(self, frame: int) -> bool:
        """PageAnonExclusive of the page at `frame`."""
        return bool(self.exclusive >> self._bit(frame) & 1)

    def set_exclusive(self, frame: int, value: bool) -> None:
        """Note whether only one process has the page at `frame`."""
        mask = 1 << self._bit(frame)
        self.exclusive = self.exclusive | mask if value else self.exclusive & ~mask

    def _bit(self, frame: int) -> int:
        return 0 if self.pool is not None else frame - self.frame

    def unexpected_refs(self) -> int:
        """References that are neither mappings nor caches (folio_expected_refs): somebody is using the page."""
        return self.refs - len(self.mappings) - (self.cache is not None) - bool(self.slots)


class Frames:
    """Allocator over frames `base` .. `base + count`."""

    def __init__(self, base: int, count: int) -> None:
        """Both are frame numbers, multiples of 512. Raises `BadRange` otherwise."""
        if base < 0 or count <= 0 or base % 512 or count % 512:
            raise BadRange(f"host memory must be 2 MiB aligned and not empty, not {count:#x} frames from {base:#x}")
        self.base, self.count = base, count
        self.free_count = 0
        self._live: dict[int, Folio] = {}
        self._blocks: list[dict[int, int]] = [{}, {}]
        """Partly free blocks of 512 frames (of 512 huge pages): number -> bit mask of what is free."""
        self._whole: dict[int, None] = {}
        """Free gigabytes."""
        for huge in range(base // 512, (base + count) // 512):
            self._free_unit(1, huge)
        self.free_count = count

    def allocate(self, order: int, *, anonymous: bool = False) -> Folio:
        """A folio with one reference; its contents are whatever was there. Raises `OutOfMemory`."""
        if order not in ORDERS:
            raise BadRange(f"folio order must be one of {ORDERS}, not {order}")
        folio = Folio(self._take(order // 9) << order, order, anonymous=anonymous)
        self.free_count -= folio.count
        self._live[folio.frame] = folio
        return folio

    def folio(self, frame: int) -> Folio:
        """The live folio that holds `frame`. Raises `UseAfterFree`."""
        for order in ORDERS:
            folio = self._live.get(frame >> order << order)
            if folio is not None and frame < folio.frame + folio.count and (folio.refs or folio.pool is None):
                return folio
        raise UseAfterFree(f"frame {frame:#x} belongs to nobody")

    def release(self, folio: Folio) -> None:
        """Give back a folio without references or mappings. Raises `DoubleFree`, or `UseAfterFree` if it is in use."""
        if self._live.get(folio.frame) is not folio:
            raise DoubleFree(f"frame {folio.frame:#x} is free already")
        if folio.refs or folio.mappings or folio.pins:
            raise UseAfterFree(f"frame {folio.frame:#x} is freed with {folio.refs} references, {folio.pins} pins "
                               f"and {len(folio.mappings)} mappings")  # fmt: skip
        del self._live[folio.frame]
        self.free_count += folio.count
        self._free_unit(folio.order // 9, folio.frame >> folio.order)

    def split(self, folio: Folio) -> list[Folio]:
        """__split_huge_page: a 2M folio becomes 512, which share out its mappings; the caller frees those unused.

        The caller hands the mappings out; its own references go to the first page. `folio` is dead afterwards.
        """
        if folio.order != 9 or self._live.get(folio.frame) is not folio:
            raise BadRange(f"only a live 2 MiB page can be split, not order {folio.order} at {folio.frame:#x}")
        extra = folio.refs - len(folio.mappings)
        parts = [Folio(folio.frame + index, 0, refs=0, anonymous=folio.anonymous) for index in range(512)]
        for part in parts:
            self._live[part.frame] = part
            part.exclusive = folio.exclusive >> (part.frame - folio.frame) & 1
            part.young, part.idle = folio.young, folio.idle
        parts[0].refs, parts[0].locked = extra, folio.locked
        folio.refs, folio.locked = 0, False
        folio.mappings = {}
        return parts

    def is_live(self, frame: int) -> bool:
        """Whether `frame` is the first of an allocated folio."""
        return frame in self._live

    def is_free(self, frame: int) -> bool:
        """Whether `frame` is of this memory and belongs to nobody."""
        try:
            self.folio(frame)
        except UseAfterFree:
            return self.base <= frame < self.base + self.count
        return False

    def live(self) -> tuple[Folio, ...]:
        """Every folio that is allocated."""
        return tuple(self._live.values())

    def _take(self, kind: int) -> int:
        """Number of a free unit: a frame (0), 2 MiB (1) or 1 GiB (2)."""
        if kind == 2:
            if not self._whole:
                raise OutOfMemory("no free gigabyte page")
            return self._whole.popitem()[0]
        blocks = self._blocks[kind]
        if blocks:
            block = next(reversed(blocks))
        else:
            block = self._take(kind + 1) if kind == 0 or self._whole else -1
            if block < 0:
                raise OutOfMemory("no free 2 MiB page")
            blocks[block] = _FULL
        mask = blocks[block]
        bit = mask & -mask
        if mask == bit:
            del blocks[block]
        else:
            blocks[block] = mask ^ bit
        return block << 9 | bit.bit_length() - 1

    def _free_unit(self, kind: int, number: int) -> None:
        if kind == 2:
            self._whole[number] = None
            return
        blocks = self._blocks[kind]
        block, bit = number >> 9, 1 << (number & 511)
        mask = blocks.pop(block, 0) | bit
        if mask == _FULL:
            self._free_unit(kind + 1, block)
        else:
            blocks[block] = mask
