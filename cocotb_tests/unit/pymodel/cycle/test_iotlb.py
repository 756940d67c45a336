"""IOTLB: invalidation scopes against brute force (I6, K1), keys and lookup (T1, T2)."""

import random

import pytest

from pymodel.cycle.iotlb import Iotlb
from pymodel.cycle.layout import Layout, ResponseShifts
from pymodel.spec.params import Architecture, IommuParams

LINE = tuple(0x4000_0000 * (n + 1) | 0x83 for n in range(8))


def filled(rng: random.Random, scope: Architecture) -> Iotlb:
    """An IOTLB with lines of all sizes in a small space."""
    params = IommuParams(iotlb_entries=64, inval_scope=scope)
    iotlb = Iotlb(params, ResponseShifts(Layout(params)))
    for _ in range(64):
        key = iotlb.key(rng.randrange(2), rng.randrange(3), rng.randrange(1 << 35))
        if rng.random() < 0.7:
            key = iotlb.key(rng.randrange(2), rng.randrange(2), rng.randrange(1 << 25))
        index, _ = iotlb.lines.place(key)
        iotlb.fill(index, key, rng.randrange(1, 256), LINE, 3)
    return iotlb


def contents(iotlb: Iotlb) -> dict[tuple[int, int, int], int]:
    """(did, level, iova of the page) of every valid sector."""
    found = {}
    for key, index in iotlb.lines.where.items():
        level, did = key & 3, key >> 2 & 0xFFFF
        for lane in range(8):
            if iotlb.good[index] >> lane & 1:
                found[did, level, ((key >> 18) * 8 + lane) << 12 + 9 * level] = index
    return found


@pytest.mark.parametrize("scope", list(Architecture))
@pytest.mark.parametrize("seed", range(6))
def test_page_scope(scope: Architecture, seed: int) -> None:
    """I6, K1: what overlaps (VTD), or what also is not larger (AMD), and nothing else."""
    rng = random.Random(seed)
    for _ in range(12):
        iotlb = filled(rng, scope)
        before = contents(iotlb)
        am = rng.choice((0, 0, 1, 2, 3, 4, 8, 9, 10, 12, 13, 18, 21, 23))
        did, page = rng.randrange(2), rng.randrange(1 << 13 if rng.random() < 0.6 else 1 << 23) >> am << am
        iotlb.drop_pages(did, page, am)
        low, high = page << 12, (page + (1 << am)) << 12
        expected = {
            sector for sector in before
            if sector[0] != did or sector[2] >= high or sector[2] + (1 << 12 + 9 * sector[1]) <= low
            or (scope is Architecture.AMD and 9 * sector[1] > am)
        }  # fmt: skip
        assert set(contents(iotlb)) == expected
        check(iotlb)


def check(iotlb: Iotlb) -> None:
    """Books are in order: counts, keys, no line without sectors."""
    levels = [key & 3 for key in iotlb.lines.where]
    assert iotlb.counts == [levels.count(level) for level in range(3)]
    assert sorted(iotlb.lines.where.values()) == sorted(iotlb.lines.indices())
    for index in iotlb.lines.indices():
        assert iotlb.good[index]


def test_domain_and_global_scope() -> None:
    """I6."""
    iotlb = filled(random.Random(9), Architecture.VTD)
    before = contents(iotlb)
    iotlb.drop_domain(1)
    assert set(contents(iotlb)) == {sector for sector in before if sector[0] == 0}
    check(iotlb)
    iotlb.drop_all()
    assert contents(iotlb) == {}
    check(iotlb)


def test_find() -> None:
    """T1, T2: every valid sector is found, and the lowest index where several match."""
    iotlb = filled(random.Random(3), Architecture.VTD)
    sectors = contents(iotlb)
    for did, level, iova in sectors:
        found = iotlb.find(did, iova + 0x123)
        matching = [index for (domain, size, base), index in sectors.items()
                    if domain == did and base <= iova + 0x123 < base + (1 << 12 + 9 * size)]  # fmt: skip
        assert found is not None
        assert found[0] == min(matching)
        assert level in range(3)
    assert iotlb.find(5, 0) is None
