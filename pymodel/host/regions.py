"""What backs host memory, and what a read of memory that nobody touched yet maps (mm/memory.c, mm/huge_memory.c)."""

from dataclasses import dataclass

__all__ = ["KINDS", "Region", "Regions"]

KINDS = ("anon4k", "thp", "memfd", "hugetlb2m", "hugetlb1g")
"""Anonymous without and with transparent huge pages, shared file, hugetlb."""
_HUGE = 1 << 21


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
        """Private anonymous memory, where an untouched page reads as the zero page."""
        return self.kind == "thp" or self.kind.startswith("anon")


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
        if region is None or region.kind != "thp":
            return False
        start = hva & ~(_HUGE - 1)
        return region.hva <= start and start + _HUGE <= region.end
