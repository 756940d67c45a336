"""fork: what the child sees, what is write-protected, what the notifiers hear."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.effects import CopyPage, MmapLock, MmapUnlock, run_host
from pymodel.host.errors import OutOfMemory
from pymodel.host.files import MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, populate, unpin
from pymodel.host.kernel import HOST_6_1, HOST_6_12
from pymodel.host.madvise import page_out
from pymodel.host.mapping import munmap
from pymodel.host.migrate import Moved, move_page
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process
from pymodel.host.split import split_entry


def test_only_private_memory_that_was_written_is_announced() -> None:
    """Recorded (fork_4k, random_dirty): PROTECTION_PAGE over the whole mapping, hugetlb CLEAR, shared files nothing."""
    setting = Setting(huge=2)
    setting.map(4 * PAGE)
    setting.map(4 * PAGE, hva=A + 8 * PAGE, write=False)  # never touched
    setting.map(HUGE, "hugetlb2m", A + HUGE)
    setting.map(PAGE, "memfd", A + 4 * HUGE, file=MemFile())
    setting.put(A + PAGE, 1)
    setting.put(A + HUGE, 2)
    setting.put(A + 4 * HUGE, 3)
    setting.run(fork(setting.mm))
    page, clear = MmuEvent.PROTECTION_PAGE, MmuEvent.CLEAR
    assert setting.calls == [("start", 0, 4 * PAGE, page), ("end", 0, 4 * PAGE, page),
                             ("start", HUGE, 2 * HUGE, clear), ("end", HUGE, 2 * HUGE, clear)]  # fmt: skip


def test_entries_lose_write_permission_on_both_sides() -> None:
    for kernel, low in ((HOST_6_1, 0x865), (HOST_6_12, 0x825)):
        setting = Setting(kernel)
        setting.map(PAGE)
        setting.put(A, 1)
        child = setting.run(fork(setting.mm))
        assert setting.mm.table.value(1, A) & 0xFFF == low
        assert child.table.value(1, A) & 0xFFF == low & ~0x20
        assert child.notifiers == []


def test_shared_file_is_seen_by_both_and_private_memory_is_not() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.map(PAGE, hva=A + HUGE)
    setting.put(A, 1)
    setting.put(A + HUGE, 1)
    child = setting.run(fork(setting.mm))
    setting.put(A, 2, child)
    setting.put(A + HUGE, 2, child)
    assert (setting.get(A), setting.get(A + HUGE)) == (2, 1)
    balance(setting.host, [file])


def test_swapped_page_comes_back_for_each() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    assert setting.run(page_out(setting.mm, A, PAGE)) == 1
    child = setting.run(fork(setting.mm))
    assert setting.get(A) == 1
    assert setting.host.swap.used == 1
    setting.put(A, 2)
    assert setting.get(A, child) == 1
    assert setting.host.swap.used == 0
    balance(setting.host)


def test_swapped_page_that_both_read_is_one_page() -> None:
    """The swap cache hands the second reader what the first one read."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.run(page_out(setting.mm, A, PAGE))
    child = setting.run(fork(setting.mm))
    assert (setting.get(A), setting.get(A, child)) == (1, 1)
    assert setting.folio(A) is setting.folio(A, child)
    setting.put(A, 2, child)
    assert (setting.get(A), setting.get(A, child)) == (1, 2)
    balance(setting.host)


def test_fork_without_memory_for_a_pinned_page_leaves_no_child_and_no_open_range() -> None:
    setting = Setting(frames=512)
    setting.map(4 * PAGE)
    setting.map(1 << 21, hva=A + 16 * HUGE)
    setting.put(A, 1)
    setting.put(A + PAGE, 2)
    folio = setting.run(pin_user_page(setting.mm, A + PAGE, write=True))
    setting.run(populate(setting.mm, A + 16 * HUGE, setting.host.frames.free_count * PAGE, write=True))
    effects: list[object] = []
    with pytest.raises(OutOfMemory):
        run_host(fork(setting.mm), setting.memory, effects.append)
    assert [name for name, *_ in setting.spy.calls] == ["start", "end"]
    locks = [effect for effect in effects if isinstance(effect, MmapLock | MmapUnlock)]
    assert len(locks) == 2 * sum(isinstance(effect, MmapLock) for effect in locks) == 4
    assert list(setting.host.processes.values()) == [setting.mm]
    setting.put(A, 3)
    setting.run(unpin(setting.mm, folio))
    balance(setting.host)


def test_copy_of_a_pinned_page_is_writable_only_where_the_mapping_is() -> None:
    for write in (True, False):
        setting = Setting()
        setting.map(PAGE)
        setting.put(A, 1)
        setting.run(mprotect(setting.mm, A, PAGE, write=write))
        folio = setting.run(pin_user_page(setting.mm, A, write=False))
        child = setting.run(fork(setting.mm))
        entry = child.table.lookup(A)
        assert entry is not None
        assert entry.writable is write
        setting.run(unpin(setting.mm, folio))
        balance(setting.host)


def test_part_of_a_pinned_huge_page_is_copied_for_the_child() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 5 * PAGE, 7)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    child = setting.run(fork(setting.mm))
    setting.put(A + 5 * PAGE, 8)
    assert setting.folio(A + 5 * PAGE) is folio
    assert setting.get(A + 5 * PAGE, child) == 7
    setting.run(unpin(setting.mm, folio))
    balance(setting.host)


@pytest.mark.parametrize(("kind", "length"), [("anon4k", PAGE), ("thp", HUGE)])
def test_fork_in_the_middle_of_a_migration_shares_the_page(kind: str, length: int) -> None:
    """The migration entries, not the page, know whose it is: neither side may write it in place afterwards."""
    setting = Setting()
    setting.map(length, kind)
    setting.put(A, 1)
    children: list[Process] = []

    def interfere(effect: object) -> None:
        if isinstance(effect, CopyPage) and not children:
            children.append(run_host(fork(setting.mm), setting.memory))

    assert run_host(move_page(setting.mm, A), setting.memory, interfere) is Moved.DONE
    setting.put(A, 2)
    assert (setting.get(A), setting.get(A, children[0])) == (2, 1)
    setting.put(A, 3, children[0])
    assert (setting.get(A), setting.get(A, children[0])) == (2, 3)
    balance(setting.host)


@pytest.mark.parametrize(("kind", "young"), [("anon4k", False), ("thp", False), ("hugetlb2m", True)])
def test_child_has_touched_nothing_but_for_hugetlb(kind: str, young: bool) -> None:
    """pte_mkold, pmd_mkold; copy_hugetlb_page_range copies the entry as it is."""
    setting = Setting(huge=1)
    setting.map(HUGE, kind)
    setting.put(A, 5)
    child = setting.run(fork(setting.mm))
    entry = child.table.lookup(A)
    assert entry is not None
    assert bool(entry.value & entries.ACCESSED) is young


def test_part_of_a_pinned_page_that_an_elder_child_has_is_shared_with_the_next() -> None:
    """page_try_dup_anon_rmap: only what is this process's own may be pinned, and needs a copy."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(split_entry(setting.mm, A))
    first = setting.run(fork(setting.mm))
    folio = setting.folio(A)
    setting.run(munmap(first, A, PAGE))
    folio.set_exclusive(folio.frame, True)
    setting.run(pin_user_page(setting.mm, A, write=False))
    child = setting.run(fork(setting.mm))
    assert setting.folio(A, child) is not folio
    assert setting.folio(A + PAGE, child) is folio
    setting.run(unpin(setting.mm, folio))
    balance(setting.host)
