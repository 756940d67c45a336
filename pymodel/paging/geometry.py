"""Sizes, indices and ranges of radix page tables with 512 entries of 8 bytes; all addresses are bytes."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["PAGE", "Block", "Range", "best_level", "cover", "entries", "entry_address", "exact_blocks",
           "index", "shift", "span", "width"]  # fmt: skip

PAGE = 4096
"""Bytes of a table, and of the smallest page."""


def shift(level: int) -> int:
    """log2 of the bytes that one entry at `level` spans: 12, 21, 30, 39, 48."""
    return 12 + 9 * level


def span(level: int) -> int:
    """Bytes that one entry at `level` spans: 4 KiB, 2 MiB, 1 GiB, ..."""
    return 1 << (12 + 9 * level)


def width(levels: int) -> int:
    """Bits of an IOVA that a table of this depth translates: 39, 48, 57 for 3, 4, 5."""
    return 12 + 9 * levels


def index(iova: int, level: int) -> int:
    """Index 0..511 of the entry that decides about `iova` in its table at `level`."""
    return (iova >> (12 + 9 * level)) & 511


def entry_address(table: int, iova: int, level: int) -> int:
    """Address of the entry that decides about `iova` in the table at address `table`."""
    return table + 8 * index(iova, level)


@dataclass(frozen=True, slots=True, order=True)
class Range:
    """Half-open range of byte addresses, never empty."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end:
            raise ValueError(f"range {self.start:#x}..{self.end:#x} must not be empty or negative")

    @classmethod
    def of_entry(cls, iova: int, level: int) -> "Range":
        """Span of the entry at `level` that decides about `iova`."""
        start = iova & -span(level)
        return cls(start, start + span(level))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    def __contains__(self, address: int) -> bool:
        return self.start <= address < self.end

    def covers(self, other: "Range") -> bool:
        """Whether all of `other` lies inside."""
        return self.start <= other.start and other.end <= self.end

    def overlaps(self, other: "Range") -> bool:
        """Whether some byte lies in both."""
        return self.start < other.end and other.start < self.end

    def __str__(self) -> str:
        return f"{self.start:#x}..{self.end:#x}"


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """2**`am` pages of 4 KiB, aligned to their number: what one page-selective invalidation names."""

    start: int
    am: int

    @property
    def range(self) -> Range:
        """The same bytes as a range."""
        return Range(self.start, self.start + (PAGE << self.am))


def cover(range_: Range) -> Block:
    """Smallest aligned power-of-two block that holds the whole range (facts B2: may be much larger)."""
    first, last = range_.start // PAGE, (range_.end - 1) // PAGE
    am = (first ^ last).bit_length()
    return Block((first >> am << am) * PAGE, am)


def exact_blocks(range_: Range, max_am: int = 52) -> Iterator[Block]:
    """Fewest aligned blocks of at most 2**`max_am` pages that hold the range's pages and nothing else.

    Raises `ValueError` unless the range consists of whole pages.
    """
    if (range_.start | range_.end) % PAGE:
        raise ValueError(f"range {range_} must consist of whole 4 KiB pages")
    page, end = range_.start // PAGE, range_.end // PAGE
    while page < end:
        am = min((end - page).bit_length() - 1, max_am)
        if page:
            am = min(am, (page & -page).bit_length() - 1)
        yield Block(page * PAGE, am)
        page += 1 << am


def best_level(iova: int, address: int, length: int, max_level: int) -> int:
    """Largest page level <= `max_level` whose page starts at both addresses and fits `length` bytes.

    Raises `ValueError` where not even a 4 KiB page does.
    """
    if (iova | address) % PAGE or length < PAGE:
        raise ValueError(f"{iova:#x}, {address:#x}, length {length:#x} must be multiples of 4 KiB")
    level = max_level
    while (iova | address) & (span(level) - 1) or span(level) > length:
        level -= 1
    return level


def entries(range_: Range, level: int) -> Iterator[Range]:
    """Spans of the entries at `level` that the range touches, each cut to the range, in order."""
    size = span(level)
    start = range_.start
    while start < range_.end:
        end = min(range_.end, (start // size + 1) * size)
        yield Range(start, end)
        start = end
