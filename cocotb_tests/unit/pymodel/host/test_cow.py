"""Copy-on-write: when a page is reused, when copied, what the notifiers hear."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.fork import fork
from pymodel.host.kernel import HOST_6_1, HOST_6_12, HostKernel
from pymodel.host.mapping import exit_process
from pymodel.host.notifier import MmuEvent

CLEAR = MmuEvent.CLEAR


@pytest.mark.parametrize("kernel", [HOST_6_1, HOST_6_12])
def test_write_after_fork_copies_between_start_and_end(kernel: HostKernel) -> None:
    """change_pte comes in between where the kernel has it, with the new page."""
    setting = Setting(kernel)
    setting.map(PAGE)
    setting.put(A, 1)
    old = setting.folio(A)
    child = setting.run(fork(setting.mm))
    setting.put(A, 2)
    middle = [("change_pte", 0, PAGE, -1)] if kernel.has_change_pte else []
    assert setting.calls == [("start", 0, PAGE, CLEAR), *middle, ("end", 0, PAGE, CLEAR)]
    assert (setting.get(A), setting.get(A, child)) == (2, 1)
    assert setting.folio(A) is not old is setting.folio(A, child)
    balance(setting.host)


def test_last_user_reuses_the_page_in_place() -> None:
    """Recorded (fork_4k): once the child is gone, W comes back without a notifier."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    old = setting.folio(A)
    setting.run(exit_process(setting.run(fork(setting.mm))))
    setting.put(A, 2)
    assert setting.calls == []
    assert setting.folio(A) is old
    assert setting.mm.table.value(1, A) & 0xFFF == 0x867


def test_child_writes_first_and_the_parent_keeps_the_page() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    old = setting.folio(A)
    child = setting.run(fork(setting.mm))
    setting.put(A, 5, child)
    assert setting.calls == []  # the child has no VM
    setting.put(A, 6)
    assert setting.calls == []
    assert setting.folio(A) is old
    assert (setting.get(A), setting.get(A, child)) == (6, 5)


def test_huge_page_is_split_and_one_page_of_it_copied() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 3 * PAGE, 1)
    child = setting.run(fork(setting.mm))
    setting.put(A + 3 * PAGE, 2)
    assert setting.calls == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR),
                             ("start", 3 * PAGE, 4 * PAGE, CLEAR), ("end", 3 * PAGE, 4 * PAGE, CLEAR)]  # fmt: skip
    assert (setting.get(A + 3 * PAGE), setting.get(A + 3 * PAGE, child)) == (2, 1)
    balance(setting.host)


def test_part_of_a_huge_page_is_copied_even_when_nobody_else_has_it() -> None:
    """PageAnonExclusive was lost at the fork, and the reference count of the huge page says nothing about a part."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    child = setting.run(fork(setting.mm))
    setting.put(A, 2)
    setting.run(exit_process(child))
    old = setting.folio(A + PAGE)
    setting.put(A + PAGE, 3)
    assert setting.folio(A + PAGE) is not old
    balance(setting.host)
