"""Page faults: zero pages, demand, huge pages, swap, files, refusals."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.fault import Refusal
from pymodel.host.files import MemFile
from pymodel.host.gup import Signal, get_user_page, pin_user_page, unpin
from pymodel.host.kernel import HOST_6_1, HOST_6_12, HOST_6_13, HostKernel
from pymodel.host.madvise import page_out
from pymodel.host.notifier import MmuEvent


def test_read_of_untouched_memory_maps_the_zero_page() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    assert setting.get(A) == 0
    assert setting.mm.table.value(1, A) == entries.zero_leaf(setting.host.zero.frame, 1)
    assert setting.host.zero.refs == 1
    setting.put(A, 4)
    assert setting.calls == [("start", 0, PAGE, MmuEvent.CLEAR), ("end", 0, PAGE, MmuEvent.CLEAR)]
    assert (setting.get(A), setting.get(A + PAGE)) == (4, 0)
    balance(setting.host)


def test_write_to_untouched_memory_maps_a_cleared_page_without_notifiers() -> None:
    """The frame held somebody else's data."""
    setting = Setting()
    setting.map(PAGE)
    frame = setting.host.frames.allocate(0)
    setting.memory.store(frame.frame << 12 | 8, 0x5EC2E7)
    setting.run(setting.host.put(frame))
    setting.put(A, 1)
    assert setting.calls == []
    assert setting.folio(A).frame == frame.frame
    assert setting.get(A + 8) == 0


@pytest.mark.parametrize("kernel", [HOST_6_1, HOST_6_12, HOST_6_13])
def test_write_to_the_huge_zero_page(kernel: object) -> None:
    """Split and copied as 4K (facts K); replaced by a huge page since 6.13."""
    setting = Setting(kernel)  # type: ignore[arg-type]
    setting.map(HUGE, "thp")
    assert setting.get(A + 5 * PAGE) == 0
    assert setting.level(A) == 2
    setting.put(A + 5 * PAGE, 8)
    pairs = [(name, start, end) for name, start, end, event in setting.calls if event == MmuEvent.CLEAR]
    huge = [("start", 0, HUGE), ("end", 0, HUGE)]
    if kernel is HOST_6_13:
        assert (pairs, setting.level(A)) == (huge, 2)
    else:
        assert (pairs, setting.level(A)) == ([*huge, ("start", 5 * PAGE, 6 * PAGE), ("end", 5 * PAGE, 6 * PAGE)], 1)
    assert (setting.get(A), setting.get(A + 5 * PAGE)) == (0, 8)
    balance(setting.host)


@pytest.mark.parametrize(("kernel", "level"), [(HOST_6_12, 1), (HOST_6_13, 2)])
def test_huge_zero_page_that_is_pinned_for_reading_is_replaced_as_for_a_write(kernel: HostKernel, level: int) -> None:
    """do_huge_pmd_wp_page does not ask whether it is a write; the new page is as writable as its mapping."""
    setting = Setting(kernel)
    setting.map(HUGE, "thp", write=False)
    assert setting.get(A) == 0
    folio = setting.run(pin_user_page(setting.mm, A, write=False))
    entry = setting.mm.table.lookup(A)
    assert entry is not None
    assert (entry.level, entry.writable) == (level, False)
    setting.run(unpin(setting.mm, folio))
    balance(setting.host)


def test_huge_page_needs_room_and_memory() -> None:
    setting = Setting(frames=512)
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    assert setting.level(A) == 1  # the only 2 MiB of memory holds the zero page
    setting = Setting()
    setting.map(HUGE + PAGE, "thp", A + PAGE)
    setting.put(A + PAGE, 1)
    assert setting.level(A + PAGE) == 1


def test_refused_access_says_why() -> None:
    setting = Setting(frames=512)
    setting.map(PAGE, write=False)
    assert setting.run(get_user_page(setting.mm, A, write=True)).refusal is Refusal.SEGV
    assert setting.run(get_user_page(setting.mm, A + PAGE, write=False)).refusal is Refusal.SEGV
    while setting.host.frames.free_count:
        setting.host.frames.allocate(0)
    setting.map(PAGE)
    assert setting.run(get_user_page(setting.mm, A, write=True)).refusal is Refusal.OOM
    with pytest.raises(Signal, match=f"store to hva {A:#x}: no memory"):
        setting.put(A, 1)


def test_shared_file_page_is_one_page_and_writable_at_once() -> None:
    """Recorded (fault_memfd): 027 after a read, 867 after a write."""
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.map(2 * PAGE, "memfd", A + HUGE, file=file)
    assert setting.get(A) == 0
    assert setting.mm.table.value(1, A) & 0xFFF == 0x027
    setting.put(A + HUGE, 6)
    assert setting.calls == []
    assert setting.get(A) == 6
    assert setting.folio(A) is setting.folio(A + HUGE)
    balance(setting.host, [file])


def test_private_file_page_is_copied_on_write() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.map(2 * PAGE, "memfd", A + HUGE, file=file, shared=False)
    setting.put(A, 6)
    assert setting.get(A + HUGE) == 6
    setting.put(A + HUGE, 7)
    assert setting.calls == [("start", HUGE, HUGE + PAGE, MmuEvent.CLEAR), ("end", HUGE, HUGE + PAGE, MmuEvent.CLEAR)]
    setting.put(A + HUGE + PAGE, 8)
    assert setting.calls == []
    assert (setting.get(A), setting.get(A + HUGE)) == (6, 7)
    balance(setting.host, [file])


@pytest.mark.parametrize(("kernel", "writable"), [(HOST_6_1, False), (HOST_6_12, True)])
def test_read_of_a_swapped_page(kernel: object, writable: bool) -> None:
    """Recorded for 6.1 (pageout): read-only, and then writable without a notifier."""
    setting = Setting(kernel)  # type: ignore[arg-type]
    setting.map(PAGE)
    setting.put(A, 6)
    assert setting.run(page_out(setting.mm, A, PAGE)) == 1
    assert entries.is_swap(setting.mm.table.value(1, A))
    assert setting.get(A) == 6
    assert bool(setting.mm.table.value(1, A) & entries.WRITABLE) is writable
    assert setting.host.swap.used == 0
    setting.put(A, 7)
    assert setting.calls == []
    assert setting.get(A) == 7
    balance(setting.host)
