"""Punched holes: every process loses the pages, private copies stay."""

from collections.abc import Callable
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.support import GIGA, HUGE, PAGE, A, Setting, balance
from pymodel.host.effects import HostAgent
from pymodel.host.errors import BadRange
from pymodel.host.files import HugetlbFile, MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import Signal
from pymodel.host.kernel import HOST_6_1, HOST_6_12, HostKernel
from pymodel.host.madvise import dont_need, page_out
from pymodel.host.mapping import munmap
from pymodel.host.migrate import move_page
from pymodel.host.notifier import MmuEvent
from pymodel.host.punch import punch_hole
from pymodel.host.vma import Vma

CLEAR = MmuEvent.CLEAR


def test_hole_is_announced_to_each_mapping_of_its_pages() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(4 * PAGE, "memfd", file=file)
    setting.map(2 * PAGE, "memfd", A + HUGE, file=file, offset=2 * PAGE)
    for page in range(4):
        setting.put(A + page * PAGE, page + 1)
    child = setting.run(fork(setting.mm))
    setting.put(A + 2 * PAGE, 9, child)
    setting.run(punch_hole(setting.host, file, PAGE, 2 * PAGE))
    assert setting.calls == [("start", PAGE, 3 * PAGE, CLEAR), ("end", PAGE, 3 * PAGE, CLEAR),
                             ("start", HUGE, HUGE + PAGE, CLEAR), ("end", HUGE, HUGE + PAGE, CLEAR)]  # fmt: skip
    assert len(setting.reused) == 2
    assert [setting.get(A + page * PAGE) for page in range(4)] == [1, 0, 0, 4]
    assert setting.get(A + 2 * PAGE, child) == 0
    balance(setting.host, [file])


def test_swapped_pages_and_private_copies() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.map(PAGE, "memfd", A + HUGE, file=file, shared=False)
    setting.put(A, 5)
    setting.put(A + HUGE, 6)
    setting.run(page_out(setting.mm, A, PAGE))
    setting.run(punch_hole(setting.host, file, 0, PAGE))
    assert (setting.get(A), setting.get(A + HUGE)) == (0, 6)
    assert setting.host.swap.used == 0
    balance(setting.host, [file])


def test_private_mapping_loses_what_it_only_read() -> None:
    """unmap_mapping_range visits private mappings too; their copies stay."""
    setting = Setting()
    file = MemFile()
    setting.map(2 * PAGE, "memfd", file=file)
    setting.map(2 * PAGE, "memfd", A + HUGE, file=file, shared=False)
    setting.put(A, 5)
    setting.put(A + PAGE, 6)
    assert setting.get(A + HUGE) == 5
    setting.put(A + HUGE + PAGE, 7)
    setting.run(punch_hole(setting.host, file, 0, 2 * PAGE))
    assert [call[:2] for call in setting.calls if call[0] == "start"] == [("start", 0), ("start", HUGE)]
    assert (setting.get(A + HUGE), setting.get(A + HUGE + PAGE)) == (0, 7)
    balance(setting.host, [file])


GIGABYTE_OPERATIONS: dict[str, Callable[[Setting, HugetlbFile, int], HostAgent[Any]]] = {
    "hole": lambda setting, file, hva: punch_hole(setting.host, file, HUGE, HUGE),
    "migration": lambda setting, file, hva: move_page(setting.mm, hva),
    "dontneed": lambda setting, file, hva: dont_need(setting.mm, hva, HUGE),
}


@pytest.mark.parametrize("kernel", [HOST_6_1, HOST_6_12])
@pytest.mark.parametrize("name", GIGABYTE_OPERATIONS)
def test_change_in_a_gigabyte_of_a_hugetlb_file_is_announced_for_all_of_it(name: str, kernel: HostKernel) -> None:
    """Page tables of whole gigabytes may be shared (adjust_range_if_pmd_sharing_possible)."""
    setting = Setting(kernel, huge=2)
    file = HugetlbFile(setting.host.pools[2])
    start = (A | GIGA - 1) + 1
    setting.mm.vmas.insert(Vma(start, start + 2 * GIGA, "hugetlb2m", shared=True, file=file, pool=file.pool))
    file.mappers[setting.mm] = None
    setting.put(start + HUGE, 1)
    setting.run(GIGABYTE_OPERATIONS[name](setting, file, start + HUGE))
    assert {call[1:3] for call in setting.calls} == {(start - A, start + GIGA - A)}


def test_hugetlb_page_goes_back_to_the_pool_and_its_reservation_is_gone() -> None:
    """vma_has_reserves: after a hole the next touch competes with everybody else for a page."""
    setting = Setting(huge=2)
    pool = setting.host.pools[2]
    file = HugetlbFile(pool)
    setting.map(2 * HUGE, "hugetlb2m", file=file)
    setting.put(A, 5)
    assert (pool.free, pool.reserved) == (1, 1)
    setting.run(punch_hole(setting.host, file, 0, HUGE))
    assert (pool.free, pool.reserved) == (2, 1)
    setting.map(HUGE, "hugetlb2m", A + 4 * HUGE)
    with pytest.raises(Signal, match="no hugetlb page is left"):
        setting.get(A)
    setting.run(munmap(setting.mm, A + 4 * HUGE, HUGE))
    assert setting.get(A) == 0
    balance(setting.host, [file])


def test_part_of_a_page_wrong() -> None:
    setting = Setting(huge=1)
    with pytest.raises(BadRange, match="whole pages of 0x1000 bytes, not 0x5 at 0x0"):
        setting.run(punch_hole(setting.host, MemFile(), 0, 5))
    with pytest.raises(BadRange, match="whole pages of 0x200000"):
        setting.run(punch_hole(setting.host, HugetlbFile(setting.host.pools[2]), 0, PAGE))


def test_other_mapping_of_the_file_still_hears_of_the_hole() -> None:
    """A process maps the file until its last mapping of it goes."""
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.map(PAGE, "memfd", A + HUGE, file=file)
    setting.put(A + HUGE, 5)
    setting.run(munmap(setting.mm, A, PAGE))
    setting.run(punch_hole(setting.host, file, 0, PAGE))
    assert setting.get(A + HUGE) == 0
    setting.run(munmap(setting.mm, A + HUGE, PAGE))
    assert not file.mappers
    balance(setting.host, [file])


def test_hole_in_a_hugetlb_file_that_nobody_maps_reserves_nothing() -> None:
    setting = Setting(huge=1)
    pool = setting.host.pools[2]
    file = HugetlbFile(pool)
    setting.map(HUGE, "hugetlb2m", file=file)
    setting.put(A, 5)
    setting.run(munmap(setting.mm, A, HUGE))
    setting.run(punch_hole(setting.host, file, 0, HUGE))
    assert (pool.free, pool.reserved) == (1, 0)
    balance(setting.host, [file])
