"""The host's page table of one process, entry by entry as x86 walks it (levels 1, 2, 3 are 4K, 2M, 1G)."""

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["HostEntry", "HostPageTable", "grants"]

_PRESENT, _WRITABLE = 1, 2
_ADDRESS = ((1 << 52) - 1) & ~0xFFF
_LARGE_ADDRESS = {1: _ADDRESS, 2: _ADDRESS & ~0x1FFFFF, 3: _ADDRESS & ~0x3FFFFFFF}


@dataclass(frozen=True, slots=True)
class HostEntry:
    """A leaf: where it starts, its level and its value."""

    hva: int
    level: int
    value: int

    @property
    def present(self) -> bool:
        """pte_present of a page that may be accessed; PROT_NONE and swap entries are not."""
        return bool(self.value & _PRESENT)

    @property
    def writable(self) -> bool:
        """pte_write."""
        return self.present and bool(self.value & _WRITABLE)

    def pfn(self, hva: int) -> int:
        """The 4K frame that `hva` is in."""
        base = (self.value & _LARGE_ADDRESS[self.level]) >> 12
        return base + ((hva - self.hva) >> 12)


def grants(entry: HostEntry | None, hva: int, write: bool) -> tuple[int, bool] | None:
    """(4K frame, whether it may be written) where `entry` lets the process access `hva`, else None."""
    if entry is None or not entry.present or (write and not entry.writable):
        return None
    return entry.pfn(hva), entry.writable


class HostPageTable:
    """Leaves by level and address; one may lie below another only while the caller says so."""

    __slots__ = ("_levels",)

    def __init__(self) -> None:
        self._levels: dict[int, dict[int, int]] = {1: {}, 2: {}, 3: {}}

    def set(self, level: int, hva: int, value: int) -> None:
        """Write the entry of `level` that covers `hva`."""
        self._levels[level][hva >> _shift(level)] = value

    def clear(self, level: int, hva: int) -> None:
        """Empty the entry of `level` that covers `hva`."""
        self._levels[level].pop(hva >> _shift(level), None)

    def lookup(self, hva: int) -> HostEntry | None:
        """The entry that maps `hva`, largest first; it need not be present."""
        for level in (3, 2, 1):
            shift = _shift(level)
            value = self._levels[level].get(hva >> shift)
            if value is not None:
                return HostEntry(hva >> shift << shift, level, value)
        return None

    def value(self, level: int, hva: int) -> int:
        """The entry of this level that covers `hva`, 0 for none."""
        return self._levels[level].get(hva >> _shift(level), 0)

    def leaves(self, start: int, end: int) -> list[HostEntry]:
        """The entries that touch `start`..`end`, by address; present or not."""
        found = [HostEntry(key << _shift(level), level, self._levels[level][key])
                 for level, key in self._within(start, end)]  # fmt: skip
        return sorted(found, key=lambda entry: entry.hva)

    def walk(self, start: int, end: int) -> Iterator[HostEntry]:
        """The entries of `leaves`, each as it is when it is reached: somebody may split or replace it meanwhile."""
        for entry in self.leaves(start, end):
            value = self.value(entry.level, entry.hva)
            if value:
                yield HostEntry(entry.hva, entry.level, value)
            elif entry.level > 1:
                size = 1 << _shift(entry.level)
                yield from self.walk(max(start, entry.hva), min(end, entry.hva + size))

    def range_empty(self, start: int, end: int) -> bool:
        """Whether nothing is mapped in `start`..`end`."""
        return next(self._within(start, end), None) is None

    def copy_range(self, other: "HostPageTable", start: int, end: int) -> None:
        """Make `start`..`end` equal to `other`; entries that only overlap the range are taken whole."""
        for level, key in list(self._within(start, end)):
            del self._levels[level][key]
        for level, key in other._within(start, end):
            self._levels[level][key] = other._levels[level][key]

    def _within(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        for level in (1, 2, 3):
            shift, entries = _shift(level), self._levels[level]
            first, last = start >> shift, (end - 1) >> shift
            if last - first >= len(entries):
                yield from [(level, key) for key in entries if first <= key <= last]
            else:
                yield from [(level, key) for key in range(first, last + 1) if key in entries]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HostPageTable) and self._levels == other._levels

    __hash__ = None  # type: ignore[assignment]


def _shift(level: int) -> int:
    return 12 + 9 * (level - 1)
