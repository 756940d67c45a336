"""Counts of write-tracked gfns, by page and by huge page above it (facts C1 step 1; lpage_info.disallow_lpage)."""

from pymodel.kvm.spte import pages

__all__ = ["TrackedGfns"]

_HUGE_LEVELS = (2, 3)


class TrackedGfns:
    """The write-tracked gfns of a slot; whether a huge page holds one costs the same however many there are."""

    __slots__ = ("_counts", "_under")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._under: dict[tuple[int, int], int] = {}
        """Tracked gfns by (level, first gfn) of the huge page."""

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __contains__(self, gfn: int) -> bool:
        return gfn in self._counts

    def under(self, gfn: int, level: int) -> bool:
        """Whether the huge page of `level` around `gfn` holds a tracked gfn."""
        under = self._under
        return bool(under) and (level, gfn & -pages(level)) in under

    def add(self, gfn: int) -> None:
        """Track it once more."""
        self._counts[gfn] = self._counts.get(gfn, 0) + 1
        if self._counts[gfn] == 1:
            for level in _HUGE_LEVELS:
                place = level, gfn & -pages(level)
                self._under[place] = self._under.get(place, 0) + 1

    def remove(self, gfn: int) -> None:
        """Track it once less. Raises `KeyError` if it is not tracked."""
        self._counts[gfn] -= 1
        if self._counts[gfn]:
            return
        del self._counts[gfn]
        for level in _HUGE_LEVELS:
            place = level, gfn & -pages(level)
            self._under[place] -= 1
            if not self._under[place]:
                del self._under[place]

    def items(self) -> frozenset[tuple[int, int]]:
        """(gfn, how often)."""
        return frozenset(self._counts.items())
