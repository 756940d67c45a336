"""Tree pseudo-LRU and keyed lines (T1, T4) against a slow and obvious second implementation."""

import random

import pytest

from pymodel.cycle.replacement import Lines, TreePlru


class SlowPlru:
    """Nodes as a dict; walks the tree as rule T4 says."""

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.nodes = dict.fromkeys(range(1, leaves), 0)

    def touch(self, leaf: int) -> None:
        node = self.leaves + leaf
        while node > 1:
            self.nodes[node // 2] = 1 if node % 2 == 0 else 0
            node //= 2

    def victim(self) -> int:
        node = 1
        while node < self.leaves:
            node = 2 * node + self.nodes[node]
        return node - self.leaves


@pytest.mark.parametrize("leaves", [1, 2, 4, 32, 1024])
def test_victims_equal_the_slow_tree(leaves: int) -> None:
    """T4: same victim after any touches."""
    rng = random.Random(leaves)
    fast, slow = TreePlru(leaves), SlowPlru(leaves)
    for _ in range(400):
        assert fast.victim() == slow.victim()
        leaf = rng.randrange(leaves)
        fast.touch(leaf)
        slow.touch(leaf)


def test_first_victims_walk_the_tree() -> None:
    """T4: literal values for four leaves."""
    plru = TreePlru(4)
    order = []
    for _ in range(4):
        order.append(plru.victim())
        plru.touch(order[-1])
    assert order == [0, 2, 1, 3]


def test_place_prefers_same_key_then_lowest_invalid_then_victim() -> None:
    """T4: the order of choice, and what counts as evicted."""
    lines = Lines(4)
    for index in range(4):
        assert lines.place(100 + index) == (index, False)
        lines.fill(index, 100 + index)
    assert lines.place(102) == (2, False)
    assert lines.place(200) == (lines.plru.victim(), True)
    lines.drop(3)
    lines.drop(1)
    assert lines.place(200) == (1, False)
    lines.fill(1, 200)
    assert lines.where == {100: 0, 102: 2, 200: 1}


def test_a_fill_over_a_valid_line_forgets_its_key() -> None:
    """T1: no two lines with one key."""
    lines = Lines(1)
    lines.fill(0, 5)
    assert lines.place(6) == (0, True)
    lines.fill(0, 6)
    assert lines.where == {6: 0}
