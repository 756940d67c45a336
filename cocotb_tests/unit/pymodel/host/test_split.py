"""Splitting entries and pages."""

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.effects import HostPteChanged
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, unpin
from pymodel.host.kernel import HOST_6_1
from pymodel.host.madvise import dont_need
from pymodel.host.mapping import mremap
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent
from pymodel.host.split import shrink_deferred, split_entry, split_folio

PAIR = [("start", 0, HUGE, MmuEvent.CLEAR), ("end", 0, HUGE, MmuEvent.CLEAR)]


def touched(setting: Setting) -> None:
    setting.map(HUGE, "thp")
    for page in (0, 5, 511):
        setting.put(A + page * PAGE, page + 1)


def test_split_entry_maps_the_same_page_in_parts() -> None:
    for kernel, low in ((HOST_6_1, 0x827), (None, 0x867)):
        setting = Setting() if kernel is None else Setting(kernel)
        touched(setting)
        folio = setting.folio(A)
        setting.run(split_entry(setting.mm, A + 5 * PAGE))
        assert setting.calls == PAIR
        assert (setting.folio(A), folio.refs, len(folio.mappings)) == (folio, 512, 512)
        value = setting.mm.table.value(1, A + 5 * PAGE)
        assert (value & 0xFFF, value >> 12 & 0xFFFFFFFF) == (low, folio.frame + 5)
        assert [setting.get(A + page * PAGE) for page in (0, 5, 511)] == [1, 6, 512]
        balance(setting.host)


def test_split_of_nothing_is_still_announced() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.run(split_entry(setting.mm, A))
    assert setting.calls == PAIR


def test_split_page_is_512_pages_with_their_own_references() -> None:
    """Recorded (pageout): a pair for the entry, a pair while the page is taken apart."""
    setting = Setting()
    touched(setting)
    folio = setting.folio(A)
    assert setting.run(split_folio(setting.host, folio))
    assert setting.calls == PAIR * 2
    assert (setting.folio(A + PAGE).order, setting.folio(A + PAGE).refs) == (0, 1)
    assert setting.reused == []
    setting.put(A + 5 * PAGE, 9)
    assert setting.calls == []
    assert [setting.get(A + page * PAGE) for page in (0, 5, 511)] == [1, 9, 512]
    balance(setting.host)


def test_unmapped_parts_are_free_once_the_page_is_split() -> None:
    setting = Setting()
    touched(setting)
    folio = setting.folio(A)
    setting.run(dont_need(setting.mm, A + PAGE, 3 * PAGE))
    assert setting.reused == []
    assert setting.run(shrink_deferred(setting.host)) == 1
    assert setting.reused == [folio.frame + 1, folio.frame + 2, folio.frame + 3]
    assert not setting.host.deferred
    balance(setting.host)


def test_shared_and_protected_page_keeps_its_permissions() -> None:
    setting = Setting()
    touched(setting)
    child = setting.run(fork(setting.mm))
    setting.run(mprotect(setting.mm, A, HUGE, read=False, write=False))
    assert setting.run(split_folio(setting.host, setting.folio(A)))
    assert setting.get(A + 5 * PAGE, child) == 6
    setting.run(mprotect(setting.mm, A, HUGE, write=True))
    setting.put(A + 5 * PAGE, 9)
    assert setting.get(A + 5 * PAGE, child) == 6
    balance(setting.host)


def test_page_in_use_is_not_split() -> None:
    setting = Setting()
    touched(setting)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert not setting.run(split_folio(setting.host, folio))
    assert (setting.calls, setting.level(A)) == ([], 2)
    setting.run(unpin(setting.mm, folio))
    for effect in (agent := split_folio(setting.host, folio)):
        assert effect is not None
        if len(setting.spy.calls) == 2:
            folio.refs += 1
            break
    assert not setting.run(agent)
    folio.refs -= 1
    assert setting.get(A + 5 * PAGE) == 6
    balance(setting.host)


def test_split_page_is_unreachable_from_the_first_call_to_the_last() -> None:
    """The entries are split into migration entries at once (freeze), so that no fault finds one in between."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    present: list[bool] = []
    for effect in split_folio(setting.host, setting.folio(A)):
        if isinstance(effect, HostPteChanged) and effect.level == 1:
            present.append(bool(effect.new & entries.PRESENT))
    assert present == [False] * 512 + [True] * 512
    assert setting.get(A) == 1


def test_split_page_in_512_entries_is_announced_as_if_it_had_one() -> None:
    """split_huge_pmd_address looks at the entry only between its calls; each mapping has its two pairs in a row."""
    setting = Setting()
    touched(setting)
    setting.run(mprotect(setting.mm, A + 5 * PAGE, PAGE, write=False))
    assert setting.run(split_folio(setting.host, setting.folio(A)))
    parts = [(0, 5 * PAGE), (5 * PAGE, 6 * PAGE), (6 * PAGE, HUGE)]
    wanted = [pair for part in parts for pair in ((0, HUGE), part)]
    assert [call[1:3] for call in setting.calls if call[0] == "start"] == wanted
    assert [setting.get(A + page * PAGE) for page in (0, 5, 511)] == [1, 6, 512]
    balance(setting.host)


def test_entry_of_another_huge_page_survives_the_split() -> None:
    """Moved by half of its size: where the page would begin, the 2 MiB around are another page's by now."""
    setting = Setting()
    setting.map(3 * HUGE, "thp")
    setting.put(A + 2 * HUGE - PAGE, 5)
    setting.run(split_entry(setting.mm, A + HUGE))
    setting.run(dont_need(setting.mm, A + HUGE, HUGE // 2))
    to = A + 8 * HUGE
    setting.run(mremap(setting.mm, A + HUGE // 2, 2 * HUGE, to))
    setting.put(to, 7)
    assert (setting.level(to), setting.level(to + HUGE)) == (2, 1)
    assert setting.run(split_folio(setting.host, setting.folio(to + HUGE)))
    edges = [8 * HUGE, 9 * HUGE], [8 * HUGE + HUGE // 2, 9 * HUGE + HUGE // 2]
    assert [[*call[1:3]] for call in setting.calls if call[0] == "start"] == [*edges]
    assert setting.level(to) == 2
    assert (setting.get(to), setting.get(to + HUGE + HUGE // 2 - PAGE)) == (7, 5)
    balance(setting.host)
