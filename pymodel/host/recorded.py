"""A primary MMU that is told what a real one did: the oracle of a replay (DESIGN section 5, issue "Conformance").

Declared oracle inputs: the page tables before and after a step, the notifier calls in their order, and the frame
number of a page that is mapped within the step only. The rest is derived: which of the two tables a lookup sees,
when a page is faulted in, the zero pages, whether the access is refused.
"""

from collections.abc import Iterable

from pymodel.host.page_table import HostEntry, HostPageTable, grants
from pymodel.host.regions import Regions

__all__ = ["RecordedHost"]

_HUGE = 1 << 21
Run = tuple[int, int, int, int | None]
"""(level, hva, entries, first value; None: gone); the frame steps by the entry's size."""


class RecordedHost:
    """Page tables by memslot: `now` as far as the step got, `after` as the recording found it at its end."""

    def __init__(self) -> None:
        self.regions = Regions()
        self.now: dict[int, HostPageTable] = {}
        self.after: dict[int, HostPageTable] = {}
        self.oracle_frames = 0
        """Lookups that were answered with a frame from no page table."""
        self._passing: list[tuple[int, int, int]] = []
        self._changed: set[int] = set()

    def begin(self, changes: Iterable[tuple[int, Run]]) -> None:
        """A step begins at whose end the tables of the slots will have changed like this."""
        for slot, (level, hva, count, value) in changes:
            self._changed.add(slot)
            table = self.after.setdefault(slot, HostPageTable())
            size = 1 << (12 + 9 * (level - 1))
            for index in range(count):
                if value is None:
                    table.clear(level, hva + index * size)
                else:
                    table.set(level, hva + index * size, value + index * size)

    def finish(self) -> None:
        """The step is over: what it mapped in passing is gone."""
        for slot, level, hva in self._passing:
            self.now[slot].clear(level, hva)
            self._changed.add(slot)
        self._passing.clear()
        for slot in self._changed:
            table = HostPageTable()
            table.copy_range(self.after.setdefault(slot, HostPageTable()), 0, 1 << 57)
            self.now[slot] = table
        self._changed.clear()

    def settle(self, start: int, end: int) -> None:
        """The primary MMU has finished a change of the range (invalidate_range_end)."""
        for slot, table in self.after.items():
            self.now.setdefault(slot, HostPageTable()).copy_range(table, start, end)

    def lookup(self, slot: int, hva: int) -> HostEntry | None:
        """The entry that maps `hva` now."""
        return self.now.setdefault(slot, HostPageTable()).lookup(hva)

    def final(self, slot: int, hva: int) -> HostEntry | None:
        """The entry that maps `hva` at the end of the step."""
        return self.after.setdefault(slot, HostPageTable()).lookup(hva)

    def resolve(self, slot: int, hva: int, write: bool, hint: tuple[int, bool] | None) -> tuple[int, bool] | None:
        """get_user_pages: (pfn, whether it may be written), or None where the host refuses.

        `hint` is the recorded answer, taken only where the tables cannot tell: a page that was mapped and
        replaced within the step.
        """
        page = grants(self.lookup(slot, hva), hva, write)
        if page is not None:
            return page
        final = self.final(slot, hva)
        now = self.lookup(slot, hva)
        page = grants(final, hva, write)
        zero = not write and now is None and self._untouched_anonymous(hva)
        if page is not None and not (zero and page[1]):
            assert final is not None
            self._commit(slot, final, hva)
            return page
        if hint is not None:
            self.oracle_frames += 1
            if zero and not hint[1]:
                self._map_zero(slot, hva, hint[0])
            elif page is not None and page[0] == hint[0]:
                assert final is not None
                self._commit(slot, final, hva)
            return hint
        return page

    def _untouched_anonymous(self, hva: int) -> bool:
        region = self.regions.find(hva)
        return region is not None and region.anonymous

    def _commit(self, slot: int, entry: HostEntry, hva: int) -> None:
        size = 1 << (12 + 9 * (entry.level - 1))
        start = entry.hva
        now = self.lookup(slot, hva)
        if now is not None and now.level > entry.level:
            size, start = 1 << (12 + 9 * (now.level - 1)), now.hva
        self.now[slot].copy_range(self.after[slot], start, start + size)

    def _map_zero(self, slot: int, hva: int, pfn: int) -> None:
        """A read of untouched memory maps the zero page, the huge one where a whole empty 2 MiB allows it."""
        start = hva & ~(_HUGE - 1)
        table = self.now[slot]
        if self.regions.huge_zero_fits(hva) and table.range_empty(start, start + _HUGE):
            table.set(2, start, (pfn & ~511) << 12 | 0xA5)
            self._passing.append((slot, 2, start))
        else:
            table.set(1, hva & ~0xFFF, pfn << 12 | 0x225)
            self._passing.append((slot, 1, hva & ~0xFFF))

