"""What update agents work on and what they return: the table, its pool of pages, the outcome of an update."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from pymodel.effects import Agent, CompareExchange, Load
from pymodel.paging.formats import Entry, Kind, PageTableFormat
from pymodel.paging.geometry import PAGE, Range, entry_address, span, width

__all__ = ["Found", "Job", "Leaf", "OutOfTables", "PagePool", "PageTable", "Status", "TablePages", "Update",
           "exchange", "lookup"]  # fmt: skip


class OutOfTables(RuntimeError):
    """The pool has no page left for a table."""


class TablePages(Protocol):
    """Where tables come from."""

    def allocate(self) -> int:
        """Address of a 4 KiB page whose 512 entries are empty; raises `OutOfTables`."""

    def free(self, page: int) -> None:
        """Take a page back that nothing can reach any more."""


class PagePool:
    """Pages start..end for tables; the page freed last is used again first, to show use after free soon."""

    def __init__(self, start: int, end: int, clear: Callable[[int], None] | None = None) -> None:
        """`clear(page)` zeroes a page that is used again; `PhysMem.clear_page` does. Raises `ValueError`."""
        if (start | end) % PAGE or not 0 <= start < end:
            raise ValueError(f"pool {start:#x}..{end:#x} must be whole pages")
        self.start, self.end = start, end
        self._clear = clear
        self._next = start
        self._free: list[int] = []
        self._used: set[int] = set()

    @property
    def in_use(self) -> frozenset[int]:
        """Pages that were allocated and not freed."""
        return frozenset(self._used)

    def allocate(self) -> int:
        """See `TablePages`."""
        if self._free:
            page = self._free.pop()
            if self._clear is not None:
                self._clear(page)
        elif self._next < self.end:
            page = self._next
            self._next += PAGE
        else:
            raise OutOfTables(f"all {(self.end - self.start) // PAGE} table pages are in use")
        self._used.add(page)
        return page

    def free(self, page: int) -> None:
        """See `TablePages`; raises `ValueError` for a page that is not in use."""
        if page not in self._used:
            raise ValueError(f"page {page:#x} is not in use")
        self._used.remove(page)
        self._free.append(page)


@dataclass(frozen=True)
class PageTable:
    """A table to be edited. Two agents may edit it at once if their IOVA ranges do not overlap."""

    format: PageTableFormat
    root: int
    """Address of the root table."""
    levels: int
    """Depth, 3..5."""
    pool: TablePages

    def __post_init__(self) -> None:
        if self.levels not in (3, 4, 5):
            raise ValueError(f"levels must be 3, 4 or 5, not {self.levels}")
        if self.root % PAGE:
            raise ValueError(f"root must be a page address, not {self.root:#x}")

    @property
    def max_leaf_level(self) -> int:
        """Largest page level that the format and the depth allow."""
        return min(self.format.max_leaf_level, self.levels - 1)

    def check(self, iova: int, length: int) -> Range:
        """The range as pages of this table; raises `ValueError` where it is not."""
        if (iova | length) % PAGE or length <= 0 or not 0 <= iova <= (1 << width(self.levels)) - length:
            raise ValueError(
                f"iova {iova:#x} and length {length:#x} must be whole pages below 2**{width(self.levels)}"
            )
        return Range(iova, iova + length)


class Status(Enum):
    """How an update ended."""

    DONE = "done"
    IN_USE = "in use"
    """map: something is mapped there already; what this call had mapped was taken out again."""
    INSIDE_LARGE = "inside a larger page"
    """unmap: the range starts inside a leaf; protect: it starts or ends inside one. Split first."""
    NO_TABLES = "no table page left"
    """The pool is empty; what this call had done was undone."""
    NOT_MAPPED = "not mapped"
    NOT_UNIFORM = "not uniform"
    """merge: the children are not 512 leaves of one contiguous page with equal attributes."""
    MALFORMED = "malformed"
    """A present entry with reserved bits is in the way."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf that was taken out or changed, as it was before."""

    iova: int
    level: int
    word: int


@dataclass(frozen=True, slots=True)
class Update:
    """Outcome of an update, and what is owed before its old state counts as gone."""

    status: Status
    ranges: tuple[Range, ...] = ()
    """IOVA ranges to invalidate; each spans the entries that were changed, whole."""
    keep_pointers: bool = True
    """True: only leaves changed, an invalidation with IH=1 is enough. False: a table pointer went away."""
    pages: tuple[int, ...] = ()
    """Tables to give back to the pool once the invalidations completed. Until then nobody writes them."""
    leaves: tuple[Leaf, ...] = ()
    """Leaves that were removed or changed, with the A and D bits that they had."""


@dataclass(frozen=True, slots=True)
class Found:
    """The entry at which a descent ended."""

    address: int
    """Where the entry is."""
    entry: Entry


def lookup(table: PageTable, iova: int, stop_level: int = 0) -> Agent[Found]:
    """Descend to the entry at `stop_level`, or to the first above it that is no table pointer."""
    table.check(iova & -PAGE, PAGE)
    page = table.root
    for level in range(table.levels - 1, -1, -1):
        address = entry_address(page, iova, level)
        word: int = yield Load(address)
        entry = table.format.classify(word, level)
        if level == stop_level or entry.kind is not Kind.TABLE:
            break
        page = entry.address
    return Found(address, entry)


def exchange(table: PageTable, found: Found, new: int) -> Agent[Found | None]:
    """Put `new` in the place of the entry; None if it worked, else the entry that is there now."""
    old: int = yield CompareExchange(found.address, found.entry.word, new)
    if old == found.entry.word:
        return None
    return Found(found.address, table.format.classify(old, found.entry.level))


def _merged(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """The same bytes in as few ranges as possible, rising."""
    merged: list[Range] = []
    for new in sorted(ranges):
        if merged and new.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(merged[-1].end, new.end))
        else:
            merged.append(new)
    return tuple(merged)


@dataclass(slots=True)
class Job:
    """One update on its way."""

    table: PageTable
    reached: int = 0
    """map: everything of its range below this IOVA is mapped."""
    _ranges: list[Range] = field(default_factory=list)
    _pages: list[int] = field(default_factory=list)
    _leaves: list[Leaf] = field(default_factory=list)
    _keep_pointers: bool = True

    def changed(self, entry: Entry, iova: int) -> None:
        """The leaf that decided about `iova` was changed or removed: owe an invalidation of its span."""
        self._owe(iova, entry.level)
        self._leaves.append(Leaf(iova & -span(entry.level), entry.level, entry.word))

    def unlinked(self, entry: Entry, iova: int, pages: list[int]) -> None:
        """The pointer that decided about `iova` went away, and with it these tables."""
        self._owe(iova, entry.level)
        self._pages += pages
        self._keep_pointers = False

    def _owe(self, iova: int, level: int) -> None:
        new = Range.of_entry(iova, level)
        if self._ranges and self._ranges[-1].end == new.start:
            new = Range(self._ranges.pop().start, new.end)
        self._ranges.append(new)

    def forget_leaves(self) -> None:
        """The leaves removed so far were this job's own."""
        self._leaves.clear()

    def discard(self, private: list[int]) -> None:
        """Give tables back that were never linked."""
        for page in private:
            self.table.pool.free(page)

    def result(self, status: Status) -> Update:
        """What the caller gets."""
        owed = _merged(self._ranges)
        return Update(status, owed, self._keep_pointers, tuple(self._pages), tuple(self._leaves))
