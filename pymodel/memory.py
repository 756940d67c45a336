"""Physical memory: one object that software, the IOMMU and the judges share.

Words are 64 bits, little-endian, at byte addresses that are multiples of 8, below 2**52. Memory that was
never written reads as zero. Addresses that are misaligned or outside raise `ValueError`.
"""

import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["ADDRESS_BITS", "LockedOperations", "Observer", "PhysMem", "Ranges", "SparseMem", "WordArray"]

ADDRESS_BITS = 52
"""Bits of a physical address."""

WordArray = npt.NDArray[np.uint64]
Observer = Callable[[int, int, int], None]
"""Called with (address of the 64-bit word, old value, new value) after every change."""

_WORD = (1 << 64) - 1
_FREE_PAGE: WordArray = np.zeros(512, dtype=np.uint64)
_FREE_PAGE.flags.writeable = False

if sys.byteorder != "little":  # pages are shared between integers and numpy without conversion
    raise ImportError("pymodel.memory needs a little-endian machine")


def _reject(address: int, size: int) -> None:
    """Say what is wrong with an address that failed the quick test."""
    if not 0 <= address < 1 << ADDRESS_BITS:
        raise ValueError(f"address {address:#x} lies outside the {ADDRESS_BITS}-bit space")
    raise ValueError(f"address {address:#x} must be a multiple of {size}")


def _reject_value(value: int, bits: int) -> None:
    raise ValueError(f"value {value:#x} does not fit {bits} bits")


class Ranges:
    """Readable RAM as sorted half-open byte ranges; `None` means everything."""

    __slots__ = ("_ends", "_starts", "spans")

    def __init__(self, spans: Iterable[tuple[int, int]] | None) -> None:
        """Raises `ValueError` for an empty range, one outside 52 bits, and two that overlap."""
        self.spans: tuple[tuple[int, int], ...] | None = None if spans is None else tuple(sorted(spans))
        previous = 0
        for start, end in self.spans or ():
            if not 0 <= start < end <= 1 << ADDRESS_BITS:
                raise ValueError(f"range {start:#x}..{end:#x} is empty or leaves {ADDRESS_BITS} bits")
            if start < previous:
                raise ValueError(f"range {start:#x}..{end:#x} overlaps the one that ends at {previous:#x}")
            previous = end
        self._starts = [start for start, _ in self.spans or ()]
        self._ends = [end for _, end in self.spans or ()]

    def contains(self, start: int, end: int) -> bool:
        """Whether one range holds all of `start`..`end` (half-open)."""
        if self.spans is None:
            return True
        position = bisect_right(self._starts, start) - 1
        return position >= 0 and end <= self._ends[position]


class LockedOperations:
    """Locked operations on a 64-bit word, by `load` and `store` of whoever inherits them."""

    __slots__ = ()

    def load(self, address: int) -> int:
        """The 64-bit word at `address`, a multiple of 8."""
        raise NotImplementedError

    def store(self, address: int, value: int) -> None:
        """Write the 64-bit word at `address`, a multiple of 8."""
        raise NotImplementedError

    def compare_exchange(self, address: int, expected: int, new: int) -> int:
        """Write `new` if the word is `expected`; returns what it was before."""
        old = self.load(address)
        if old == expected:
            self.store(address, new)
        return old

    def fetch_or(self, address: int, mask: int) -> int:
        """Set the bits of `mask`; returns what the word was before."""
        old = self.load(address)
        self.store(address, old | mask)
        return old

    def fetch_and(self, address: int, mask: int) -> int:
        """Keep the bits of `mask` only; returns what the word was before."""
        old = self.load(address)
        self.store(address, old & mask)
        return old


class _Operations(LockedOperations):
    """What both memories do with their own `load` and `store`."""

    __slots__ = ()
    ranges: Ranges

    def write_dword(self, address: int, value: int) -> None:
        """Write 32 bits at `address`, a multiple of 4; observers are told the whole 64-bit word."""
        if address & 3 or address >> ADDRESS_BITS:
            _reject(address, 4)
        if value >> 32:
            _reject_value(value, 32)
        word = address & ~7
        shift = 8 * (address & 4)
        self.store(word, self.load(word) & ~(0xFFFF_FFFF << shift) | value << shift)

    def readable(self, address: int) -> bool:
        """Whether a read of the 64-byte line that holds `address` succeeds; False is a table access error."""
        line = address & ~63
        return self.ranges.contains(line, line + 64)


class PhysMem(_Operations):
    """Sparse memory over the 52-bit space, in 4 KiB pages that integers and numpy see alike."""

    def __init__(self, ranges: Iterable[tuple[int, int]] | None = None) -> None:
        """`ranges`: half-open byte ranges of readable RAM; the IOMMU gets an access error elsewhere."""
        self.ranges = Ranges(ranges)
        self.observers: list[Observer] = []
        """Called after every change of a word, in order; add and remove freely."""
        self._bytes: dict[int, bytearray] = {}
        self._words: dict[int, memoryview] = {}

    def _page(self, number: int) -> memoryview:
        words = self._words.get(number)
        if words is None:
            page = self._bytes[number] = bytearray(4096)
            words = self._words[number] = memoryview(page).cast("Q")
        return words

    def load(self, address: int) -> int:
        """The word at `address`."""
        words = self._words.get(address >> 12)  # no page is ever made outside the 52 bits
        if address & 7 or (words is None and address >> ADDRESS_BITS):
            _reject(address, 8)
        return 0 if words is None else words[address >> 3 & 511]

    def store(self, address: int, value: int) -> None:
        """Write the word at `address`."""
        if address & 7 or address >> ADDRESS_BITS:
            _reject(address, 8)
        if value >> 64:
            _reject_value(value, 64)
        words = self._words.get(address >> 12)
        if words is None:
            if not value:
                return
            words = self._page(address >> 12)
        index = address >> 3 & 511
        if not self.observers:
            words[index] = value
            return
        old = words[index]
        if old != value:
            words[index] = value
            self._changed(address, old, value)

    def _changed(self, address: int, old: int, new: int) -> None:
        for observer in tuple(self.observers):
            observer(address, old, new)

    def read_line(self, address: int) -> int:
        """The 64-byte line at `address` (a multiple of 64) as one integer, byte 0 lowest."""
        if address & 63 or address >> ADDRESS_BITS:
            _reject(address, 64)
        page = self._bytes.get(address >> 12)
        if page is None:
            return 0
        offset = address & 4095
        return int.from_bytes(page[offset : offset + 64], "little")

    def pages(self) -> Iterator[int]:
        """Addresses of the 4 KiB pages that held anything but zero since they were last cleared, rising."""
        for number in sorted(self._words):
            yield number << 12

    def page_words(self, address: int) -> WordArray | None:
        """Read-only view of the 512 words of the page at `address`, or None where nothing was written (all zero).

        The view shows later stores until the page is cleared; copy it where a snapshot is wanted.
        """
        if address & 4095 or address >> ADDRESS_BITS:
            _reject(address, 4096)
        page = self._bytes.get(address >> 12)
        if page is None:
            return None
        view: WordArray = np.frombuffer(page, dtype=np.uint64)
        view.flags.writeable = False
        return view

    def store_words(self, address: int, words: WordArray) -> None:
        """Write the 512 words of the page at `address`; `ValueError` unless it gets 512 uint64."""
        if address & 4095 or address >> ADDRESS_BITS:
            _reject(address, 4096)
        if words.shape != (512,) or words.dtype != np.uint64:
            raise ValueError(f"a page is 512 words of uint64, not {words.shape} of {words.dtype}")
        self._page(address >> 12)
        target: WordArray = np.frombuffer(self._bytes[address >> 12], dtype=np.uint64)
        if not self.observers:
            target[:] = words
            return
        before = target.copy()
        target[:] = words
        for index in np.flatnonzero(before != target).tolist():
            self._changed(address + 8 * index, int(before[index]), int(target[index]))

    def clear_page(self, address: int) -> None:
        """Write zero to the 512 words of the page at `address`, and give back what held them."""
        if address >> 12 in self._words or address & 4095:
            self.store_words(address, _FREE_PAGE)
            del self._words[address >> 12], self._bytes[address >> 12]

    def copy(self) -> "PhysMem":
        """Independent memory with the same contents and ranges, without observers."""
        other = PhysMem(self.ranges.spans)
        for number, page in self._bytes.items():
            content = other._bytes[number] = bytearray(page)
            other._words[number] = memoryview(content).cast("Q")
        return other


class SparseMem(_Operations):
    """Small memory for the explorer: cheap copies, equality and hash by contents.

    `copy()` costs nothing until one of the two is written. An object that was hashed refuses to change
    (`TypeError`), for it may be a key: change a copy.
    """

    __slots__ = ("_hash", "_hashed", "_shared", "_words", "ranges")

    def __init__(
        self, words: Mapping[int, int] | None = None, ranges: Iterable[tuple[int, int]] | None = None
    ) -> None:
        """`words`: 64-bit values by byte address; `ranges` as for `PhysMem`."""
        self.ranges = Ranges(ranges)
        self._words: dict[int, int] = {}
        self._hash = 0
        self._shared = False
        self._hashed = False
        for address, value in (words or {}).items():
            self.store(address, value)

    def load(self, address: int) -> int:
        """The word at `address`."""
        if address & 7 or address >> ADDRESS_BITS:
            _reject(address, 8)
        return self._words.get(address, 0)

    def store(self, address: int, value: int) -> None:
        """Write the word at `address`; raises `TypeError` once this object was hashed."""
        if address & 7 or address >> ADDRESS_BITS:
            _reject(address, 8)
        if value >> 64:
            _reject_value(value, 64)
        old = self._words.get(address, 0)
        if old == value:
            return
        if self._hashed:
            raise TypeError(f"this memory was hashed and must not change at {address:#x}: store to a copy()")
        if self._shared:
            self._words = dict(self._words)
            self._shared = False
        # The hash is an exclusive-or over the non-zero words, so that a store costs the same in any memory.
        if old:
            self._hash ^= hash((address, old))
        if value:
            self._hash ^= hash((address, value))
            self._words[address] = value
        else:
            del self._words[address]

    def read_line(self, address: int) -> int:
        """The 64-byte line at `address` (a multiple of 64) as one integer, byte 0 lowest."""
        if address & 63 or address >> ADDRESS_BITS:
            _reject(address, 64)
        return sum(self._words.get(address + 8 * index, 0) << (64 * index) for index in range(8))

    def items(self) -> Iterator[tuple[int, int]]:
        """(address, value) of the non-zero words, by address."""
        yield from sorted(self._words.items())

    def copy(self) -> "SparseMem":
        """Memory that may be changed independently; the first store of either copies the dictionary."""
        other = SparseMem.__new__(SparseMem)
        other.ranges = self.ranges
        other._words = self._words
        other._hash = self._hash
        other._shared = self._shared = True
        other._hashed = False
        return other

    def __hash__(self) -> int:
        self._hashed = True
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SparseMem):
            return NotImplemented
        return self._hash == other._hash and self._words == other._words

    def __repr__(self) -> str:
        return f"SparseMem({{{', '.join(f'{address:#x}: {value:#x}' for address, value in self.items())}}})"
