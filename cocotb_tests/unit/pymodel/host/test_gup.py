"""get_user_pages, pins, populate."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.errors import BadRange
from pymodel.host.files import MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import Signal, UserPage, get_user_page, load, pin_user_page, populate, unpin
from pymodel.host.ksm import scan
from pymodel.host.madvise import mergeable, page_out
from pymodel.host.mapping import munmap
from pymodel.host.migrate import Moved, move_page
from pymodel.host.mprotect import mprotect


def test_read_of_a_writable_page_says_that_it_may_be_written() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 1)
    assert setting.run(get_user_page(setting.mm, A + 8, write=False)) == UserPage(setting.folio(A).frame, True)
    zero = setting.run(get_user_page(setting.mm, A + PAGE, write=False))
    assert zero == UserPage(setting.host.zero.frame, False)


def test_access_of_a_page_inside_a_huge_one_gives_its_own_frame() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    page = setting.run(get_user_page(setting.mm, A + 5 * PAGE, write=True))
    assert page.frame == setting.folio(A).frame + 5


def test_pinned_page_stays_where_it_is() -> None:
    """DMA goes to the frame whatever the host does: no migration, reclaim, merging, sharing by fork."""
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 1)
    setting.put(A + PAGE, 1)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(move_page(setting.mm, A)) is Moved.BUSY
    assert setting.run(page_out(setting.mm, A, PAGE)) == 0
    setting.run(mergeable(setting.mm, A, 2 * PAGE))
    assert setting.run(scan(setting.host, [(setting.mm, A), (setting.mm, A + PAGE)])) == 0
    child = setting.run(fork(setting.mm))
    assert setting.folio(A) is folio is not setting.folio(A, child)
    setting.put(A, 2)
    assert setting.calls == []
    assert setting.folio(A) is folio
    assert setting.get(A, child) == 1
    balance(setting.host)


def test_pin_outlives_the_mapping() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    setting.run(munmap(setting.mm, A, PAGE))
    assert setting.reused == []
    balance(setting.host)
    setting.run(unpin(setting.mm, folio))
    assert setting.reused == [folio.frame]
    with pytest.raises(BadRange, match="is not pinned"):
        setting.run(unpin(setting.mm, folio))


@pytest.mark.parametrize("shared", [False, True])
def test_pin_for_reading_unshares(shared: bool) -> None:
    """FAULT_FLAG_UNSHARE: the zero page, and a page shared with a child, become the process's own, read-only."""
    setting = Setting()
    setting.map(PAGE)
    if shared:
        setting.put(A, 4)
        child = setting.run(fork(setting.mm))
    folio = setting.run(pin_user_page(setting.mm, A, write=False))
    assert len(folio.mappings) == 1
    assert not setting.run(get_user_page(setting.mm, A, write=False)).writable
    setting.put(A, 5)
    assert setting.folio(A) is folio
    if shared:
        assert setting.get(A, child) == 4
    balance(setting.host)


def test_pin_of_read_only_memory_for_writing_wrong() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.run(mprotect(setting.mm, A, PAGE, write=False))
    with pytest.raises(Signal, match="not with this access"):
        setting.run(pin_user_page(setting.mm, A, write=True))


def test_populate_maps_every_page_with_the_largest_that_fits() -> None:
    setting = Setting()
    setting.map(HUGE + 2 * PAGE, "thp")
    setting.run(populate(setting.mm, A, HUGE + 2 * PAGE, write=True))
    assert [setting.level(A), setting.level(A + HUGE), setting.level(A + HUGE + PAGE)] == [2, 1, 1]
    assert setting.calls == []
    with pytest.raises(BadRange, match="nothing is mapped"):
        setting.run(populate(setting.mm, A, 2 * HUGE, write=False))
    setting.run(mprotect(setting.mm, A, PAGE, write=False))
    with pytest.raises(Signal, match=f"store to hva {A:#x}"):
        setting.run(populate(setting.mm, A, PAGE, write=True))


def test_accesses_of_the_process_set_accessed_and_dirty() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.mm.table.set(1, A, setting.mm.table.value(1, A) & ~0x60)
    setting.run(load(setting.mm, A))
    assert setting.mm.table.value(1, A) & 0x60 == 0x20
    setting.put(A, 2)
    assert setting.mm.table.value(1, A) & 0x60 == 0x60


def test_pin_of_a_private_file_page_takes_a_copy_first() -> None:
    """Otherwise the first write of the process would part it from its device (gup_must_unshare)."""
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file, shared=False)
    setting.get(A)
    folio = setting.run(pin_user_page(setting.mm, A, write=False))
    assert folio is not file.pages[0]
    setting.put(A, 5)
    assert setting.folio(A) is folio
    setting.run(unpin(setting.mm, folio))
    balance(setting.host, [file])


def test_part_of_a_page_to_populate_wrong() -> None:
    setting = Setting()
    setting.map(PAGE)
    with pytest.raises(BadRange, match="whole pages of 0x1000"):
        setting.run(populate(setting.mm, A + 8, PAGE, write=True))
