"""What backs memory, and where a huge page fits."""

from pymodel.host.regions import Region, Regions, holds_huge

_A = 0x2000_4020_0000


def test_regions_newest_wins_and_huge_zero_needs_room() -> None:
    regions = Regions()
    regions.add(Region(_A, 0x400000, "thp"))
    assert regions.huge_zero_fits(_A + 0x3000)
    regions.add(Region(_A + 0x1000, 0x1000, "memfd"))
    found = regions.find(_A + 0x1800)
    assert found is not None
    assert not found.anonymous
    assert not regions.huge_zero_fits(_A + 0x1800)
    assert regions.find(0) is None


def test_range_holds_a_huge_page_only_whole() -> None:
    assert holds_huge(_A, _A + (1 << 21), _A + 0x1000)
    assert not holds_huge(_A + 0x1000, _A + (1 << 22), _A + 0x1000)
    assert not holds_huge(_A, _A + (1 << 21) - 0x1000, _A)
