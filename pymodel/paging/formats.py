"""What the 64 bits of an entry mean: one small interface, and the VT-d second stage behind it (facts A1, J).

The predicates (present, leaf, reserved) are written here a second time, on purpose; the RTL has its own.
"""

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pymodel.memory import WordArray
from pymodel.paging.geometry import shift, span
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import LEAVES, SS_TABLE, SS_TABLE_TOP

__all__ = ["Entry", "Kind", "PageTableFormat", "SecondStage", "Words"]


class Kind(Enum):
    """What an entry is."""

    EMPTY = 0
    """Grants nothing: no other bit is looked at."""
    TABLE = 1
    """Points to a table of the next lower level."""
    LEAF = 2
    """Maps a page of the size of its level."""
    RESERVED = 3
    """Grants something but has a bit set that must be zero."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry, decoded."""

    word: int
    level: int
    kind: Kind
    r: bool
    w: bool
    address: int
    """Page of a leaf, next table of a pointer; 0 of an empty entry."""
    snp: bool
    """Leaf: DMA is snooped whatever the device asks for."""
    accessed: bool
    dirty: bool
    reserved: int
    """The bits that are set and must not be."""

    @property
    def reason(self) -> str:
        """Why the entry is of its kind, for people."""
        if self.kind is Kind.EMPTY:
            return "R=W=0"
        if self.kind is Kind.RESERVED:
            bits = [bit for bit in range(64) if self.reserved >> bit & 1]
            return f"reserved bit{'s' if len(bits) > 1 else ''} {', '.join(map(str, bits))} set"
        rights = ("R" if self.r else "-") + ("W" if self.w else "-")
        if self.kind is Kind.TABLE:
            return f"{rights} table {self.address:#x}"
        return f"{rights} page {self.address:#x} of {span(self.level):#x} bytes{', SNP' if self.snp else ''}"


class Words(NamedTuple):
    """Decoded entries as arrays; `address` means what it does in `Entry`, and is 0 where there is none."""

    kind: npt.NDArray[np.uint8]
    r: npt.NDArray[np.bool_]
    w: npt.NDArray[np.bool_]
    snp: npt.NDArray[np.bool_]
    address: WordArray


class PageTableFormat(Protocol):
    """The bits of one kind of page table; `level` counts from 0. Wrong values raise `ValueError`."""

    @property
    def name(self) -> str:
        """Short name for messages."""

    @property
    def empty(self) -> int:
        """Value that software stores to unmap."""

    @property
    def hardware_bits(self) -> int:
        """Bits of a leaf that hardware may set by itself (A and D)."""

    @property
    def max_leaf_level(self) -> int:
        """Leaves are allowed at levels 0..this."""

    def classify(self, word: int, level: int) -> Entry:
        """Decode one entry."""

    def classify_words(self, words: WordArray, level: int) -> Words:
        """Decode many entries of one level."""

    def reserved_mask(self, level: int, leaf: bool) -> int:
        """Bits that must be zero in a present entry of this shape."""

    def make_leaf(
        self, address: int, level: int, r: bool = True, w: bool = True, snp: bool = False, extra: int = 0
    ) -> int:
        """Leaf that maps the page at `address`; `extra` are bits of ignored fields (software, A, D)."""

    def make_table(self, address: int, level: int) -> int:
        """Pointer, for a table at `level`, to the table of level - 1 at `address`."""

    def split_leaf(self, word: int, level: int, position: int) -> int:
        """Leaf of level - 1 that maps part `position` (0..511) of the leaf `word` with all its attributes."""

    def join_leaf(self, word: int, level: int) -> int:
        """Leaf of level + 1 whose part 0 is the leaf `word`; the inverse of `split_leaf(..., 0)`."""

    def restrict(self, word: int, level: int, r: bool, w: bool) -> int:
        """The same leaf with exactly these rights."""

    def move(self, word: int, level: int, address: int) -> int:
        """The same leaf for another page."""


_R, _W, _PS, _A, _D, _SNP = 1 << 0, 1 << 1, 1 << 7, 1 << 8, 1 << 9, 1 << 11
_ADDRESS = ((1 << 52) - 1) & ~4095
_IGNORED = tuple(sum(field.mask for field in leaf if field.ignored) for leaf in LEAVES)


@dataclass(frozen=True)
class SecondStage:
    """VT-d second stage; the same bits are EPT entries to a CPU."""

    haw: int = 48
    """Host address width, bits."""
    large_pages: int = 2
    """0: only 4 KiB leaves, 1: also 2 MiB, 2: also 1 GiB."""
    snp_legal: bool = True
    """Bit 11 of a leaf is SNP; otherwise it is reserved (K4)."""

    def __post_init__(self) -> None:
        if not 36 <= self.haw <= 52:
            raise ValueError(f"haw must be in 36..52, not {self.haw}")
        if self.large_pages not in (0, 1, 2):
            raise ValueError(f"large_pages must be 0, 1 or 2, not {self.large_pages}")

    @classmethod
    def of(cls, params: IommuParams) -> "SecondStage":
        """The format as an IOMMU with these parameters reads it."""
        return cls(params.haw, params.large_pages, params.snp_legal)

    @property
    def name(self) -> str:
        """See `PageTableFormat`."""
        return "VT-d second stage"

    @property
    def empty(self) -> int:
        """See `PageTableFormat`."""
        return 0

    @property
    def hardware_bits(self) -> int:
        """See `PageTableFormat`."""
        return _A | _D

    @property
    def max_leaf_level(self) -> int:
        """See `PageTableFormat`."""
        return self.large_pages

    @cached_property
    def _reserved(self) -> dict[tuple[int, bool], int]:
        above = ((1 << 52) - 1) & ~((1 << self.haw) - 1)
        masks: dict[tuple[int, bool], int] = {}
        for level in range(5):
            # A pointer: bit 7 is PS where a leaf could be; where none can be, a set bit 7 is reserved.
            pointer = SS_TABLE_TOP if level > 2 else SS_TABLE
            masks[level, False] = pointer.reserved | above | (_PS if level > self.large_pages else 0)
            if level <= self.large_pages:
                masks[level, True] = LEAVES[level].reserved | above | (0 if self.snp_legal else _SNP)
        return masks

    def reserved_mask(self, level: int, leaf: bool) -> int:
        """See `PageTableFormat`; raises `ValueError` for a shape that does not exist at the level."""
        if not 0 <= level <= 4 or (leaf and level > self.large_pages) or (not leaf and level == 0):
            raise ValueError(f"{self.name} has no {'leaf' if leaf else 'pointer'} at level {level}")
        return self._reserved[level, leaf]

    def classify(self, word: int, level: int) -> Entry:
        """See `PageTableFormat`. Present means R|W; only then reserved bits count (facts A1)."""
        r, w = bool(word & _R), bool(word & _W)
        if not (r or w):
            return Entry(word, level, Kind.EMPTY, False, False, 0, False, False, False, 0)
        leaf = level == 0 or (level <= self.large_pages and bool(word & _PS))
        bad = word & self._reserved[level, leaf]
        kind = Kind.RESERVED if bad else Kind.LEAF if leaf else Kind.TABLE
        address = word & _ADDRESS & (-span(level) if leaf else -1)
        snp = leaf and self.snp_legal and bool(word & _SNP)
        return Entry(word, level, kind, r, w, address, snp, bool(word & _A), leaf and bool(word & _D), bad)

    def classify_words(self, words: WordArray, level: int) -> Words:
        """See `PageTableFormat`."""
        r, w = (words & np.uint64(_R)) != 0, (words & np.uint64(_W)) != 0
        present = r | w
        if level == 0:
            leaf = present
        elif level <= self.large_pages:
            leaf = present & ((words & np.uint64(_PS)) != 0)
        else:
            leaf = np.zeros_like(present)
        table = present & ~leaf
        reserved = np.zeros_like(present)
        address = np.zeros_like(words)
        snp = np.zeros_like(present)
        if level <= self.large_pages:
            reserved |= leaf & ((words & np.uint64(self._reserved[level, True])) != 0)
            page = np.uint64(_ADDRESS & -(1 << shift(level)))
            np.bitwise_and(words, page, out=address, where=leaf)
            if self.snp_legal:
                snp = leaf & ((words & np.uint64(_SNP)) != 0)
        if level > 0:
            reserved |= table & ((words & np.uint64(self._reserved[level, False])) != 0)
            np.bitwise_and(words, np.uint64(_ADDRESS), out=address, where=table)
        kind = np.where(reserved, np.uint8(3), leaf.astype(np.uint8) * np.uint8(2) + table.astype(np.uint8))
        return Words(kind.astype(np.uint8), r, w, snp, address)

    def _check_address(self, address: int, size: int, what: str) -> None:
        if address & (size - 1) or not 0 <= address < 1 << self.haw:
            raise ValueError(f"{what} must be a multiple of {size:#x} below 2**{self.haw}, not {address:#x}")

    def make_leaf(
        self, address: int, level: int, r: bool = True, w: bool = True, snp: bool = False, extra: int = 0
    ) -> int:
        """See `PageTableFormat`; raises `ValueError` for a page, right or bit that no leaf can carry."""
        if not 0 <= level <= self.large_pages:
            raise ValueError(f"{self.name} leaves must be at level 0..{self.large_pages}, not {level}")
        self._check_address(address, span(level), f"page address at level {level}")
        if not (r or w):
            raise ValueError("a leaf must grant r or w; an entry without either is empty")
        if snp and not self.snp_legal:
            raise ValueError("snp must be false: bit 11 is reserved without snoop control")
        if extra & ~_IGNORED[level]:
            raise ValueError(f"extra bits must be ignored ones ({_IGNORED[level]:#x}), not {extra:#x}")
        size_bit = _PS if level else 0
        return address | r * _R | w * _W | snp * _SNP | size_bit | extra

    def make_table(self, address: int, level: int) -> int:
        """See `PageTableFormat`; grants R and W, as Linux does: the leaves decide."""
        if not 1 <= level <= 4:
            raise ValueError(f"a table pointer must be at level 1..4, not {level}")
        self._check_address(address, 4096, "table address")
        return address | _R | _W

    def split_leaf(self, word: int, level: int, position: int) -> int:
        """See `PageTableFormat`; PS is cleared in 4 KiB leaves, as KVM does."""
        child = word + position * span(level - 1)
        return child & ~_PS if level == 1 else child

    def join_leaf(self, word: int, level: int) -> int:
        """See `PageTableFormat`; bit 7 of a 4 KiB leaf (ignored there) gives way to PS."""
        return word | _PS

    def restrict(self, word: int, level: int, r: bool, w: bool) -> int:
        """See `PageTableFormat`; neither right makes the entry empty to hardware, other bits stay."""
        return word & ~(_R | _W) | r * _R | w * _W

    def move(self, word: int, level: int, address: int) -> int:
        """See `PageTableFormat`."""
        self._check_address(address, span(level), f"page address at level {level}")
        return word & ~(_ADDRESS & -span(level)) | address
