"""All ways in which caches and walks may translate an address, second stage (facts F1, K1-K3, K6).

A path takes at every level one of the values that the entry held. What limits it:

- A *leaf* may come from a cache: it is usable while no completed invalidation that covers it was submitted
  after the last moment at which it can have been read.
- A *pointer* may come from a paging-structure cache or a walk in flight. It is usable for reading lower
  tables until an invalidation that covers it has completed. Copies of lower entries that were read through it
  before may live on; hence every path carries `until`: the invalidation before which its lower entries must
  have been read.
- A value that *refuses* (not present, reserved bits, interrupt address) is never cached: memory must have
  held it between acceptance and answer, and everything above must be usable now. With K3 not-present is
  cached like a leaf.
- Where an entry lacks the permission a walker may refuse at once or find something worse below (facts J).
"""

from pymodel.iommu.coverage import ALIVE, Coverage, Drop
from pymodel.iommu.entries import Context, PageRules
from pymodel.iommu.history import NEVER, History
from pymodel.iommu.translate import REASONS
from pymodel.iommu.types import Outcome, Request, TableMemory
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST, INTERRUPT_LAST

__all__ = ["Paths"]

_MAX_LINES = 1 << 20

_Next = tuple[int, Drop, int, bool]
"""Next table, what ended its use, permission so far, some entry above lacks the permission."""


class Paths:
    """Enumerates the legal second-stage outcomes of one request at a time."""

    def __init__(
        self, params: IommuParams, memory: TableMemory, history: History, coverage: Coverage
    ) -> None:
        self._memory = memory
        self._records = history.records
        self._coverage = coverage
        self._np_cache = params.np_cache
        self._rewalk = params.rewalk_on_perm
        self._large_pages = params.large_pages
        rules = PageRules(params)
        self._snp = rules.snp
        self._leaf_reserved, self._table_reserved = rules.leaf_reserved, rules.table_reserved
        self._leaf_address, self._table_address = rules.leaf_address, rules.table_address
        self._readable_lines: set[int] = set()
        # of the request being judged:
        self._context = Context(False, 0, 0, 0, False, False)
        self._reasons = REASONS[0]
        self._iova = self._did = self._accepted = self._top = 0
        self._write = False
        self._wanted = 1
        self._bounds: list[int | None] = [None, None, None]
        self._found: set[Outcome] = set()

    def collect(
        self,
        request: Request,
        context: Context,
        tables: list[tuple[int, int, Drop]],
        accepted: int,
        found: set[Outcome],
    ) -> None:
        """Add the outcomes of `request` under `context`.

        `tables`: (page-table root, levels, until) of every table that served the domain; `accepted`: stamp of
        the beginning of the cycle of acceptance.
        """
        self._context = context
        self._reasons = REASONS[context.scalable]
        self._iova, self._write = request.iova, request.write
        self._wanted = 2 if request.write else 1
        self._did = context.did
        self._accepted = accepted
        self._bounds = [None, None, None]
        self._found = found
        for table, levels, until in tables:
            self._top = levels - 1
            self._descend(levels - 1, table, until, 3, False)

    def _refuse(self, reason: Reason) -> None:
        self._found.add(Outcome(reason, recorded=not self._context.fpd))

    def _bound(self, level: int) -> int:
        """Submission of the latest completed invalidation of a leaf at `level`."""
        bound = self._bounds[level]
        if bound is None:
            bound = self._bounds[level] = self._coverage.leaf(self._did, self._iova, level)
        return bound

    def _floor(self, level: int) -> int:
        """Of an entry at `level` nothing can be cached any more that was read at the latest at this stamp.

        A pointer that was dropped long ago matters as long as a leaf below may have survived it; above level
        1 also as long as a pointer below may have, and there only whole-domain invalidations are looked at.
        """
        everything = self._coverage.everything(self._did)
        if level > 1 or self._np_cache:
            return everything
        leaves = self._bound(0)
        if level == 0:
            return leaves
        if self._large_pages:
            leaves = min(leaves, self._bound(1))
        pointers = self._coverage.latest_pointer(self._did, self._iova, 1)
        return pointers if pointers <= leaves else everything

    def _readable(self, address: int) -> bool:
        """Remembers the lines that can be read; ranges of RAM do not change."""
        if not self._memory.readable(address):
            return False
        if len(self._readable_lines) >= _MAX_LINES:
            self._readable_lines.clear()
        self._readable_lines.add(address >> 6)
        return True

    def _descend(self, level: int, table: int, until: Drop, permission: int, denied: bool) -> None:
        """Follow every path from `table`, which was read before the invalidation `until`."""
        while True:
            address = table + (((self._iova >> (12 + 9 * level)) & 511) << 3)
            if address >> 6 not in self._readable_lines and not self._readable(address):
                if until is ALIVE:
                    first = level == self._top
                    self._refuse(self._reasons.root_access if first else self._reasons.table_access)
                return
            record = self._records.get(address)
            if record is not None:
                break
            following = self._step(level, self._memory.load(address), NEVER, until, permission, denied)
            if following is None:
                return
            table, until, permission, denied = following
            level -= 1
        floor = None
        for start, end, value in record.versions():
            if start > until[1]:
                continue
            last = min(end, until[0])
            if last < self._accepted:
                if not value & 3 and not self._np_cache:
                    continue
                if floor is None:
                    floor = self._floor(level)
                if last <= floor:
                    break
            following = self._step(level, value, end, until, permission, denied)
            if following is not None:
                self._descend(level - 1, *following)

    def _step(
        self, level: int, entry: int, end: int, until: Drop, permission: int, denied: bool
    ) -> _Next | None:
        """Judge one value of an entry that memory held up to `end`; adds outcomes or says how to go on."""
        last = min(end, until[0])
        live = until is ALIVE and end >= self._accepted
        if not entry & 3:
            if live or (self._np_cache and last > self._np_bound(level)):
                self._refuse(self._reasons.not_present[self._write])
            return None
        below = permission & entry
        lacks = not below & self._wanted
        if level == 0 or (entry & 0x80 and level <= self._large_pages):
            if entry & self._leaf_reserved[level]:
                if live:
                    self._malformed(self._reasons.reserved, lacks, denied)
            elif last == NEVER or last > self._bound(level):
                self._leaf(level, entry, below, live, denied)
            return None
        if entry & self._table_reserved[level]:
            if live:
                self._malformed(self._reasons.reserved, lacks, denied)
            return None
        if last != NEVER:
            until = self._coverage.pointer(self._did, self._iova, level, last)
            if level == 1 and until[0] <= self._bound(0):
                return None
        if lacks and until is ALIVE:
            self._refuse(self._reasons.denied[self._write])
        return entry & self._table_address, until, below, lacks

    def _np_bound(self, level: int) -> int:
        return self._bound(level) if level <= 2 else self._coverage.leaf(self._did, self._iova, level)

    def _malformed(self, reason: Reason, lacks: bool, denied: bool) -> None:
        """Permission comes first in the same entry; of different entries either may be reported."""
        if lacks:
            self._refuse(self._reasons.denied[self._write])
        if not lacks or denied:
            self._refuse(reason)

    def _leaf(self, level: int, entry: int, permission: int, live: bool, denied: bool) -> None:
        """A well-formed leaf that may be cached or read now."""
        lacks = not permission & self._wanted
        offset = self._iova & ((1 << (12 + 9 * level)) - 1)
        address = (entry & self._leaf_address[level]) | offset
        if lacks and (live or not self._rewalk):
            self._refuse(self._reasons.denied[self._write])
        if INTERRUPT_FIRST <= address <= INTERRUPT_LAST:
            if live and (not lacks or denied):
                self._refuse(self._reasons.interrupt)
        elif not lacks:
            snoop = self._context.snoop or bool(entry & self._snp)
            r, w = bool(permission & 1), bool(permission & 2)
            self._found.add(Outcome(Reason.NONE, address, level, r, w, snoop))
