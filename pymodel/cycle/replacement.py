"""Tree pseudo-LRU replacement and the keyed lines of every cache."""

from collections.abc import Iterator

__all__ = ["Lines", "TreePlru"]


class TreePlru:
    """Tree pseudo-LRU over a power of two of leaves (T4)."""

    __slots__ = ("bits", "keep", "leaves", "point")

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.bits = 0
        self.keep: list[int] = []
        self.point: list[int] = []
        for leaf in range(leaves):
            path = point = 0
            node = leaves + leaf
            while node > 1:
                parent = node >> 1
                path |= 1 << parent
                if not node & 1:  # the leaf lies below 2n: point to 2n+1
                    point |= 1 << parent
                node = parent
            self.keep.append(~path)
            self.point.append(point)

    def touch(self, leaf: int) -> None:
        """Make every node on the path of `leaf` point away from it (T4)."""
        self.bits = self.bits & self.keep[leaf] | self.point[leaf]

    def victim(self) -> int:
        """The leaf that the nodes point to (T4)."""
        bits, leaves, node = self.bits, self.leaves, 1
        while node < leaves:
            node = 2 * node + (bits >> node & 1)
        return node - leaves


class Lines:
    """Keys, validity and replacement of the lines of one fully associative cache (T1, T4).

    `where` maps the key of every valid line to its index, so no two lines have one key.
    """

    __slots__ = ("all", "keys", "plru", "touch", "valid", "where")

    def __init__(self, count: int) -> None:
        self.all = (1 << count) - 1
        self.valid = 0
        self.keys = [0] * count
        self.where: dict[int, int] = {}
        self.plru = TreePlru(count)
        self.touch = self.plru.touch

    def place(self, key: int) -> tuple[int, bool]:
        """(index, evicted) of the line that a fill with `key` takes; judged before anything changes (T4)."""
        index = self.where.get(key)
        if index is not None:
            return index, False
        free = self.all & ~self.valid
        if free:
            return (free & -free).bit_length() - 1, False
        return self.plru.victim(), True

    def fill(self, index: int, key: int) -> None:
        """Give the line at `index` a key, make it valid and touch it (T4, T5)."""
        bit = 1 << index
        if self.valid & bit:
            del self.where[self.keys[index]]
        self.valid |= bit
        self.keys[index] = key
        self.where[key] = index
        self.touch(index)

    def drop(self, index: int) -> None:
        """Make a valid line invalid; replacement bits stay."""
        self.valid &= ~(1 << index)
        del self.where[self.keys[index]]

    def indices(self) -> Iterator[int]:
        """Indices of the valid lines, which may be dropped on the way."""
        valid = self.valid
        while valid:
            bit = valid & -valid
            yield bit.bit_length() - 1
            valid ^= bit
