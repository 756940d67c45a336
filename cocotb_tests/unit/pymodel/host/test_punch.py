"""Punched holes: every process loses the pages, private copies stay."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.errors import BadRange
from pymodel.host.files import HugetlbFile, MemFile
from pymodel.host.fork import fork
from pymodel.host.madvise import page_out
from pymodel.host.notifier import MmuEvent
from pymodel.host.punch import punch_hole

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


def test_hugetlb_page_goes_back_to_the_pool_and_stays_reserved() -> None:
    setting = Setting(huge=2)
    pool = setting.host.pools[2]
    file = HugetlbFile(pool)
    setting.map(2 * HUGE, "hugetlb2m", file=file)
    setting.put(A, 5)
    assert (pool.free, pool.reserved) == (1, 1)
    setting.run(punch_hole(setting.host, file, 0, HUGE))
    assert (pool.free, pool.reserved) == (2, 2)
    assert setting.get(A) == 0
    balance(setting.host, [file])


def test_part_of_a_page_wrong() -> None:
    setting = Setting(huge=1)
    with pytest.raises(BadRange, match="whole pages of 0x1000 bytes, not 0x5 at 0x0"):
        setting.run(punch_hole(setting.host, MemFile(), 0, 5))
    with pytest.raises(BadRange, match="whole pages of 0x200000"):
        setting.run(punch_hole(setting.host, HugetlbFile(setting.host.pools[2]), 0, PAGE))
