"""Mappings of a process (struct vm_area_struct) and their ordered map (mm/mmap.c)."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pymodel.host.errors import BadRange
from pymodel.host.files import HugetlbPool, PageCache
from pymodel.host.regions import holds_huge, is_anonymous

__all__ = ["Vma", "VmaMap"]

_ALIKE = ("kind", "read", "write", "shared", "file", "pool", "no_huge", "mergeable")
"""What two mappings must have in common to be one."""


@dataclass(slots=True, eq=False)
class Vma:
    """One mapping, `start` .. `end` (half-open, bytes)."""

    start: int
    end: int
    kind: str
    """Of `regions.KINDS`: what backs it. A `thp` mapping takes huge pages, `anon4k` does not."""
    read: bool = True
    write: bool = True
    shared: bool = False
    file: PageCache | None = None
    offset: int = 0
    """Byte of the file at `start`. Without a file the address where the memory was first mapped: it says what may
    become one mapping (vm_pgoff)."""
    pool: HugetlbPool | None = None
    no_huge: bool = False
    """MADV_NOHUGEPAGE: not even MADV_COLLAPSE makes a huge page."""
    mergeable: bool = False
    """MADV_MERGEABLE: KSM may share its pages."""
    anon_vma: bool = False
    """Has, or may have, anonymous pages; a fork copies only such mappings."""
    reserve: set[int] | None = None
    """Private hugetlb: addresses of pages that are reserved and untouched; None in a child, which has none."""

    @property
    def anonymous(self) -> bool:
        """Private memory without a file, that is not hugetlb."""
        return is_anonymous(self.kind)

    @property
    def level(self) -> int:
        """Level of a hugetlb page (2 or 3), 1 for everything else."""
        return 1 if self.pool is None else self.pool.level

    def index(self, hva: int) -> int:
        """Page of the file at `hva`, in pages of the mapping's level."""
        return (hva - self.start + self.offset) >> (12 + 9 * (self.level - 1))

    def announced(self, start: int, end: int) -> tuple[int, int]:
        """What the notifiers are told of a range (adjust_range_if_pmd_sharing_possible).

        Processes may share the page tables of whole gigabytes of a hugetlb file: a change there is one of all of it.
        """
        low, high = -(-self.start >> 30) << 30, self.end >> 30 << 30
        if self.pool is None or not self.shared or end <= low or start >= high:
            return start, end
        return (start >> 30 << 30 if start > low else start), (-(-end >> 30) << 30 if end < high else end)

    def takes_huge(self, hva: int) -> bool:
        """Whether a fault at `hva` may map a transparent huge page (transhuge_vma_suitable)."""
        return self.kind == "thp" and holds_huge(self.start, self.end, hva)

    def continues(self, other: "Vma") -> bool:
        """Whether `other`, right behind this one, is the same mapping (can_vma_merge)."""
        if self.end != other.start or (self.reserve is None) != (other.reserve is None):
            return False
        if any(getattr(self, name) != getattr(other, name) for name in _ALIKE):
            return False
        return self.offset + self.end - self.start == other.offset


class VmaMap:
    """The mappings by address."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._vmas: list[Vma] = []
        self._by_file: dict[PageCache, dict[Vma, None]] = {}

    def __iter__(self) -> Iterator[Vma]:
        return iter(tuple(self._vmas))

    def find(self, hva: int) -> Vma | None:
        """The mapping that holds `hva`."""
        position = bisect_right(self._starts, hva) - 1
        if position < 0 or self._vmas[position].end <= hva:
            return None
        return self._vmas[position]

    def of_file(self, file: PageCache) -> list[Vma]:
        """The mappings of a file, by address."""
        return sorted(self._by_file.get(file, ()), key=lambda vma: vma.start)

    def touching(self, start: int, end: int) -> list[Vma]:
        """The mappings that `start`..`end` touches, by address."""
        position = max(bisect_right(self._starts, start) - 1, 0)
        found = []
        while position < len(self._vmas) and self._starts[position] < end:
            if self._vmas[position].end > start:
                found.append(self._vmas[position])
            position += 1
        return found

    def covering(self, start: int, end: int) -> list[Vma]:
        """The mappings of a range without holes. Raises `BadRange` (ENOMEM) for one with a hole."""
        found = self.touching(start, end)
        reached = start
        for vma in found:
            if vma.start > reached:
                break
            reached = vma.end
        if reached < end:
            raise BadRange(f"nothing is mapped at hva {reached:#x}")
        return found

    def insert(self, vma: Vma) -> None:
        """Put in a mapping that touches no other. Raises `BadRange`."""
        if self.touching(vma.start, vma.end):
            raise BadRange(f"something is mapped in {vma.start:#x}..{vma.end:#x} already")
        position = bisect_right(self._starts, vma.start)
        self._starts.insert(position, vma.start)
        self._vmas.insert(position, vma)
        if vma.file is not None:
            self._by_file.setdefault(vma.file, {})[vma] = None

    def remove(self, vma: Vma) -> None:
        """Take a mapping out."""
        position = bisect_right(self._starts, vma.start) - 1
        if position < 0 or self._vmas[position] is not vma:
            raise BadRange(f"the mapping at {vma.start:#x} is not of this process")
        self._delete(position)

    def _delete(self, position: int) -> None:
        vma = self._vmas[position]
        del self._starts[position], self._vmas[position]
        if vma.file is not None:
            del self._by_file[vma.file][vma]

    def split(self, vma: Vma, hva: int) -> None:
        """__split_vma: cut at `hva`, inside. Raises `BadRange` (EINVAL) inside a hugetlb page."""
        if hva % (4096 << 9 * (vma.level - 1)):
            raise BadRange(f"hva {hva:#x} lies inside a {vma.kind} page")
        upper = replace(vma, start=hva, offset=vma.offset + hva - vma.start)
        if vma.reserve is not None:
            upper.reserve = {page for page in vma.reserve if page >= hva}
            vma.reserve -= upper.reserve
        vma.end = hva
        self.insert(upper)

    def merge(self, start: int, end: int) -> None:
        """vma_merge: join what is one mapping again around `start`..`end`."""
        position = max(bisect_right(self._starts, start) - 2, 0)
        while position + 1 < len(self._vmas) and self._vmas[position].start <= end:
            lower, upper = self._vmas[position], self._vmas[position + 1]
            if not lower.continues(upper):
                position += 1
                continue
            lower.end = upper.end
            lower.anon_vma = lower.anon_vma or upper.anon_vma
            if lower.reserve is not None and upper.reserve is not None:
                lower.reserve |= upper.reserve
            self._delete(position + 1)
