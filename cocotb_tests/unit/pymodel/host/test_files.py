"""Hugetlb pools: reservations and what is left for others; pages of a cache in a range."""

from collections.abc import Sequence

import pytest

from pymodel.host.errors import BadRange, DoubleFree, OutOfMemory
from pymodel.host.files import HugetlbPool, pages_within
from pymodel.host.frames import Frames


def test_reserved_pages_are_kept_for_their_owner() -> None:
    pool = HugetlbPool(Frames(0, 4 * 512), 2, 2)
    pool.reserve(1)
    assert pool.take(reserved=False) is not None
    assert pool.take(reserved=False) is None
    page = pool.take(reserved=True)
    assert page is not None
    assert (pool.free, pool.reserved, page.order) == (0, 0, 9)
    page.refs = 0
    pool.give_back(page)
    assert pool.free == 1


def test_too_many_reservations_wrong() -> None:
    pool = HugetlbPool(Frames(0, 4 * 512), 2, 2)
    pool.reserve(2)
    with pytest.raises(OutOfMemory, match="1 hugetlb pages of level 2 asked for, 0 neither"):
        pool.reserve(1)
    pool.unreserve(2)
    with pytest.raises(DoubleFree, match="1 hugetlb reservations given back, 0 are held"):
        pool.unreserve(1)


def test_page_in_use_given_back_wrong() -> None:
    pool = HugetlbPool(Frames(0, 4 * 512), 2, 2)
    page = pool.take(reserved=False)
    assert page is not None
    with pytest.raises(DoubleFree, match="while it is in use"):
        pool.give_back(page)


def test_pool_of_small_pages_wrong() -> None:
    with pytest.raises(BadRange, match="level 2 or 3, not 1"):
        HugetlbPool(Frames(0, 512), 1, 1)
    with pytest.raises(OutOfMemory):
        HugetlbPool(Frames(0, 512), 2, 2)


@pytest.mark.parametrize("pages", [range(0, 100, 7), [3], []])
def test_pages_of_a_range_are_found_from_either_side(pages: Sequence[int]) -> None:
    """A small range in a large cache, and the reverse."""
    cache = dict.fromkeys(reversed(pages))
    for first, end in ((0, 3), (3, 4), (0, 1 << 40), (50, 60), (7, 7)):
        assert pages_within(cache, first, end) == [index for index in pages if first <= index < end]
