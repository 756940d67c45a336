"""Slow, obvious implementations of the caches, written from rules T1-T5, I6 and M4 of docs/timing.md.

Addresses are bytes and ranges are pairs of integers here: no masks, no tags, no one-hot vectors.
"""

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Drop", "SlowContexts", "SlowFaults", "SlowIotlb", "SlowPointers", "Tree"]


class Tree:
    """Pseudo-LRU over lines low..high: each inner node says in which half the victim lies."""

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high, self.upper = low, high, False
        middle = (low + high) // 2
        self.halves = None if low == high else (Tree(low, middle), Tree(middle + 1, high))

    def victim(self) -> int:
        """The line to replace."""
        return self.low if self.halves is None else self.halves[self.upper].victim()

    def touch(self, line: int) -> None:
        """Point away from `line` wherever it is below."""
        if self.halves is not None:
            self.upper = line <= self.halves[0].high
            self.halves[not self.upper].touch(line)


@dataclass
class Drop:
    """An invalidation (I6): what it selects by, and its range of bytes for page-selective ones."""

    kind: str = ""
    """"" for none, else everything, did, page, sid, pasid."""
    did: int = 0
    first: int = 0
    last: int = 0
    """First and last byte of the range."""
    keep_pointers: bool = False
    sid: int = 0
    functions: int = 0
    """Function bits that are not compared."""
    pasid: int = 0


@dataclass
class Line:
    """One line: who it is for, and the sectors that are valid."""

    key: Any
    first: int = 0
    """First byte of what sector 0 spans."""
    sectors: dict[int, Any] = field(default_factory=dict)


class _Cache:
    """Lines, replacement, and the order of events inside one cycle (T4, T5)."""

    def __init__(self, entries: int) -> None:
        self.lines: list[Line | None] = [None] * entries
        self.tree = Tree(0, entries - 1)

    def place(self, key: Any) -> tuple[int, bool]:
        """Where a fill goes, and whether it evicts."""
        for number, line in enumerate(self.lines):
            if line is not None and line.key == key:
                return number, False
        for number, line in enumerate(self.lines):
            if line is None:
                return number, False
        return self.tree.victim(), True

    def end(self, looked: int | None, filled: tuple[int, Line] | None, drop: Drop) -> None:
        """End of a cycle: touches, then the invalidation, then the fill, which it does not see."""
        if looked is not None:
            self.tree.touch(looked)
        for number, line in enumerate(self.lines):
            if line is not None and drop.kind:
                for sector in list(line.sectors):
                    if self.drops(line, sector, drop):
                        del line.sectors[sector]
                if not line.sectors:
                    self.lines[number] = None
        if filled is not None:
            self.lines[filled[0]] = filled[1]
            self.tree.touch(filled[0])

    def drops(self, line: Line, sector: int, drop: Drop) -> bool:
        """Whether the invalidation drops one sector."""
        raise NotImplementedError


def _overlap(first: int, size: int, drop: Drop) -> bool:
    return first <= drop.last and drop.first <= first + size - 1


class SlowIotlb(_Cache):
    """IOTLB; keys are (did, level, first byte of the line). `amd`: K1."""

    def __init__(self, entries: int, amd: bool) -> None:
        super().__init__(entries)
        self.amd = amd

    def lookup(self, did: int, address: int) -> tuple[int, int, Any] | None:
        """Line, level and sector, or None."""
        for number, line in enumerate(self.lines):
            if line is None or line.key[0] != did:
                continue
            size = 4096 * 512 ** line.key[1]
            sector = (address - line.first) // size
            if sector in line.sectors:
                return number, line.key[1], line.sectors[sector]
        return None

    def line(self, did: int, level: int, address: int, sectors: dict[int, Any]) -> Line:
        """A line for the 8 pages of `level` around `address`."""
        size = 8 * 4096 * 512**level
        first = address // size * size
        return Line((did, level, first), first, sectors)

    def drops(self, line: Line, sector: int, drop: Drop) -> bool:
        """I6: IOTLB descriptors."""
        did, level, _ = line.key
        size = 4096 * 512**level
        if drop.kind == "everything":
            return True
        if drop.kind == "did":
            return did == drop.did
        fits = not self.amd or size <= drop.last - drop.first + 1
        inside = fits and _overlap(line.first + sector * size, size, drop)
        return drop.kind == "page" and did == drop.did and inside


class SlowPointers(_Cache):
    """Paging-structure cache of one level; keys are (did, first byte of the line). `amd`: K2."""

    def __init__(self, entries: int, level: int, amd: bool) -> None:
        super().__init__(entries)
        self.size = 4096 * 512 ** (level + 1)
        self.amd = amd

    def lookup(self, did: int, address: int) -> tuple[int, Any] | None:
        """Line and sector, or None."""
        for number, line in enumerate(self.lines):
            if line is not None and line.key[0] == did:
                sector = (address - line.first) // self.size
                if sector in line.sectors:
                    return number, line.sectors[sector]
        return None

    def line(self, did: int, address: int, sectors: dict[int, Any]) -> Line:
        """A line for the 8 spans around `address`."""
        first = address // (8 * self.size) * 8 * self.size
        return Line((did, first), first, sectors)

    def drops(self, line: Line, sector: int, drop: Drop) -> bool:
        """I6: IOTLB descriptors; IH=1 keeps pointers."""
        if drop.kind == "everything":
            return True
        if line.key[0] != drop.did:
            return False
        fits = not self.amd or self.size <= drop.last - drop.first + 1
        inside = fits and _overlap(line.first + sector * self.size, self.size, drop)
        return drop.kind == "did" or (drop.kind == "page" and inside and not drop.keep_pointers)


class SlowContexts(_Cache):
    """Context cache; keys are (sid, pasid_valid, pasid), a line has one sector: (pasid used, did, value)."""

    def lookup(self, key: Any) -> tuple[int, Any] | None:
        """Line and value, or None."""
        for number, line in enumerate(self.lines):
            if line is not None and line.key == key:
                return number, line.sectors[0]
        return None

    def drops(self, line: Line, sector: int, drop: Drop) -> bool:
        """I6: CONTEXT and PASID cache descriptors."""
        pasid, did, _ = line.sectors[0]
        return (
            drop.kind == "everything"
            or (drop.kind == "did" and did == drop.did)
            or (drop.kind == "pasid" and (did, pasid) == (drop.did, drop.pasid))
            or (drop.kind == "sid" and line.key[0] | drop.functions == drop.sid | drop.functions)
        )


class SlowFaults:
    """Fault recording registers (M4, R2) as a list."""

    def __init__(self, records: int) -> None:
        self.records: list[Any] = [None] * records
        self.valid = [False] * records
        self.next = 0
        self.overflow = False
        self.first = 0

    def end(self, faults: list[Any], clear: int | None, clear_overflow: bool) -> int:
        """End of a cycle; returns how many faults are written. Hardware wins over software (R2)."""
        before, was_full = list(self.valid), self.overflow
        if clear is not None:
            self.valid[clear] = False
        if clear_overflow:
            self.overflow = False
        full, pending, written = was_full, any(before), 0
        for fault in faults:
            if full:
                continue
            if before[self.next]:
                full = self.overflow = True
                continue
            if not pending:
                self.first = self.next
            self.records[self.next] = fault
            self.valid[self.next] = before[self.next] = pending = True
            self.next = (self.next + 1) % len(self.records)
            written += 1
        return written
