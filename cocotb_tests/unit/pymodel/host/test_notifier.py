"""The protocol between host and secondary MMUs."""

import pytest

from cocotb_tests.unit.pymodel.host.spy import Guard, Spy
from cocotb_tests.unit.pymodel.host.support import PAGE, A, Setting
from pymodel.host import entries
from pymodel.host.effects import HostPteChanged
from pymodel.host.notifier import MmuEvent, MmuNotifier
from pymodel.machine import KvmNotifier

METHODS = {name for name in vars(MmuNotifier) if not name.startswith("_")}


@pytest.mark.parametrize("implementation", [Spy, KvmNotifier])
def test_every_method_is_there(implementation: type) -> None:
    assert len(METHODS) == 7
    assert METHODS.issubset(dir(implementation))


def test_events_have_the_values_of_the_kernel() -> None:
    """include/linux/mmu_notifier.h, literal."""
    assert [(event.name, int(event)) for event in MmuEvent] == [
        ("UNMAP", 0), ("CLEAR", 1), ("PROTECTION_VMA", 2), ("PROTECTION_PAGE", 3)]  # fmt: skip


def leaf(frame: int, *, writable: bool = True, dirty: bool = True) -> int:
    return entries.leaf(frame, 1, writable=writable, dirty=dirty)


@pytest.mark.parametrize(
    ("new", "taken"),
    [(0, True), (leaf(6), True), (leaf(5, writable=False), True), (leaf(5, dirty=False), True), (leaf(5), False)],
)
def test_guard_wants_a_start_before_anything_is_taken(new: int, taken: bool) -> None:
    """Of the checker itself: nothing, another page, no W, no D; the same entry is fine."""
    setting = Setting()
    guard = Guard(setting.mm)
    change = HostPteChanged(setting.mm.ident, A, 1, leaf(5), new)
    if taken:
        with pytest.raises(AssertionError, match="outside every invalidation"):
            guard.see(change)
    else:
        guard.see(change)
    guard.see(HostPteChanged(setting.mm.ident + 1, A, 1, leaf(5), 0))
    list(setting.mm.invalidate_start(A, A + PAGE, MmuEvent.CLEAR))
    guard.see(change)
    list(setting.mm.invalidate_end(A, A + PAGE, MmuEvent.CLEAR))
    if taken:
        with pytest.raises(AssertionError, match="outside every invalidation"):
            guard.see(change)
