"""MADV_COLLAPSE: 512 entries become one, with what was in them."""

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.collapse import Collapsed, collapse
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, populate, unpin
from pymodel.host.madvise import dont_need, huge_page, no_huge_page, page_out
from pymodel.host.notifier import MmuEvent


def small(setting: Setting) -> None:
    """2 MiB with three pages of its own, one that was only read, and one swapped out."""
    setting.map(HUGE)
    for page in (0, 7, 511):
        setting.put(A + page * PAGE, page + 1)
    setting.get(A + 3 * PAGE)
    assert setting.run(page_out(setting.mm, A + 7 * PAGE, PAGE)) == 1


def test_small_pages_become_one_huge_page() -> None:
    """Recorded (random_thp): one start and end over the huge page."""
    setting = Setting()
    small(setting)
    setting.run(huge_page(setting.mm, A, HUGE))
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.DONE]
    assert setting.calls == [("start", 0, HUGE, MmuEvent.CLEAR), ("end", 0, HUGE, MmuEvent.CLEAR)]
    assert (setting.level(A), len(setting.reused), setting.host.swap.used) == (2, 3, 0)
    assert [setting.get(A + page * PAGE) for page in (0, 3, 7, 510, 511)] == [1, 0, 8, 0, 512]
    assert A >> 21 not in setting.mm.pte_tables
    balance(setting.host)


def test_page_shared_with_a_child_is_copied() -> None:
    setting = Setting()
    small(setting)
    child = setting.run(fork(setting.mm))
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.READ_ONLY]
    assert setting.calls == []
    setting.put(A + 511 * PAGE, 512)
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.DONE]
    setting.put(A, 9)
    assert setting.calls == []
    assert (setting.get(A, child), setting.get(A + 7 * PAGE, child)) == (1, 8)
    balance(setting.host)


def test_parts_of_an_old_huge_page_are_given_back() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    old = setting.folio(A)
    setting.run(dont_need(setting.mm, A + PAGE, PAGE))
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.DONE]
    assert setting.reused == list(range(old.frame, old.frame + 512))
    assert setting.get(A) == 5
    assert not setting.host.deferred
    balance(setting.host)


def test_range_is_cut_to_whole_huge_pages() -> None:
    setting = Setting()
    setting.map(4 * HUGE, "thp")
    setting.put(A + HUGE, 1)
    results = setting.run(collapse(setting.mm, A + PAGE, 4 * HUGE - 2 * PAGE))
    assert results == [Collapsed.ALREADY, Collapsed.EMPTY]


def test_what_does_not_collapse_stays_as_it_is() -> None:
    setting = Setting(frames=512)
    setting.map(HUGE)
    setting.put(A, 1)
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.NO_MEMORY]
    setting = Setting()
    small(setting)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.BUSY]
    assert setting.calls == []
    setting.run(unpin(setting.mm, folio))
    setting.run(no_huge_page(setting.mm, A, HUGE))
    assert setting.run(collapse(setting.mm, A, HUGE)) == [Collapsed.UNSUITABLE]
    assert setting.run(collapse(setting.mm, A + HUGE, HUGE)) == [Collapsed.UNSUITABLE]
    assert [setting.get(A + page * PAGE) for page in (0, 7, 511)] == [1, 8, 512]
    balance(setting.host)


def test_page_that_cannot_be_swapped_in_stops_it() -> None:
    setting = Setting(frames=1536)
    small(setting)
    setting.map(1 << 25, hva=A + 16 * HUGE)
    setting.run(populate(setting.mm, A + 16 * HUGE, (setting.host.frames.free_count - 512) * PAGE, write=True))
    results = setting.run(collapse(setting.mm, A, HUGE))
    assert results[0] in (Collapsed.BUSY, Collapsed.NO_MEMORY)
    assert setting.level(A) == 1
    assert setting.get(A + 511 * PAGE) == 512
    balance(setting.host)
