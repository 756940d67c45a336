"""Logical time and what memory held when.

Time is a cycle number. Events inside one cycle are ordered by the order of the calls: every event gets a
*stamp*, `cycle << STAMP_SHIFT` plus a running number. Words that never changed cost nothing.
"""

from collections.abc import Iterator

from pymodel.iommu.types import TableMemory

__all__ = ["ALWAYS", "NEVER", "STAMP_SHIFT", "Clock", "History", "Version"]

STAMP_SHIFT = 24
ALWAYS = -1
"""Stamp before everything."""
NEVER = 1 << 62
"""Stamp after everything: a version that still holds, a copy that nothing dropped."""

Version = tuple[int, int, int]
"""(start, end, value): memory held `value` from stamp `start` up to stamp `end`."""


class Clock:
    """The source of stamps; shared by all histories of one judge."""

    __slots__ = ("stamp", "time")

    def __init__(self) -> None:
        self.time = 0
        self.stamp = 0

    def advance(self, time: int) -> None:
        """Events from now on happen in cycle `time`; `ValueError` if that lies in the past."""
        if time < self.time:
            raise ValueError(f"time goes from {self.time} back to {time}")
        if time > self.time:
            self.time = time
            self.stamp = max(self.stamp, time << STAMP_SHIFT)

    def tick(self) -> int:
        """Stamp of an event that happens now."""
        self.stamp += 1
        return self.stamp


class Record:
    """The values of one word: those that are over, oldest first, and the one that holds."""

    __slots__ = ("past", "start", "value")

    def __init__(self, value: int, start: int = ALWAYS) -> None:
        self.past: list[Version] = []
        self.start = start
        self.value = value

    def change(self, stamp: int, value: int, keep: int) -> None:
        """A new value from `stamp` on; at most `keep` distinct old values survive a clean-up."""
        self.past.append((self.start, stamp, self.value))
        self.start = stamp
        self.value = value
        if len(self.past) >= 3 * keep:
            self._compact(keep)

    def _compact(self, keep: int) -> None:
        """Behind the latest `keep` versions one for each distinct value, first start to last end."""
        merged: dict[int, Version] = {}
        for start, end, value in self.past[:-keep]:
            older = merged.pop(value, None)
            merged[value] = (start if older is None else older[0], end, value)
        self.past[:-keep] = list(merged.values())[-keep:]

    def versions(self) -> Iterator[Version]:
        """Newest first; ends never rise."""
        yield self.start, NEVER, self.value
        yield from reversed(self.past)


class History:
    """Every value that a word of memory held, as far back as it can matter.

    Bounded in two ways. `prune` forgets what nothing can have kept any more. And a word keeps fewer than `3 * keep`
    versions: behind the latest `keep`, equal values are merged (the merged version holds from the first start to the
    last end, which only adds outcomes) and the oldest of more than `keep` distinct values are forgotten; a table that
    changes that often without an invalidation is judged too strictly.
    """

    def __init__(self, memory: TableMemory, clock: Clock, *, keep: int = 64) -> None:
        self.memory = memory
        self.clock = clock
        self.records: dict[int, Record] = {}
        """By word address; only words that changed. Read by the judge's inner loop."""
        self._keep = keep
        self._lines: set[int] = set()
        self._structures: set[int] = set()
        """Pages from which context structures were ever read."""
        self.disturbed = False
        """A word of a watched line changed since this was last cleared."""
        self.changed = ALWAYS
        """Stamp of the last event that may make a translation illegal, noted by the judge. Stores do not: caches may
        hold what memory held until an invalidation completes."""

    def stored(self, address: int, old: int, new: int) -> None:
        """Memory observer."""
        clock = self.clock
        clock.stamp += 1
        record = self.records.get(address)
        if record is None:
            record = self.records[address] = Record(old)
        record.change(clock.stamp, new, self._keep)
        if address >> 6 in self._lines:
            self.disturbed = True

    def watch(self, address: int) -> None:
        """Set `disturbed` when a word of the 64-byte line at `address` changes."""
        self._lines.add(address >> 6)
        self._structures.add(address >> 12)

    def unwatch(self) -> None:
        """Forget the watched lines."""
        self._lines.clear()
        self.disturbed = False

    @property
    def kept(self) -> int:
        """Old versions that are kept, of all words."""
        return sum(len(record.past) for record in self.records.values())

    def prune(self, tables: int, structures: int) -> None:
        """Forget the versions that ended at or before a stamp: `tables`, or `structures` for words of pages that
        context structures were read from.

        The caller knows that no cache, walk or open request can hold anything that was read up to then. A word whose
        present value is older than that is as good as one that never changed.
        """
        dead: list[int] = []
        for address, record in self.records.items():
            limit = structures if address >> 12 in self._structures else tables
            past = record.past
            if past[-1][1] <= limit:
                dead.append(address)
            elif past[0][1] <= limit:  # ends rise
                record.past = [version for version in past if version[1] > limit]
        for address in dead:
            del self.records[address]

    def entries(self, address: int, words: int) -> Iterator[Version]:
        """Versions of consecutive words read at one instant (the IOMMU reads whole lines), newest first."""
        records = [self.records.get(address + 8 * index) for index in range(words)]
        if not any(records):
            value = 0
            for index in range(words):
                value |= self.memory.load(address + 8 * index) << (64 * index)
            yield ALWAYS, NEVER, value
            return
        lists: list[list[Version]] = []
        for index, record in enumerate(records):
            if record is None:
                lists.append([(ALWAYS, NEVER, self.memory.load(address + 8 * index))])
            else:
                lists.append(list(record.versions()))
        cuts = sorted({start for versions in lists for start, _, _ in versions}, reverse=True)
        end = NEVER
        for start in cuts:
            value = 0
            for index, versions in enumerate(lists):
                held = next((item for item in versions if item[0] <= start), versions[-1])
                value |= held[2] << (64 * index)
            yield start, end, value
            end = start
