"""What backs host memory, and what a read of memory that nobody touched yet maps (mm/memory.c, mm/huge_memory.c)."""

from dataclasses import dataclass

__all__ = ["KINDS", "Region", "Regions", "holds_huge", "is_anonymous"]

KINDS = ("anon4k", "thp", "memfd", "hugetlb2m", "hugetlb1g")
"""Anonymous without and with transparent huge pages, shared file, hugetlb."""
_HUGE = 1 << 21


def is_anonymous(kind: str) -> bool:
    """Private anonymous memory, where an untouched page reads as the zero page."""
    return kind == "thp" or kind.startswith("anon")


def holds_huge(start: int, end: int, hva: int) -> bool:
    """Whether `start`..`end` holds all of the 2 MiB page around `hva` (range_in_vma of the huge page)."""
    huge = hva & ~(_HUGE - 1)
    return start <= huge and huge + _HUGE <= end


@dataclass(frozen=True, slots=True)
class Region:
    """One mapping of the process."""

    hva: int
    length: int
    kind: str

    @property
    def end(self) -> int:
        """First address behind it."""
        return self.hva + self.length

    @property
    def anonymous(self) -> bool:
        """Whether it is private anonymous memory."""
        return is_anonymous(self.kind)


class Regions:
    """The mappings, newest first where they overlap (mmap over)."""

    def __init__(self) -> None:
        self._regions: list[Region] = []

    def add(self, region: Region) -> None:
        """Map it over whatever was there."""
        self._regions.insert(0, region)

    def find(self, hva: int) -> Region | None:
        """The mapping that holds `hva`."""
        return next((region for region in self._regions if region.hva <= hva < region.end), None)

    def huge_zero_fits(self, hva: int) -> bool:
        """Whether a read of untouched memory at `hva` may map the huge zero page: THP, all 2 MiB inside."""
        region = self.find(hva)
        return region is not None and region.kind == "thp" and holds_huge(region.hva, region.end, hva)
