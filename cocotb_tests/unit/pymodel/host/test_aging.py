"""Access monitoring: the process's own entries first, then the secondary MMUs."""

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting
from pymodel.host.aging import make_old, was_accessed


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
    setting.run(make_old(setting.mm, A + 5 * PAGE))
    assert setting.calls == [("clear_young", 0, HUGE, -1)]
    setting.run(make_old(setting.mm, A + HUGE))
    assert setting.calls == []
    assert not setting.run(was_accessed(setting.mm, A + HUGE))
