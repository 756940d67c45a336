"""Access monitoring: the process's own entries first, then the secondary MMUs."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting
from pymodel.host.aging import make_old, was_accessed
from pymodel.host.madvise import cold
from pymodel.host.mprotect import mprotect
from pymodel.host.reclaim import referenced


def test_own_accesses_are_seen_without_asking() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 1)
    assert setting.run(was_accessed(setting.mm, A))
    assert setting.calls == []
    setting.run(make_old(setting.mm, A))
    assert setting.calls == [("clear_young", 0, PAGE, -1)]
    assert not setting.run(was_accessed(setting.mm, A))
    assert setting.calls == [("test_young", 0, PAGE, -1)]


def test_huge_page_is_asked_for_as_one_and_nothing_for_nothing() -> None:
    setting = Setting()
    setting.map(2 * HUGE, "thp")
    setting.put(A, 1)
    setting.run(make_old(setting.mm, A))
    assert setting.calls == [("clear_young", 0, HUGE, -1)]
    setting.run(make_old(setting.mm, A + HUGE))
    assert setting.calls == []
    assert not setting.run(was_accessed(setting.mm, A + HUGE))


@pytest.mark.parametrize(("kind", "size"), [("anon4k", PAGE), ("thp", HUGE), ("hugetlb2m", HUGE)])
def test_range_begins_at_the_address_and_not_at_its_page(kind: str, size: int) -> None:
    """DAMON samples any byte, and hands it on as it is: the range reaches into the next page."""
    setting = Setting(huge=1)
    setting.map(HUGE, kind)
    setting.put(A, 1)
    setting.run(make_old(setting.mm, A + 0x123))
    assert setting.calls == [("clear_young", 0x123, 0x123 + size, -1)]
    assert not setting.run(was_accessed(setting.mm, A + 0x456))
    assert [call[:2] for call in setting.calls] == [("test_young", 0x456)]


def test_page_that_nobody_made_old_counts_as_touched() -> None:
    """folio_test_idle: no secondary MMU is asked, though A is clear."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.run(cold(setting.mm, A, PAGE))
    assert setting.run(was_accessed(setting.mm, A))
    assert setting.calls == []


def test_reclaim_still_learns_of_what_monitoring_made_old() -> None:
    """PG_young; and a page that reclaim found in use is not idle any more."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.run(make_old(setting.mm, A))
    assert setting.run(referenced(setting.folio(A)))
    assert setting.run(was_accessed(setting.mm, A))
    assert not setting.run(referenced(setting.folio(A)))


def test_cold_forgets_what_monitoring_kept() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.run(make_old(setting.mm, A))
    setting.run(cold(setting.mm, A, PAGE))
    assert not setting.run(referenced(setting.folio(A)))


def test_page_that_the_process_may_not_touch_is_aged_as_well() -> None:
    """pte_present holds for PROT_NONE, and A stays in the entry."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    setting.run(mprotect(setting.mm, A, PAGE, read=False, write=False))
    assert setting.run(referenced(setting.folio(A)))
    assert not setting.run(referenced(setting.folio(A)))
    setting.run(make_old(setting.mm, A))
    assert setting.calls == [("clear_young", 0, PAGE, -1)]
