"""Paging-structure caches: lookup and invalidation scopes against brute force (T1, T3, I6, K2)."""

import random

import pytest

from pymodel.cycle.walk_cache import WalkCache
from pymodel.spec.params import Architecture, IommuParams

LINE = tuple(0x1000 * (n + 1) | 3 for n in range(8))


def filled(rng: random.Random, scope: Architecture) -> WalkCache:
    """Pointers of every level in a small space."""
    cache = WalkCache(IommuParams(psc_entries=16, psc_scope=scope))
    for _ in range(64):
        level, did = rng.randrange(4), rng.randrange(2)
        key = cache.key(did, level, rng.randrange(1 << rng.choice((26, 34, 43, 52))))
        index, _ = cache.caches[level].lines.place(key)
        cache.fill(level, index, key, rng.randrange(1, 256), LINE, 3)
    return cache


def contents(cache: WalkCache) -> set[tuple[int, int, int]]:
    """(did, level, first iova) of every valid sector."""
    found = set()
    for level, part in enumerate(cache.caches):
        for key, index in part.lines.where.items():
            for lane in range(8):
                if part.good[index] >> lane & 1:
                    found.add((key & 0xFFFF, level, ((key >> 16) * 8 + lane) << 21 + 9 * level))
    return found


@pytest.mark.parametrize("scope", list(Architecture))
def test_page_scope(scope: Architecture) -> None:
    """I6, K2: spans that overlap, under AMD only those not larger than the range."""
    rng = random.Random(4)
    for _ in range(60):
        cache = filled(rng, scope)
        before = contents(cache)
        am = rng.choice((0, 3, 8, 9, 10, 12, 13, 18, 21, 27, 30, 36))
        did, page = rng.randrange(2), rng.randrange(1 << rng.choice((14, 22, 31, 40))) >> am << am
        cache.drop_pages(did, page, am)
        low, high = page << 12, (page + (1 << am)) << 12
        expected = {
            sector for sector in before
            if sector[0] != did or sector[2] >= high or sector[2] + (1 << 21 + 9 * sector[1]) <= low
            or (scope is Architecture.AMD and 9 + 9 * sector[1] > am)
        }  # fmt: skip
        assert contents(cache) == expected
    cache = filled(rng, scope)
    before = contents(cache)
    cache.drop_domain(0)
    assert contents(cache) == {sector for sector in before if sector[0]}
    cache.drop_all()
    assert contents(cache) == set()


def test_lowest_level_within_the_depth() -> None:
    """T3."""
    cache = WalkCache(IommuParams())
    for level in (1, 2, 3):
        key = cache.key(7, level, 0)
        cache.fill(level, 0, key, 1 << level, LINE, 1)
    assert cache.find(7, 0, 5) is None
    assert cache.find(7, 1 << 30, 5) == (1, 0, 1, 0x2000)
    assert cache.find(7, 2 << 39, 5) == (2, 0, 1, 0x3000)
    assert cache.find(7, 3 << 48, 5) == (3, 0, 1, 0x4000)
    assert cache.find(7, 3 << 48, 4) is None
    assert cache.find(8, 1 << 30, 5) is None
