"""The paging-structure caches: pointers to tables, one cache for each table level."""

from pymodel.cycle.replacement import Lines
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.second_stage import SS_TABLE, level_shift

__all__ = ["PointerCache", "WalkCache"]

_ADDRESS = SS_TABLE["address"].mask
_KEY_BITS = 16  # DID below the address part of a key

Pointer = tuple[int, int, int, int]
"""(level of the table, line index, permissions as bits R and W, table address)."""


class PointerCache:
    """PSC k: pointers to tables of level k (T1)."""

    __slots__ = ("filled", "good", "lines", "shift")

    def __init__(self, count: int, level: int) -> None:
        self.lines = Lines(count)
        self.good = [0] * count
        """Valid sectors of each line, one bit each; means nothing for a line that is not valid."""
        self.filled: list[tuple[tuple[int, ...], int]] = [((), 0)] * count
        """The line of a table that each line holds, and the permissions above it."""
        self.shift = level_shift(level + 1)


class WalkCache:
    """All paging-structure caches (T1, T3) with their fills (W9) and invalidations (I6)."""

    __slots__ = ("_only_smaller", "caches")

    def __init__(self, params: IommuParams) -> None:
        self.caches = [PointerCache(params.psc_entries, level) for level in range(params.max_levels - 1)]
        self._only_smaller = params.psc_scope is Architecture.AMD

    def find(self, did: int, iova: int, depth: int) -> Pointer | None:
        """The pointer to the table of the lowest level k <= depth-2 (T3)."""
        for level in range(depth - 1):
            cache = self.caches[level]
            index = cache.lines.where.get(iova >> cache.shift + 3 << 16 | did)
            if index is not None:
                lane = iova >> cache.shift & 7
                if cache.good[index] >> lane & 1:
                    lanes, permissions = cache.filled[index]
                    entry = lanes[lane]
                    return level, index, entry & permissions, entry & _ADDRESS
        return None

    def key(self, did: int, level: int, iova: int) -> int:
        """Key of the line of PSC `level` that covers `iova` (T1)."""
        return iova >> self.caches[level].shift + 3 << _KEY_BITS | did

    def good_pointers(self, lanes: tuple[int, ...], permissions: int, reserved: int, leaf: int) -> int:
        """Sectors of a line of a table that are good pointers (W9).

        `permissions` are R and W above the line, `reserved` the reserved bits of a pointer, `leaf` the bit
        that makes an entry a leaf, or 0.
        """
        bad = reserved | leaf
        good = 0
        bit = 1
        for entry in lanes:
            if entry & permissions and not entry & bad:
                good |= bit
            bit <<= 1
        return good

    def fill(self, level: int, index: int, key: int, good: int, lanes: tuple[int, ...],
             permissions: int) -> None:  # fmt: skip
        """Replace all sectors of a line of PSC `level` by the `good` pointers of `lanes` (T4, W9)."""
        cache = self.caches[level]
        cache.lines.fill(index, key)
        cache.good[index] = good
        cache.filled[index] = (lanes, permissions)

    def drop_all(self) -> None:
        """Global invalidation (I6)."""
        for cache in self.caches:
            for index in cache.lines.indices():
                cache.lines.drop(index)

    def drop_domain(self, did: int) -> None:
        """Domain-selective invalidation (I6)."""
        for cache in self.caches:
            for index in cache.lines.indices():
                if cache.lines.keys[index] & 0xFFFF == did:
                    cache.lines.drop(index)

    def drop_pages(self, did: int, page: int, mask_bits: int) -> None:
        """Page-selective invalidation with IH=0 of 2**mask_bits pages from page number `page` (I6, K2)."""
        for cache in self.caches:
            bits = mask_bits - (cache.shift - 12)  # log2 of the range in sector spans
            if bits < 0 and self._only_smaller:
                continue
            first = page >> cache.shift - 12
            if bits < 3:
                index = cache.lines.where.get(first >> 3 << _KEY_BITS | did)
                if index is not None:
                    self._drop_sectors(cache, index, first & 7, 1 << max(bits, 0))
            else:
                self._drop_lines(cache, did, first >> bits, bits - 3)

    @staticmethod
    def _drop_lines(cache: PointerCache, did: int, prefix: int, below: int) -> None:
        """Drop the lines of a domain whose address part, without its low bits, is `prefix`."""
        for index in cache.lines.indices():
            key = cache.lines.keys[index]
            if key & 0xFFFF == did and key >> _KEY_BITS + below == prefix:
                cache.lines.drop(index)

    @staticmethod
    def _drop_sectors(cache: PointerCache, index: int, first: int, count: int) -> None:
        cache.good[index] &= ~((1 << count) - 1 << first)
        if not cache.good[index]:
            cache.lines.drop(index)
