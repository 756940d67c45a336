"""Sets of guest frame numbers."""

from bisect import bisect_left, bisect_right

__all__ = ["GfnSet"]


class GfnSet:
    """A set of gfns, kept as ranges."""

    __slots__ = ("_edges",)

    def __init__(self) -> None:
        self._edges: list[int] = []
        """Starts and ends in turn."""

    def __contains__(self, gfn: int) -> bool:
        return bisect_right(self._edges, gfn) & 1 == 1

    def change(self, start: int, end: int, present: bool) -> None:
        """Put `start`..`end` (half-open) in, or take it out."""
        left, right = bisect_left(self._edges, start), bisect_right(self._edges, end)
        edges = [start] if left & 1 != present else []
        edges += [end] if right & 1 != present else []
        self._edges[left:right] = edges

    def mixed(self, start: int, end: int) -> bool:
        """Whether `start`..`end` holds both kinds."""
        edges = self._edges
        return bool(edges) and bisect_right(edges, start) != bisect_left(edges, end)

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges, in order."""
        return list(zip(self._edges[::2], self._edges[1::2], strict=True))
