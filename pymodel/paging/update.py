"""Editing a live table: map, unmap, protect (and split, merge, replace), as agents over any format.

What a walker may see is correct after every single effect (facts F3): tables are built while nothing points
to them and linked with one compare-exchange; entries only go from one valid value to another, so an A or D
bit that hardware sets meanwhile makes the exchange fail and be tried again. The caller owes what `Update`
names. Callers keep two updates off the same IOVA; tables above may be shared.
"""

from collections.abc import Callable

from pymodel.effects import Agent, Load, Store
from pymodel.paging.formats import Kind
from pymodel.paging.geometry import PAGE, Range, entries, entry_address, span
from pymodel.paging.reshape import collect_late, merge, replace, split
from pymodel.paging.table import Found, Job, OutOfTables, PageTable, Status, Update, exchange, lookup

__all__ = ["Found", "collect_late", "lookup", "map_range", "merge", "protect", "replace", "split",
           "unmap_range"]  # fmt: skip

_LeafMaker = Callable[[Range, int], int | None]
"""The leaf that maps exactly this range at this level, or None if it takes smaller ones."""


def map_range(
    table: PageTable,
    iova: int,
    address: int,
    length: int,
    *,
    r: bool = True,
    w: bool = True,
    snp: bool = False,
    extra: int = 0,
    max_level: int | None = None,
) -> Agent[Update]:
    """Map `length` bytes at `iova` to the pages at `address`, with the largest pages that fit.

    Empty tables in the place of a large page are unlinked. Returns DONE, or IN_USE or NO_TABLES after undoing
    its own work (an empty table that the range covers in part may stay). Raises `ValueError` for a range,
    address or attribute that no leaf can have.
    """
    range_ = table.check(iova, length)
    top = table.max_leaf_level if max_level is None else min(max_level, table.max_leaf_level)
    offset = address - iova
    if address % PAGE:
        raise ValueError(f"address must be a multiple of 4 KiB, not {address:#x}")
    for page in (address, address + length - PAGE):  # refuse what no leaf can be before anything changes
        table.format.make_leaf(page, 0, r, w, snp, extra)
    for level in range(1, top + 1):
        table.format.make_leaf(0, level, r, w, snp, extra)

    def leaf(piece: Range, level: int) -> int | None:
        target = piece.start + offset
        if level > top or piece.size != span(level) or target % span(level):
            return None
        return table.format.make_leaf(target, level, r, w, snp, extra)

    job = Job(table, reached=iova)
    try:
        status: Status = yield from _map_level(job, table.root, table.levels - 1, range_, leaf)
    except OutOfTables:
        status = Status.NO_TABLES
    if status is not Status.DONE and job.reached > iova:
        yield from _unmap_level(job, table.root, table.levels - 1, Range(iova, job.reached))
        job.forget_leaves()
    return job.result(status)


def _map_level(job: Job, page: int, level: int, range_: Range, leaf: _LeafMaker) -> Agent[Status]:
    """Map the range in the table `page`; DONE, or IN_USE with `job.reached` at what is in the way."""
    table = job.table
    for piece in entries(range_, level):
        job.reached = piece.start
        address = entry_address(page, piece.start, level)
        word: int = yield Load(address)
        at: Found | None = Found(address, table.format.classify(word, level))
        new = leaf(piece, level)
        while at is not None:
            entry = at.entry
            if entry.kind in (Kind.LEAF, Kind.RESERVED):
                return Status.IN_USE
            if entry.kind is Kind.EMPTY and new is not None:
                at = yield from exchange(table, at, new)
            elif entry.kind is Kind.EMPTY:
                private: list[int] = []
                try:
                    child: int = yield from _build(job, private, level - 1, piece, leaf)
                except OutOfTables:
                    job.discard(private)
                    raise
                at = yield from exchange(table, at, table.format.make_table(child, level))
                if at is not None:  # somebody else linked a table first: theirs counts
                    job.discard(private)
            elif new is not None:
                pages: list[int] | None = yield from _empty_tables(table, entry.address, level - 1)
                if pages is None:
                    return Status.IN_USE
                at = yield from exchange(table, at, new)
                if at is None:
                    job.unlinked(entry, piece.start, pages)
            else:
                status: Status = yield from _map_level(job, entry.address, level - 1, piece, leaf)
                if status is not Status.DONE:
                    return status
                break
    return Status.DONE


def _build(job: Job, private: list[int], level: int, range_: Range, leaf: _LeafMaker) -> Agent[int]:
    """New table that maps the range, linked nowhere yet; its pages are added to `private`."""
    page = job.table.pool.allocate()
    private.append(page)
    for piece in entries(range_, level):
        word = leaf(piece, level)
        if word is None:
            child: int = yield from _build(job, private, level - 1, piece, leaf)
            word = job.table.format.make_table(child, level)
        yield Store(entry_address(page, piece.start, level), word)
    return page


def _empty_tables(table: PageTable, page: int, level: int) -> Agent[list[int] | None]:
    """The table and all below it if they hold no leaf, else None."""
    pages = [page]
    for position in range(512):
        word: int = yield Load(page + 8 * position)
        entry = table.format.classify(word, level)
        if entry.kind is Kind.TABLE:
            below: list[int] | None = yield from _empty_tables(table, entry.address, level - 1)
            if below is None:
                return None
            pages += below
        elif entry.kind is not Kind.EMPTY:
            return None
    return pages


def unmap_range(table: PageTable, iova: int, length: int) -> Agent[Update]:
    """Take out every leaf of the range, and the tables that only it uses.

    A leaf in which the range ends goes as a whole (`ranges` and `leaves` say so); one in which it starts is
    INSIDE_LARGE, with nothing changed. Holes are skipped. MALFORMED stops where it stands.
    """
    job = Job(table)
    range_ = table.check(iova, length)
    status: Status = yield from _unmap_level(job, table.root, table.levels - 1, range_)
    return job.result(status)


def _unmap_level(job: Job, page: int, level: int, range_: Range) -> Agent[Status]:
    table = job.table
    for piece in entries(range_, level):
        address = entry_address(page, piece.start, level)
        word: int = yield Load(address)
        at: Found | None = Found(address, table.format.classify(word, level))
        while at is not None and at.entry.kind is not Kind.EMPTY:
            entry = at.entry
            if entry.kind is Kind.RESERVED:
                return Status.MALFORMED
            if entry.kind is Kind.LEAF:
                if piece.start % span(level):
                    return Status.INSIDE_LARGE
                at = yield from exchange(table, at, table.format.empty)
                if at is None:
                    job.changed(entry, piece.start)
                continue
            status: Status = yield from _unmap_level(job, entry.address, level - 1, piece)
            if status is not Status.DONE:
                return status
            if piece.size != span(level):
                break
            at = yield from exchange(table, at, table.format.empty)
            if at is None:
                job.unlinked(entry, piece.start, [entry.address])
    return Status.DONE


def protect(table: PageTable, iova: int, length: int, *, r: bool, w: bool) -> Agent[Update]:
    """Give every leaf of the range exactly these rights; holes are skipped.

    INSIDE_LARGE stops at a leaf that the range covers in part (split first), MALFORMED at a reserved entry;
    what was changed before is in `ranges`. Fewer rights hold only after the invalidation (U8), more rights
    may still be refused until then (U9). Raises `ValueError` for no right at all: unmap.
    """
    if not (r or w):
        raise ValueError("protect must leave r or w; use unmap_range to take both")
    job = Job(table)
    range_ = table.check(iova, length)
    status: Status = yield from _protect_level(job, table.root, table.levels - 1, range_, r, w)
    return job.result(status)


def _protect_level(job: Job, page: int, level: int, range_: Range, r: bool, w: bool) -> Agent[Status]:
    table = job.table
    for piece in entries(range_, level):
        address = entry_address(page, piece.start, level)
        word: int = yield Load(address)
        at: Found | None = Found(address, table.format.classify(word, level))
        while at is not None and at.entry.kind is not Kind.EMPTY:
            entry = at.entry
            if entry.kind is Kind.RESERVED:
                return Status.MALFORMED
            if entry.kind is Kind.TABLE:
                status: Status = yield from _protect_level(job, entry.address, level - 1, piece, r, w)
                if status is not Status.DONE:
                    return status
                break
            if piece.size != span(level):
                return Status.INSIDE_LARGE
            new = table.format.restrict(entry.word, level, r, w)
            if new == entry.word:
                break
            at = yield from exchange(table, at, new)
            if at is None:
                job.changed(entry, piece.start)
    return Status.DONE
