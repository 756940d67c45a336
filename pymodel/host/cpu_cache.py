"""A CPU cache in front of memory, so that an unsnooped access is visibly stale (facts D6, C11).

One physically indexed write-back cache stands for all caches of the CPUs, which are coherent with each other.
It has no size: which lines leave it, and when, is for the caller to choose (`evictable`, `evict`), as is what
is fetched without being asked for (`prefetch`).
"""

from collections.abc import Hashable

from pymodel.effects import Words
from pymodel.memory import LockedOperations

__all__ = ["LINE", "CpuCache"]

LINE = 64
"""Bytes of a line."""
_WORDS = range(0, LINE, 8)


class CpuCache(LockedOperations):
    """Lines of 64 bytes over `memory`; itself `Words`, as the CPU sees them.

    Addresses are bytes, multiples of 8. Misaligned ones and values beyond 64 bits raise the `ValueError` of `memory`
    at the latest when the line is written back; the cache does not look at them.
    """

    def __init__(self, memory: Words) -> None:
        self.memory = memory
        self._lines: dict[int, list[int]] = {}
        self._dirty: dict[int, None] = {}

    # --- the CPU -------------------------------------------------------------------------------------------

    def load(self, address: int) -> int:
        """A CPU load: a hit may be older than memory, if a device wrote there without snooping."""
        return self._fill(address)[(address & LINE - 1) >> 3]

    def store(self, address: int, value: int) -> None:
        """A CPU store: the line is fetched if needed, changed and dirty; memory stays as it is."""
        if value >> 64 or address & 7:
            raise ValueError(f"a store is of 64 bits to a multiple of 8, not {value:#x} to {address:#x}")
        self._fill(address)[(address & LINE - 1) >> 3] = value
        self._dirty[address & -LINE] = None

    # --- devices -------------------------------------------------------------------------------------------

    def read_snooped(self, address: int) -> int:
        """A coherent device read: a dirty line is written back first."""
        self.clwb(address)
        line = self._lines.get(address & -LINE)
        return self.memory.load(address) if line is None else line[(address & LINE - 1) >> 3]

    def write_snooped(self, address: int, value: int) -> None:
        """A coherent device write: the line leaves the cache (what was dirty in it is kept), then memory changes."""
        self.clflush(address)
        self.memory.store(address, value)

    def read_unsnooped(self, address: int) -> int:
        """A no-snoop device read: what memory holds, stale where a line is dirty."""
        return self.memory.load(address)

    def write_unsnooped(self, address: int, value: int) -> None:
        """A no-snoop device write: memory changes under a line, which stays and, if dirty, overwrites it later."""
        self.memory.store(address, value)

    # --- cache control -------------------------------------------------------------------------------------

    def clwb(self, address: int) -> None:
        """Write the line back if it is dirty, and keep it."""
        self._write_back(address & -LINE)

    def clflush(self, address: int) -> None:
        """Write the line back if it is dirty, and drop it."""
        self._write_back(address & -LINE)
        self._lines.pop(address & -LINE, None)

    def wbinvd(self) -> None:
        """Write every dirty line back and drop all lines."""
        for line in list(self._dirty):
            self._write_back(line)
        self._lines.clear()

    def evictable(self) -> tuple[int, ...]:
        """Addresses of the lines that the cache holds, rising: any of them may be evicted at any time."""
        return tuple(sorted(self._lines))

    def evict(self, line: int) -> None:
        """The cache makes room: as `clflush`, chosen by nobody. Raises `KeyError` for a line that is not held."""
        if line not in self._lines:
            raise KeyError(f"the cache holds no line {line:#x}")
        self.clflush(line)

    def prefetch(self, address: int) -> None:
        """The CPU fetches the line without being asked to."""
        self._fill(address)

    def is_dirty(self, address: int) -> bool:
        """Whether the line of `address` is newer than memory."""
        return address & -LINE in self._dirty

    # --- for the explorer ----------------------------------------------------------------------------------

    def snapshot(self) -> Hashable:
        """Everything that the cache holds, equal and hashed by contents, whatever the order of the accesses."""
        return frozenset((line, line in self._dirty, tuple(words)) for line, words in self._lines.items())

    def copy(self, memory: Words) -> "CpuCache":
        """A cache with the same lines over `memory`, to be changed independently."""
        other = CpuCache(memory)
        other._lines = {line: list(words) for line, words in self._lines.items()}
        other._dirty = dict(self._dirty)
        return other

    def _fill(self, address: int) -> list[int]:
        line = address & -LINE
        words = self._lines.get(line)
        if words is None:
            words = self._lines[line] = [self.memory.load(line + offset) for offset in _WORDS]
        return words

    def _write_back(self, line: int) -> None:
        if line in self._dirty:
            del self._dirty[line]
            for offset, word in zip(_WORDS, self._lines[line]):
                self.memory.store(line + offset, word)
