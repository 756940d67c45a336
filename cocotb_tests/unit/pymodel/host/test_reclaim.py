"""Reclaim: ageing first, then out to swap and back."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.files import MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, unpin
from pymodel.host.kernel import HOST_6_1, HOST_6_7, HOST_6_12, HostKernel
from pymodel.host.madvise import dont_need
from pymodel.host.notifier import MmuEvent
from pymodel.host.reclaim import reclaim
from pymodel.host.split import split_entry

CLEAR = MmuEvent.CLEAR


def test_page_that_was_touched_gets_a_second_chance() -> None:
    """Recorded (age): clear_flush_young of each mapping; the second time a start and an end follow."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    folio = setting.folio(A)
    young = ("young", 0, PAGE, -1)
    assert setting.run(reclaim(setting.host, [folio])) == 0
    assert setting.calls == [young]
    assert not setting.mm.table.value(1, A) & entries.ACCESSED
    assert setting.run(reclaim(setting.host, [folio])) == 1
    assert setting.calls == [young, ("start", 0, PAGE, CLEAR), ("end", 0, PAGE, CLEAR)]
    assert setting.reused == [folio.frame]
    assert setting.get(A) == 5
    balance(setting.host)


def test_huge_page_goes_in_512_slots() -> None:
    """Recorded (pageout): young of 2M, a pair for the split entry, a pair for the page."""
    setting = Setting(HOST_6_1)
    setting.map(HUGE, "thp")
    for page in (0, 5, 511):
        setting.put(A + page * PAGE, page + 1)
    folio = setting.folio(A)
    setting.run(reclaim(setting.host, [folio]))
    assert setting.run(reclaim(setting.host, [folio])) == 512
    pair = [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)]
    assert setting.calls == [("young", 0, HUGE, -1), *pair, *pair]
    assert len(setting.reused) == 512
    assert [setting.get(A + page * PAGE) for page in (0, 1, 5, 511)] == [1, 0, 6, 512]
    balance(setting.host)


def test_partly_mapped_huge_page_is_split_first() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 2 * PAGE, 5)
    folio = setting.folio(A)
    setting.run(dont_need(setting.mm, A + PAGE, PAGE))
    assert setting.run(reclaim(setting.host, [folio], ages=False)) == 511
    assert setting.get(A + 2 * PAGE) == 5
    assert not setting.host.deferred
    balance(setting.host)


def test_file_page_leaves_its_slot_in_the_file() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.put(A, 5)
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 1
    assert setting.mm.table.value(1, A) == 0
    assert setting.host.swap.used == 1
    balance(setting.host, [file])
    assert setting.get(A) == 5
    assert setting.host.swap.used == 0
    balance(setting.host, [file])


def test_shared_page_goes_for_both() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    child = setting.run(fork(setting.mm))
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 1
    assert entries.is_swap(child.table.value(1, A))
    assert not entries.swap_exclusive(child.table.value(1, A))
    setting.put(A, 6)
    assert setting.get(A, child) == 5
    balance(setting.host)


def test_page_in_the_swap_cache_goes_to_the_same_slot_again() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    child = setting.run(fork(setting.mm))
    setting.run(reclaim(setting.host, [setting.folio(A)], ages=False))
    assert setting.get(A) == 5
    slot = setting.folio(A).slots[0]
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 1
    assert setting.host.swap.slots() == (slot,)
    assert (setting.get(A, child), setting.get(A)) == (5, 5)
    balance(setting.host)


def test_what_stays() -> None:
    """Pinned, hugetlb, in use; and everything once swap is full, with nothing changed."""
    setting = Setting(swap=0, huge=1)
    setting.map(3 * PAGE)
    setting.map(HUGE, "hugetlb2m", A + HUGE)
    for hva in (A, A + PAGE, A + 2 * PAGE, A + HUGE):
        setting.put(hva, 5)
    setting.run(pin_user_page(setting.mm, A, write=True))
    folios = [setting.folio(hva) for hva in (A, A + PAGE, A + 2 * PAGE, A + HUGE)]
    folios[1].refs += 1
    assert setting.run(reclaim(setting.host, folios, ages=False)) == 0
    folios[1].refs -= 1
    assert setting.calls == []
    balance(setting.host)


@pytest.mark.parametrize("order", [0, 9])
def test_page_that_is_used_once_it_is_unmapped_is_not_lost(order: int) -> None:
    """Somebody took a reference in the last moment: the page stays in the swap cache, or its content in the slots."""
    setting = Setting()
    setting.map(HUGE, "thp" if order else "anon4k")
    setting.put(A + 8, 5)
    folio = setting.folio(A)
    for effect in (agent := reclaim(setting.host, [folio], ages=False)):
        if setting.spy.calls and setting.spy.calls[-1][0] == "end" and not folio.mappings:
            folio.refs += 1
            break
        assert effect is not None
    assert setting.run(agent) == 0
    setting.run(setting.host.put(folio))
    assert setting.get(A + 8) == 5
    setting.put(A + 8, 6)
    assert setting.get(A + 8) == 6
    balance(setting.host)


def test_page_in_use_is_unmapped_and_found_again() -> None:
    """Only __remove_mapping sees the reference; until then the guest has lost the page, which stays as it is."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    folio = setting.folio(A)
    folio.refs += 1
    assert setting.run(reclaim(setting.host, [folio], ages=False)) == 0
    assert setting.calls == [("start", 0, PAGE, CLEAR), ("end", 0, PAGE, CLEAR)]
    assert setting.get(A) == 5
    assert setting.folio(A) is folio
    setting.run(setting.host.put(folio))
    balance(setting.host)


def test_pinned_page_is_left_alone() -> None:
    """shrink_folio_list looks at pins (folio_maybe_dma_pinned) before it unmaps anything."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(reclaim(setting.host, [folio], ages=False)) == 0
    assert setting.calls == []
    setting.run(unpin(setting.mm, folio))
    balance(setting.host)


def test_huge_page_s_entry_is_split_between_the_calls_for_the_page_from_6_11_on() -> None:
    setting = Setting(HOST_6_12)
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 512
    assert setting.calls == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)]
    assert setting.get(A) == 5
    balance(setting.host)


@pytest.mark.parametrize(("kernel", "pairs"), [(HOST_6_1, 2 + 512), (HOST_6_12, 1)])
def test_huge_page_in_512_entries_is_split_before_6_10(kernel: HostKernel, pairs: int) -> None:
    """Newer kernels take it whole: one pair for all of it."""
    setting = Setting(kernel)
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(split_entry(setting.mm, A))
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 512
    assert setting.calls[:2] == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)]
    assert len(setting.calls) == 2 * pairs
    assert setting.get(A) == 5
    balance(setting.host)


@pytest.mark.parametrize(("kernel", "calls"), [(HOST_6_7, 4), (HOST_6_12, 2)])
def test_huge_page_that_one_process_maps_in_parts_stays_whole(kernel: HostKernel, calls: int) -> None:
    """Another process has a 2M entry (folio_entire_mapcount); before 6.11 the pair of its split is called for both."""
    setting = Setting(kernel)
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    child = setting.run(fork(setting.mm))
    setting.run(split_entry(setting.mm, A))
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 512
    assert setting.calls == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)] * (calls // 2)
    assert (setting.get(A), setting.get(A, child)) == (5, 5)
    balance(setting.host)


def test_parts_of_a_split_page_are_aged_one_by_one_but_for_the_first() -> None:
    """split_folio_to_list: they come back as pages of their own, with folio_check_references."""
    setting = Setting(HOST_6_1)
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(split_entry(setting.mm, A))
    setting.run(reclaim(setting.host, [setting.folio(A)]))
    assert setting.run(reclaim(setting.host, [setting.folio(A)])) == 512
    young = [call[1] for call in setting.calls if call[0] == "young"]
    assert young == [page * PAGE for page in range(512)] + [page * PAGE for page in range(1, 512)]
    balance(setting.host)


def test_huge_page_without_room_in_swap_goes_in_parts() -> None:
    """add_to_swap fails for all of it, and is tried for each part."""
    setting = Setting(swap=3)
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 3
    assert setting.host.swap.used == 3
    assert setting.get(A) == 5
    balance(setting.host)


def test_pinned_file_page_is_unmapped_though_it_stays() -> None:
    """Pins of file pages are looked at only when nothing maps the page any more."""
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.put(A, 5)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(reclaim(setting.host, [folio], ages=False)) == 0
    assert setting.calls == [("start", 0, PAGE, CLEAR), ("end", 0, PAGE, CLEAR)]
    assert setting.mm.table.value(1, A) == 0
    assert setting.get(A) == 5
    assert setting.folio(A) is folio
    setting.run(unpin(setting.mm, folio))
    balance(setting.host, [file])
