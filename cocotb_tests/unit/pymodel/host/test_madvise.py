"""madvise: what is dropped, aged, swapped, and what the notifiers hear."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries, madvise
from pymodel.host.errors import BadRange
from pymodel.host.files import MemFile
from pymodel.host.fork import fork
from pymodel.host.kernel import HOST_6_1, HOST_6_7, HOST_6_12, HostKernel
from pymodel.host.mapping import munmap
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent
from pymodel.host.split import split_entry

CLEAR = MmuEvent.CLEAR


def test_dropped_memory_reads_as_zero() -> None:
    setting = Setting()
    setting.map(4 * PAGE)
    setting.put(A + PAGE, 5)
    setting.run(madvise.dont_need(setting.mm, A, 4 * PAGE))
    assert setting.calls == [("start", 0, 4 * PAGE, CLEAR), ("end", 0, 4 * PAGE, CLEAR)]
    assert len(setting.reused) == 1
    assert setting.get(A + PAGE) == 0
    balance(setting.host)


def test_dropping_across_huge_pages_splits_those_at_the_edges() -> None:
    """Recorded (dontneed_thp): the pairs of the splits lie inside the pair of the call."""
    setting = Setting()
    setting.map(2 * HUGE, "thp")
    setting.put(A, 1)
    setting.put(A + HUGE, 2)
    low, high = HUGE - 12 * PAGE, HUGE + 12 * PAGE
    setting.run(madvise.dont_need(setting.mm, A + low, high - low))
    assert setting.calls == [("start", low, high, CLEAR), ("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR),
                             ("start", HUGE, 2 * HUGE, CLEAR), ("end", HUGE, 2 * HUGE, CLEAR),
                             ("end", low, high, CLEAR)]  # fmt: skip
    assert (setting.get(A), setting.get(A + HUGE)) == (1, 0)
    balance(setting.host)


def test_each_mapping_has_a_pair_of_its_own() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    setting.map(2 * PAGE, write=False, hva=A + 2 * PAGE)
    setting.run(madvise.dont_need(setting.mm, A, 4 * PAGE))
    assert [(name, start) for name, start, *_ in setting.calls] == [
        ("start", 0), ("end", 0), ("start", 2 * PAGE), ("end", 2 * PAGE)]  # fmt: skip


@pytest.mark.parametrize(("kernel", "nested"), [(HOST_6_1, True), (HOST_6_12, False)])
def test_hugetlb_range_is_rounded_down_and_nested_before_6_2(kernel: HostKernel, nested: bool) -> None:
    setting = Setting(kernel, huge=2)
    setting.map(2 * HUGE, "hugetlb2m")
    setting.put(A, 1)
    setting.put(A + HUGE, 2)
    setting.run(madvise.dont_need(setting.mm, A, HUGE + PAGE))
    inner = [("start", 0, HUGE, MmuEvent.UNMAP), ("end", 0, HUGE, MmuEvent.UNMAP)] if nested else []
    assert setting.calls == [("start", 0, HUGE, CLEAR), *inner, ("end", 0, HUGE, CLEAR)]
    assert (setting.get(A), setting.get(A + HUGE)) == (0, 2)
    with pytest.raises(BadRange, match="inside a hugetlb2m page"):
        setting.run(madvise.dont_need(setting.mm, A + PAGE, HUGE - PAGE))


def test_file_page_comes_back_with_its_content() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.put(A, 5)
    setting.run(madvise.dont_need(setting.mm, A, PAGE))
    assert setting.reused == []
    assert setting.get(A) == 5


def test_cold_forgets_only_what_the_process_touched() -> None:
    """Recorded (pageout): no notifier."""
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 5)
    setting.run(madvise.cold(setting.mm, A, 2 * PAGE))
    assert setting.calls == []
    assert setting.mm.table.value(1, A) & 0xFFF == 0x847


def test_free_makes_clean_and_old_and_drops_what_is_swapped() -> None:
    """Recorded (pageout): 807."""
    setting = Setting(HOST_6_1)
    setting.map(2 * PAGE)
    setting.put(A, 5)
    setting.put(A + PAGE, 6)
    setting.run(madvise.page_out(setting.mm, A + PAGE, PAGE))
    setting.run(madvise.free(setting.mm, A, 2 * PAGE))
    assert setting.calls == [("start", 0, 2 * PAGE, CLEAR), ("end", 0, 2 * PAGE, CLEAR)]
    assert setting.mm.table.value(1, A) & 0xFFF == 0x807
    assert setting.host.swap.used == 0
    assert (setting.get(A), setting.get(A + PAGE)) == (5, 0)
    balance(setting.host)


@pytest.mark.parametrize(("kernel", "asks"), [(HOST_6_1, True), (HOST_6_12, False)])
def test_page_out_asks_for_accesses_before_6_9(kernel: HostKernel, asks: bool) -> None:
    setting = Setting(kernel)
    setting.map(2 * PAGE)
    setting.put(A, 5)
    assert setting.run(madvise.page_out(setting.mm, A, 2 * PAGE)) == 1
    pair = [("start", 0, PAGE, CLEAR), ("end", 0, PAGE, CLEAR)]
    asked = [("young", 0, PAGE, -1)] if asks else []
    assert setting.calls == asked + pair


def test_page_out_leaves_what_a_child_shares_and_splits_at_the_edge() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 5 * PAGE, 5)
    assert setting.run(madvise.page_out(setting.mm, A, 8 * PAGE)) == 8
    assert setting.level(A + 8 * PAGE) == 1
    child = setting.run(fork(setting.mm))
    assert setting.run(madvise.page_out(setting.mm, A + 8 * PAGE, 8 * PAGE)) == 0
    assert setting.get(A + 5 * PAGE, child) == 5
    balance(setting.host)


def test_page_out_of_a_page_in_parts_takes_only_the_range() -> None:
    """A huge page that is mapped in 4K entries is split, and its other pages stay."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 20 * PAGE, 5)
    setting.run(split_entry(setting.mm, A))
    assert setting.run(madvise.page_out(setting.mm, A, 8 * PAGE)) == 8
    assert setting.host.swap.used == 8
    assert setting.folio(A + 20 * PAGE).order == 0
    assert setting.get(A + 20 * PAGE) == 5
    balance(setting.host)


@pytest.mark.parametrize("advice", [madvise.cold, madvise.free])
def test_advice_for_a_part_splits_the_huge_page(advice: Any) -> None:
    """The split is announced, for MADV_FREE within the pair of the call; the advice then holds for the part."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(advice(setting.mm, A, 4 * PAGE))
    inner = [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)] * 2
    outer = [("start", 0, 4 * PAGE, CLEAR), ("end", 0, 4 * PAGE, CLEAR)] if advice is madvise.free else []
    assert setting.calls == outer[:1] + inner + outer[1:]
    young = [bool(setting.mm.table.value(1, A + page * PAGE) & entries.ACCESSED) for page in (0, 3, 4)]
    assert young == [False, False, True]
    assert setting.get(A) == 5
    balance(setting.host)


def test_huge_page_advice_decides_the_next_fault() -> None:
    setting = Setting()
    setting.map(2 * HUGE)
    setting.run(madvise.huge_page(setting.mm, A, HUGE))
    setting.put(A, 1)
    setting.put(A + HUGE, 1)
    assert (setting.level(A), setting.level(A + HUGE)) == (2, 1)
    setting.run(madvise.no_huge_page(setting.mm, A, HUGE))
    assert setting.level(A) == 2
    vma = setting.mm.vmas.find(A)
    assert vma is not None
    assert (vma.kind, vma.no_huge) == ("anon4k", True)


def test_advice_for_other_memory_or_holes_wrong() -> None:
    setting = Setting()
    setting.map(PAGE, "memfd", file=MemFile())
    for advice in (madvise.huge_page, madvise.mergeable, madvise.free):
        with pytest.raises(BadRange, match="must be anonymous, not memfd"):
            setting.run(advice(setting.mm, A, PAGE))
    for dropping in (madvise.dont_need, madvise.cold, madvise.page_out):
        with pytest.raises(BadRange, match="nothing is mapped"):
            setting.run(dropping(setting.mm, A, 2 * PAGE))
    with pytest.raises(BadRange, match="whole pages"):
        setting.run(madvise.dont_need(setting.mm, A, 8))
    setting = Setting(huge=1)
    setting.map(HUGE, "hugetlb2m")
    for aging in (madvise.cold, madvise.page_out):
        with pytest.raises(BadRange, match="must not be hugetlb2m"):
            setting.run(aging(setting.mm, A, HUGE))


@pytest.mark.parametrize("advice", [madvise.cold, madvise.free, madvise.page_out])
def test_huge_page_that_a_child_shares_is_left_whole(advice: Any) -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(fork(setting.mm))
    setting.run(advice(setting.mm, A, 4 * PAGE))
    assert (setting.level(A), [call for call in setting.calls if call[2] == HUGE]) == (2, [])
    balance(setting.host)


@pytest.mark.parametrize(
    ("advice", "kernel", "times", "whole"),
    [(madvise.cold, HOST_6_7, 2, False), (madvise.free, HOST_6_7, 2, False), (madvise.page_out, HOST_6_7, 2, False),
     (madvise.cold, HOST_6_12, 0, True), (madvise.free, HOST_6_12, 0, True), (madvise.page_out, HOST_6_12, 1, False)],
)  # fmt: skip
def test_huge_page_in_512_entries_is_split_before_6_10(
    advice: Any, kernel: HostKernel, times: int, whole: bool
) -> None:
    """Newer kernels take the page whole: MADV_PAGEOUT has one pair for it, the others have none."""
    setting = Setting(kernel)
    setting.map(2 * HUGE, "thp")
    setting.put(A, 5)
    setting.run(split_entry(setting.mm, A))
    folio = setting.folio(A)
    setting.run(advice(setting.mm, A, 2 * HUGE))
    pairs = [call for call in setting.calls if call[:3] == ("start", 0, HUGE)]
    assert len(pairs) == times
    assert setting.get(A) == 5
    assert (setting.folio(A) is folio) is whole
    balance(setting.host)


def test_free_leaves_zero_pages_alone() -> None:
    """vm_normal_page gives none for them, is_huge_zero_pmd is left out."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.map(PAGE, hva=A + HUGE)
    setting.get(A)
    setting.get(A + HUGE)
    before = setting.mm.table.leaves(A, A + HUGE + PAGE)
    setting.run(madvise.free(setting.mm, A, HUGE + PAGE))
    assert setting.mm.table.leaves(A, A + HUGE + PAGE) == before
    setting.run(madvise.free(setting.mm, A, 4 * PAGE))
    assert setting.level(A) == 2


def test_free_leaves_a_huge_page_alone_that_a_child_shares() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(fork(setting.mm))
    before = setting.mm.table.value(2, A)
    setting.run(madvise.free(setting.mm, A, HUGE))
    assert setting.mm.table.value(2, A) == before


@pytest.mark.parametrize(("kernel", "forgets"), [(HOST_6_7, True), (HOST_6_12, False)])
def test_page_out_forgets_accesses_before_6_9(kernel: HostKernel, forgets: bool) -> None:
    """Seen where the page stays, because swap is full."""
    setting = Setting(kernel, swap=0)
    setting.map(PAGE)
    setting.put(A, 5)
    assert setting.run(madvise.page_out(setting.mm, A, PAGE)) == 0
    assert bool(setting.mm.table.value(1, A) & entries.ACCESSED) is not forgets


def test_page_out_takes_two_megabytes_before_it_looks_at_the_next() -> None:
    setting = Setting()
    setting.map(2 * HUGE, "thp")
    setting.put(A, 5)
    setting.put(A + HUGE, 6)
    assert setting.run(madvise.page_out(setting.mm, A, HUGE + PAGE)) == 513
    starts = [call[1:3] for call in setting.calls if call[0] == "start"]
    assert starts == [(0, HUGE), (HUGE, 2 * HUGE), (HUGE, 2 * HUGE), (HUGE, HUGE + PAGE)]
    balance(setting.host)


def test_page_that_the_process_may_not_touch_is_paged_out() -> None:
    """pte_present holds for PROT_NONE."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    setting.run(mprotect(setting.mm, A, PAGE, read=False, write=False))
    assert setting.run(madvise.page_out(setting.mm, A, PAGE)) == 1
    setting.run(mprotect(setting.mm, A, PAGE, write=True))
    assert setting.get(A) == 5
    balance(setting.host)


@pytest.mark.parametrize(("kernel", "reserved"), [(HOST_6_7, 0), (HOST_6_12, 1)])
def test_dropped_hugetlb_page_is_reserved_again_from_6_9_on(kernel: HostKernel, reserved: int) -> None:
    """Before, somebody else may take it, and the owner's next touch is a SIGBUS."""
    setting = Setting(kernel, huge=1)
    setting.map(HUGE, "hugetlb2m")
    setting.put(A, 5)
    setting.run(madvise.dont_need(setting.mm, A, HUGE))
    assert (setting.host.pools[2].free, setting.host.pools[2].reserved) == (1, reserved)
    balance(setting.host)
    assert setting.get(A) == 0
    assert setting.host.pools[2].reserved == 0
    setting.run(munmap(setting.mm, A, HUGE))
    assert (setting.host.pools[2].free, setting.host.pools[2].reserved) == (1, 0)


def test_dropped_hugetlb_page_that_is_in_use_is_not_reserved() -> None:
    setting = Setting(huge=2)
    setting.map(HUGE, "hugetlb2m")
    setting.put(A, 5)
    child = setting.run(fork(setting.mm))
    setting.run(madvise.dont_need(setting.mm, A, HUGE))
    assert (setting.get(A, child), setting.host.pools[2].reserved) == (5, 0)
    balance(setting.host)


def test_huge_page_that_cannot_be_split_is_left_where_a_part_is_meant() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(split_entry(setting.mm, A))
    folio = setting.folio(A)
    folio.refs += 1
    before = setting.mm.table.leaves(A, A + HUGE)
    assert setting.run(madvise.page_out(setting.mm, A, 4 * PAGE)) == 0
    setting.run(madvise.cold(setting.mm, A, 4 * PAGE))
    assert (setting.mm.table.leaves(A, A + HUGE), setting.calls) == (before, [])
    folio.refs -= 1
    balance(setting.host)
