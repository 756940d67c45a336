"""Changing how a range is mapped: split, merge and replace, as agents over any format.

Split and merge change no translation: a walk gives the same answer before and after each single effect.
"""

from pymodel.effects import Agent, FetchOr, Load, Store
from pymodel.paging.formats import Kind
from pymodel.paging.geometry import index
from pymodel.paging.table import Found, Job, OutOfTables, PageTable, Status, Update, exchange, lookup

__all__ = ["collect_late", "merge", "replace", "split"]


def _absent(found: Found) -> Status:
    """Status for an entry that is not of the kind that was wanted."""
    return Status.MALFORMED if found.entry.kind is Kind.RESERVED else Status.NOT_MAPPED


def split(table: PageTable, iova: int, to_level: int | None = None) -> Agent[Update]:
    """Break the leaf at `iova` so that a leaf of `to_level` maps it (default: one level down).

    The new tables are filled privately and linked with one exchange (facts F3: U5, U14). DONE also if the
    leaf is that small already; NOT_MAPPED without a leaf; NO_TABLES. The invalidation owed has to be complete
    before a child may differ from the old leaf.
    """
    job = Job(table)
    while True:
        found: Found = yield from lookup(table, iova)
        entry = found.entry
        if entry.kind is not Kind.LEAF:
            return job.result(_absent(found))
        goal = max(entry.level - 1, 0) if to_level is None else to_level
        if entry.level <= goal:
            return job.result(Status.DONE)
        private: list[int] = []
        try:
            child: int = yield from _parts(job, private, entry.word, entry.level, iova, goal)
        except OutOfTables:
            job.discard(private)
            return job.result(Status.NO_TABLES)
        pointer = table.format.make_table(child, entry.level)
        failed: Found | None = yield from exchange(table, found, pointer)
        if failed is None:
            job.changed(entry, iova)
            return job.result(Status.DONE)
        job.discard(private)  # A or D was set, or somebody else was here: start from what is there now


def _parts(job: Job, private: list[int], word: int, level: int, iova: int, goal: int) -> Agent[int]:
    """Private table with the 512 parts of the leaf `word`; the part with `iova` goes down to `goal`."""
    page = job.table.pool.allocate()
    private.append(page)
    for position in range(512):
        part = job.table.format.split_leaf(word, level, position)
        if level - 1 > goal and position == index(iova, level - 1):
            child: int = yield from _parts(job, private, part, level - 1, iova, goal)
            part = job.table.format.make_table(child, level - 1)
        yield Store(page + 8 * position, part)
    return page


def merge(table: PageTable, iova: int, level: int) -> Agent[Update]:
    """Replace the table under the entry at `level` by one leaf that maps the same (facts F3, U6).

    The 512 children must be leaves of one contiguous, aligned page with equal attributes; their A and D bits
    are OR-ed into the leaf. Returns NOT_UNIFORM, NOT_MAPPED or MALFORMED otherwise, with nothing changed. The
    child table stays readable and unchanged until the invalidation completed; then `collect_late`, then free
    it. Raises `ValueError` for a level that has no leaves.
    """
    if not 1 <= level <= table.max_leaf_level:
        raise ValueError(f"level must be in 1..{table.max_leaf_level}, not {level}")
    job = Job(table)
    while True:
        found: Found = yield from lookup(table, iova, level)
        entry = found.entry
        if entry.kind is Kind.LEAF:
            return job.result(Status.DONE)
        if entry.kind is not Kind.TABLE:
            return job.result(_absent(found))
        leaf: int | None = yield from _joined(table, entry.address, level)
        if leaf is None:
            return job.result(Status.NOT_UNIFORM)
        whole = table.format.classify(leaf, level)
        r, w = (
            whole.r and entry.r,
            whole.w and entry.w,
        )  # the pointer's rights go, so the leaf has to have them
        if not (r or w):
            return job.result(Status.NOT_UNIFORM)
        failed: Found | None = yield from exchange(table, found, table.format.restrict(leaf, level, r, w))
        if failed is None:
            job.unlinked(entry, iova, [entry.address])
            return job.result(Status.DONE)


def _joined(table: PageTable, page: int, level: int) -> Agent[int | None]:
    """The leaf at `level` that maps what the 512 entries of the table `page` map, or None if none can."""
    format_ = table.format
    first: int = yield Load(page)
    leaf = format_.join_leaf(first, level - 1)
    small, large = format_.classify(first, level - 1), format_.classify(leaf, level)
    if small.kind is not Kind.LEAF or large.kind is not Kind.LEAF or small.address != large.address:
        return None
    hardware = 0
    for position in range(512):
        word: int = first if position == 0 else (yield Load(page + 8 * position))
        if (word ^ format_.split_leaf(leaf, level, position)) & ~format_.hardware_bits:
            return None
        hardware |= word & format_.hardware_bits
    return leaf | hardware


def collect_late(table: PageTable, iova: int, level: int, child: int) -> Agent[int]:
    """After a merge was invalidated: OR into the leaf the A and D bits that walkers still set in `child`.

    Returns the bits that were added (facts F3, U6c); none if the leaf is gone.
    """
    late = 0
    for position in range(512):
        word: int = yield Load(child + 8 * position)
        late |= word & table.format.hardware_bits
    found: Found = yield from lookup(table, iova, level)
    if found.entry.kind is not Kind.LEAF or not late & ~found.entry.word:
        return 0
    old: int = yield FetchOr(found.address, late)
    return late & ~old


def replace(table: PageTable, iova: int, address: int) -> Agent[Update]:
    """Point the leaf at `iova` to the page at `address`, in one store; rights, attributes, A and D stay (U7).

    NOT_MAPPED without a leaf. Walkers use either page until the invalidation completed. Raises `ValueError`
    for an address that is not aligned to the leaf's size.
    """
    job = Job(table)
    while True:
        found: Found = yield from lookup(table, iova)
        entry = found.entry
        if entry.kind is not Kind.LEAF:
            return job.result(_absent(found))
        new = table.format.move(entry.word, entry.level, address)
        failed: Found | None = yield from exchange(table, found, new)
        if failed is None:
            job.changed(entry, iova)
            return job.result(Status.DONE)
