"""The IOTLB: leaves by domain, level and address, 8 sectors a line."""

from pymodel.cycle.layout import ResponseShifts
from pymodel.cycle.replacement import Lines
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.second_stage import ENTRIES_PER_LINE, INTERRUPT_FIRST, LEAVES, level_shift

__all__ = ["Iotlb", "Sector"]

Sector = tuple[int, int, int, int]
"""(line index, R and W as in an entry, packed answer without tag and offset, mask of the page offset)."""

_KEY_BITS = 18  # DID and level below the address part of a key


def _key(address_part: int, did: int, level: int) -> int:
    return address_part << _KEY_BITS | did << 2 | level


class Iotlb:
    """Cached leaves (T1, T2) with their fills (W9) and invalidations (I6)."""

    __slots__ = ("_bases", "_entry_shifts", "_filled", "_interrupt", "_leaf_masks", "_levels",
                 "_only_smaller", "_sectors", "_snoop", "counts", "good", "lines")  # fmt: skip

    def __init__(self, params: IommuParams, shifts: ResponseShifts) -> None:
        self.lines = Lines(params.iotlb_entries)
        self.good = [0] * params.iotlb_entries
        """Valid sectors of each line, one bit each; means nothing for a line that is not valid."""
        self._filled: list[tuple[tuple[int, ...], int]] = [((), 0)] * params.iotlb_entries
        self._sectors: list[list[Sector | None]] = [[]] * params.iotlb_entries  # made when they are first hit
        self.counts = [0, 0, 0]
        self._only_smaller = params.inval_scope is Architecture.AMD
        self._entry_shifts = (shifts.address, shifts.permissions, shifts.snoop - LEAVES[0]["snp"].lsb)
        self._levels = tuple((level, level_shift(level)) for level in range(params.large_pages + 1))
        self._bases = [1 | level << shifts.level for level in range(3)]
        self._leaf_masks = [leaf["address"].mask for leaf in LEAVES]
        self._snoop = LEAVES[0]["snp"].mask if params.snp_legal else 0
        shift = [max(20, level_shift(level)) for level in range(3)]
        self._interrupt = tuple((bits, INTERRUPT_FIRST >> bits) for bits in shift)

    def find(self, did: int, iova: int) -> Sector | None:
        """The valid sector that matches; with several lines the one with the lowest index (T2)."""
        found = None
        where, counts = self.lines.where, self.counts
        for level, shift in self._levels:
            if counts[level]:
                index = where.get(iova >> shift + 3 << 18 | did << 2 | level)
                if index is not None:
                    lane = iova >> shift & 7
                    if self.good[index] >> lane & 1 and (found is None or index < found[0]):
                        found = self._sectors[index][lane] or self._sector(level, index, lane)
        return found

    def _sector(self, level: int, index: int, lane: int) -> Sector:
        """Make a sector from the entry that it was filled with."""
        lanes, permissions = self._filled[index]
        entry = lanes[lane]
        address_at, permissions_at, snoop_at = self._entry_shifts
        word = self._bases[level] | (entry & self._leaf_masks[level]) << address_at
        word |= (entry & permissions) << permissions_at | (entry & self._snoop) << snoop_at
        sector = (index, entry & permissions, word, (1 << level_shift(level)) - 1)
        self._sectors[index][lane] = sector
        return sector

    def good_leaves(self, lanes: tuple[int, ...], level: int, permissions: int, reserved: int,
                    want: int) -> int:  # fmt: skip
        """Sectors of a line of a table that may be filled (W9).

        `permissions` are R and W above the line; a good leaf has `want` set and `reserved` clear.
        """
        shift, interrupt = self._interrupt[level]
        address = self._leaf_masks[level]
        good = 0
        bit = 1
        for entry in lanes:
            if entry & permissions and not entry & reserved and entry & want == want:
                if (entry & address) >> shift != interrupt:
                    good |= bit
            bit <<= 1
        return good

    def key(self, did: int, level: int, iova: int) -> int:
        """Key of the line that holds the page of `iova` at `level` (T1)."""
        return _key(iova >> level_shift(level) + 3, did, level)

    def fill(self, index: int, key: int, good: int, lanes: tuple[int, ...], permissions: int) -> None:
        """Replace all sectors of a line by the `good` leaves of `lanes` (T4, W9)."""
        lines = self.lines
        if lines.valid >> index & 1:
            self.counts[lines.keys[index] & 3] -= 1
        lines.fill(index, key)
        self.counts[key & 3] += 1
        self.good[index] = good
        self._filled[index] = (lanes, permissions)
        self._sectors[index] = [None] * ENTRIES_PER_LINE

    def drop_all(self) -> None:
        """Global invalidation (I6)."""
        for index in self.lines.indices():
            self._drop(index)

    def drop_domain(self, did: int) -> None:
        """Domain-selective invalidation (I6)."""
        keys = self.lines.keys
        for index in self.lines.indices():
            if keys[index] >> 2 & 0xFFFF == did:
                self._drop(index)

    def drop_pages(self, did: int, page: int, mask_bits: int) -> None:
        """Page-selective invalidation of 2**mask_bits pages from page number `page` (I6, K1)."""
        for level, shift in self._levels:
            bits = mask_bits - (shift - 12)  # log2 of the range in pages of this level
            if not self.counts[level] or (bits < 0 and self._only_smaller):
                continue
            first = page >> shift - 12
            if bits < 3:
                index = self.lines.where.get(_key(first >> 3, did, level))
                if index is not None:
                    self._drop_sectors(index, first & 7, 1 << max(bits, 0))
            else:
                self._drop_lines(did, level, first >> bits, bits - 3)

    def _drop_lines(self, did: int, level: int, prefix: int, below: int) -> None:
        """Drop the lines of a domain and level whose address part, without its low bits, is `prefix`."""
        keys = self.lines.keys
        for index in self.lines.indices():
            key = keys[index]
            if key & 0x3FFFF == did << 2 | level and key >> _KEY_BITS + below == prefix:
                self._drop(index)

    def _drop_sectors(self, index: int, first: int, count: int) -> None:
        self.good[index] &= ~((1 << count) - 1 << first)
        if not self.good[index]:
            self._drop(index)

    def _drop(self, index: int) -> None:
        self.counts[self.lines.keys[index] & 3] -= 1
        self.lines.drop(index)
