"""Hugetlb faults: reservation, SIGBUS, copies, and the owner's right."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.fault import Refusal
from pymodel.host.fork import fork
from pymodel.host.gup import Signal, get_user_page
from pymodel.host.kernel import HOST_6_1
from pymodel.host.madvise import dont_need
from pymodel.host.mapping import exit_process
from pymodel.host.notifier import MmuEvent

CLEAR = MmuEvent.CLEAR


def test_private_page_that_is_only_read_is_mapped_read_only() -> None:
    """Recorded (fault_hugetlb_2m): 0a5 after a read, then 8e7 in place."""
    setting = Setting(HOST_6_1, huge=2)
    setting.map(HUGE, "hugetlb2m")
    assert setting.get(A + PAGE) == 0
    assert setting.mm.table.value(2, A) & 0xFFF == 0x0A5
    frame = setting.folio(A).frame
    setting.put(A + PAGE, 3)
    assert setting.mm.table.value(2, A) & 0xFFF == 0x8E7
    assert (setting.calls, setting.folio(A).frame) == ([], frame)
    balance(setting.host)


def test_empty_pool_is_a_sigbus() -> None:
    setting = Setting(huge=1)
    setting.map(HUGE, "hugetlb2m")
    setting.put(A, 1)
    child = setting.run(fork(setting.mm))
    setting.run(dont_need(setting.mm, A, HUGE))
    with pytest.raises(Signal, match="no hugetlb page is left") as caught:
        setting.put(A, 2)
    assert caught.value.refusal is Refusal.SIGBUS
    assert setting.run(get_user_page(setting.mm, A, write=False)).refusal is Refusal.SIGBUS
    assert setting.get(A, child) == 1
    balance(setting.host)


def test_child_copies_where_the_pool_has_a_page() -> None:
    setting = Setting(huge=2)
    setting.map(HUGE, "hugetlb2m")
    setting.put(A + PAGE, 1)
    child = setting.run(fork(setting.mm))
    setting.put(A + PAGE, 2, child)
    assert (setting.get(A + PAGE), setting.get(A + PAGE, child)) == (1, 2)
    balance(setting.host)


def test_parent_copy_is_announced_over_the_huge_page() -> None:
    setting = Setting(huge=2)
    setting.map(HUGE, "hugetlb2m")
    setting.put(A + PAGE, 1)
    child = setting.run(fork(setting.mm))
    setting.put(A + PAGE, 2)
    assert setting.calls == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)]
    assert setting.get(A + PAGE, child) == 1
    balance(setting.host)


def test_owner_takes_the_page_from_its_child() -> None:
    """unmap_ref_private: with an empty pool the child loses, and dies of SIGBUS."""
    setting = Setting(huge=1)
    setting.map(HUGE, "hugetlb2m")
    setting.put(A, 1)
    child = setting.run(fork(setting.mm))
    setting.put(A, 2)
    assert setting.get(A) == 2
    with pytest.raises(Signal, match="no hugetlb page is left"):
        setting.get(A, child)
    setting.run(exit_process(child))
    balance(setting.host)
