"""mprotect: permissions, what a later access needs, what the notifiers hear."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.errors import BadRange
from pymodel.host.files import MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import Signal
from pymodel.host.kernel import HOST_6_1, HOST_6_7, HOST_6_12, HostKernel
from pymodel.host.mapping import exit_process
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent

CLEAR, VMA = MmuEvent.CLEAR, MmuEvent.PROTECTION_VMA


def test_permission_goes_and_comes_back_with_the_data() -> None:
    """Recorded (mprotect_4k): 865, PROT_NONE inverted, 867 at once."""
    setting = Setting(HOST_6_1)
    setting.map(HUGE)
    setting.put(A, 3)
    whole = [("start", 0, HUGE, VMA), ("end", 0, HUGE, VMA)]
    setting.run(mprotect(setting.mm, A, HUGE, write=False))
    assert setting.calls == whole
    assert setting.mm.table.value(1, A) & 0xFFF == 0x865
    with pytest.raises(Signal):
        setting.put(A, 4)
    setting.run(mprotect(setting.mm, A, HUGE, read=False, write=False))
    with pytest.raises(Signal):
        setting.get(A)
    setting.run(mprotect(setting.mm, A, HUGE, write=True))
    assert setting.calls == whole
    assert setting.mm.table.value(1, A) & 0xFFF == 0x867
    assert setting.get(A) == 3
    balance(setting.host)


@pytest.mark.parametrize(("kernel", "first"), [(HOST_6_1, 3 * HUGE), (HOST_6_12, 0)])
def test_notifiers_hear_from_the_first_table_on(kernel: HostKernel, first: int) -> None:
    setting = Setting(kernel)
    setting.map(8 * HUGE)
    setting.put(A + 3 * HUGE + 5 * PAGE, 1)
    setting.run(mprotect(setting.mm, A, 8 * HUGE, write=False))
    assert setting.calls == [("start", first, 8 * HUGE, VMA), ("end", first, 8 * HUGE, VMA)]


def test_untouched_or_unchanged_memory_is_silent() -> None:
    setting = Setting()
    setting.map(2 * HUGE)
    setting.run(mprotect(setting.mm, A, PAGE, write=False))
    setting.run(mprotect(setting.mm, A, PAGE, write=False))
    assert setting.calls == []


def test_range_over_a_gigabyte_edge_is_told_in_two_parts_before_6_12() -> None:
    """The walk goes down from each 1 GiB entry."""
    edge = (A | (1 << 30) - 1) + 1
    for kernel, parts in ((HOST_6_1, 2), (HOST_6_12, 1)):
        setting = Setting(kernel)
        setting.map(2 * HUGE, hva=edge - HUGE)
        setting.put(edge - PAGE, 1)
        setting.put(edge, 1)
        setting.run(mprotect(setting.mm, edge - HUGE, 2 * HUGE, write=False))
        assert len(setting.calls) == 2 * parts


@pytest.mark.parametrize(("kernel", "writable"), [(HOST_6_1, False), (HOST_6_7, True)])
def test_huge_page_gets_its_permission_back_at_once_or_at_the_next_write(kernel: HostKernel, writable: bool) -> None:
    setting = Setting(kernel)
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    setting.run(mprotect(setting.mm, A, HUGE, write=False))
    setting.run(mprotect(setting.mm, A, HUGE, write=True))
    assert bool(setting.mm.table.value(2, A) & 2) is writable
    setting.put(A, 2)
    assert setting.calls == []
    assert setting.level(A) == 2


def test_page_shared_with_a_child_stays_read_only() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    child = setting.run(fork(setting.mm))
    setting.run(mprotect(setting.mm, A, PAGE, write=False))
    setting.run(mprotect(setting.mm, A, PAGE, write=True))
    assert not setting.mm.table.value(1, A) & 2
    setting.put(A, 2)
    assert setting.get(A, child) == 1
    setting.run(exit_process(child))
    balance(setting.host)


def test_part_of_a_huge_page_is_split_off_first() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    setting.run(mprotect(setting.mm, A + 2 * PAGE, PAGE, write=False))
    assert setting.calls == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR),
                             ("start", 2 * PAGE, 3 * PAGE, VMA), ("end", 2 * PAGE, 3 * PAGE, VMA)]  # fmt: skip
    assert [bool(setting.mm.table.value(1, A + page * PAGE) & 2) for page in range(4)] == [True, True, False, True]


def test_shared_file_page_is_writable_again_at_once() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.put(A, 1)
    setting.run(mprotect(setting.mm, A, PAGE, write=False))
    setting.run(mprotect(setting.mm, A, PAGE, write=True))
    assert setting.mm.table.value(1, A) & 2


def test_mprotect_wrong() -> None:
    setting = Setting(huge=1)
    setting.map(PAGE)
    with pytest.raises(BadRange, match="nothing is mapped"):
        setting.run(mprotect(setting.mm, A, 2 * PAGE, write=False))
    with pytest.raises(BadRange, match="must be readable"):
        setting.run(mprotect(setting.mm, A, PAGE, read=False, write=True))
    setting.map(HUGE, "hugetlb2m", A + HUGE)
    with pytest.raises(BadRange, match="whole pages of 0x200000"):
        setting.run(mprotect(setting.mm, A + HUGE, PAGE, write=False))
    assert setting.calls == []
