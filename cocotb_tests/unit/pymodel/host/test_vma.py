"""Mappings of a process: found, cut, joined."""

import pytest

from cocotb_tests.unit.pymodel.host.support import GIGA, HUGE, PAGE, A
from pymodel.host.errors import BadRange
from pymodel.host.files import HugetlbFile, HugetlbPool, MemFile
from pymodel.host.frames import Frames
from pymodel.host.vma import Vma, VmaMap


def one(start: int, end: int, **fields: object) -> Vma:
    return Vma(start, end, "anon4k", offset=start, **fields)  # type: ignore[arg-type]


def test_lookup_finds_the_mapping_around_an_address() -> None:
    vmas = VmaMap()
    low, high = one(A, A + PAGE), one(A + 2 * PAGE, A + 4 * PAGE)
    vmas.insert(high)
    vmas.insert(low)
    assert vmas.find(A + PAGE - 1) is low
    assert vmas.find(A + PAGE) is None
    assert vmas.find(A + 2 * PAGE) is high
    assert vmas.touching(A, A + 3 * PAGE) == [low, high]
    assert vmas.touching(A + PAGE, A + 2 * PAGE) == []


def test_cut_mapping_is_joined_again_when_alike() -> None:
    vmas = VmaMap()
    vmas.insert(one(A, A + 8 * PAGE))
    vmas.split(vmas.covering(A, A + PAGE)[0], A + 2 * PAGE)
    vmas.split(vmas.covering(A + 2 * PAGE, A + 3 * PAGE)[0], A + 5 * PAGE)
    assert [(vma.start - A) >> 12 for vma in vmas] == [0, 2, 5]
    middle = vmas.find(A + 2 * PAGE)
    assert middle is not None
    middle.write = False
    vmas.merge(A + 2 * PAGE, A + 5 * PAGE)
    assert len(list(vmas)) == 3
    middle.write = True
    vmas.merge(A + 2 * PAGE, A + 5 * PAGE)
    assert [(vma.start, vma.end) for vma in vmas] == [(A, A + 8 * PAGE)]


def test_memory_that_came_from_elsewhere_stays_a_mapping_of_its_own() -> None:
    vmas = VmaMap()
    vmas.insert(one(A, A + PAGE))
    moved = one(A + PAGE, A + 2 * PAGE)
    moved.offset = A + 7 * PAGE
    vmas.insert(moved)
    vmas.merge(A, A + 2 * PAGE)
    assert len(list(vmas)) == 2


def test_reservations_are_shared_out_with_the_parts() -> None:
    pool = HugetlbPool(Frames(0, 4 * 512), 2, 4)
    vmas = VmaMap()
    vmas.insert(Vma(A, A + 3 * HUGE, "hugetlb2m", pool=pool, reserve={A, A + 2 * HUGE}))
    vmas.split(vmas.covering(A, A + HUGE)[0], A + HUGE)
    assert [vma.reserve for vma in vmas] == [{A}, {A + 2 * HUGE}]
    with pytest.raises(BadRange, match="inside a hugetlb2m page"):
        vmas.split(vmas.covering(A, A + HUGE)[0], A + PAGE)


def test_mappings_of_a_file_are_found_without_looking_at_others() -> None:
    """Also after a cut, a join and a removal."""
    vmas, file = VmaMap(), MemFile()
    shown = Vma(A, A + 4 * PAGE, "memfd", shared=True, file=file)
    vmas.insert(one(A + 8 * PAGE, A + 9 * PAGE))
    vmas.insert(shown)
    vmas.split(shown, A + PAGE)
    assert [(vma.start - A) >> 12 for vma in vmas.of_file(file)] == [0, 1]
    vmas.merge(A, A + 4 * PAGE)
    assert vmas.of_file(file) == [shown]
    vmas.remove(shown)
    assert vmas.of_file(file) == []


def test_range_over_a_shared_hugetlb_file_is_announced_in_gigabytes() -> None:
    """adjust_range_if_pmd_sharing_possible: only where a whole gigabyte lies in the mapping, and only within it."""
    pool = HugetlbPool(Frames(0, 512), 2, 1)
    base = 5 * GIGA
    vma = Vma(base - HUGE, base + GIGA + HUGE, "hugetlb2m", shared=True, file=HugetlbFile(pool), pool=pool)
    assert vma.announced(base + HUGE, base + 2 * HUGE) == (base, base + GIGA)
    assert vma.announced(base - HUGE, base) == (base - HUGE, base)
    assert vma.announced(base - HUGE, base + HUGE) == (base - HUGE, base + GIGA)
    assert vma.announced(base + GIGA - HUGE, vma.end) == (base, vma.end)
    for small in (Vma(base, base + GIGA - HUGE, "hugetlb2m", shared=True, file=vma.file, pool=pool),
                  Vma(base, base + GIGA, "hugetlb2m", pool=pool), one(base, base + GIGA)):  # fmt: skip
        assert small.announced(base + HUGE, base + 2 * HUGE) == (base + HUGE, base + 2 * HUGE)


def test_hole_overlap_and_stranger_wrong() -> None:
    vmas = VmaMap()
    vmas.insert(one(A, A + PAGE))
    with pytest.raises(BadRange, match=f"nothing is mapped at hva {A + PAGE:#x}"):
        vmas.covering(A, A + 2 * PAGE)
    with pytest.raises(BadRange, match="mapped in"):
        vmas.insert(one(A, A + PAGE))
    with pytest.raises(BadRange, match="not of this process"):
        vmas.remove(one(A, A + PAGE))
