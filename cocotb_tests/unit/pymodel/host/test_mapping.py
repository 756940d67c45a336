"""mmap, munmap, mremap, exit: what is mapped afterwards, and what the notifiers heard."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host.effects import MmapLock, MmapUnlock, run_host
from pymodel.host.errors import BadRange, OutOfMemory
from pymodel.host.files import HugetlbFile, MemFile
from pymodel.host.gup import Signal
from pymodel.host.kernel import HOST_6_1, HOST_6_12, HostKernel
from pymodel.host.ksm import scan
from pymodel.host.madvise import mergeable
from pymodel.host.mapping import exit_process, mmap, mremap, munmap
from pymodel.host.notifier import MmuEvent

UNMAP, CLEAR = MmuEvent.UNMAP, MmuEvent.CLEAR


def test_munmap_frees_pages_behind_one_pair_over_the_whole_range() -> None:
    setting = Setting()
    free = setting.host.frames.free_count
    setting.map(8 * PAGE)
    for page in range(8):
        setting.put(A + page * PAGE, page)
    setting.run(munmap(setting.mm, A, 8 * PAGE))
    assert setting.calls == [("start", 0, 8 * PAGE, UNMAP), ("end", 0, 8 * PAGE, UNMAP)]
    assert len(setting.reused) == 8
    assert setting.host.frames.free_count == free
    with pytest.raises(Signal, match="nothing is mapped"):
        setting.get(A)


def test_munmap_of_nothing_is_silent() -> None:
    setting = Setting()
    setting.run(munmap(setting.mm, A, HUGE))
    assert setting.calls == []


@pytest.mark.parametrize("touched", [False, True])
def test_cutting_a_mapping_announces_the_huge_page_around_the_cut(touched: bool) -> None:
    """Recorded (remap, mprotect_4k): even without a huge page, but only where the process has tables."""
    setting = Setting()
    setting.map(2 * HUGE)
    if touched:
        setting.put(A + 5 * PAGE, 1)
    setting.run(munmap(setting.mm, A + 2 * PAGE, 2 * PAGE))
    pair = [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)] if touched else []
    assert setting.calls == [*pair, ("start", 2 * PAGE, 4 * PAGE, UNMAP), ("end", 2 * PAGE, 4 * PAGE, UNMAP)]


def test_munmap_of_part_of_a_huge_page_keeps_the_rest() -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 7 * PAGE, 7)
    folio = setting.folio(A)
    assert setting.level(A) == 2
    setting.run(munmap(setting.mm, A, 4 * PAGE))
    assert (setting.level(A), setting.level(A + 4 * PAGE)) == (0, 1)
    assert setting.get(A + 7 * PAGE) == 7
    assert folio.refs == 508
    assert folio in setting.host.deferred
    assert setting.reused == []
    balance(setting.host)


def test_mmap_over_a_mapping_takes_its_place() -> None:
    setting = Setting()
    setting.map(2 * PAGE)
    setting.put(A, 5)
    setting.map(PAGE, write=False)
    assert setting.calls == [("start", 0, PAGE, UNMAP), ("end", 0, PAGE, UNMAP)]
    assert setting.get(A) == 0
    with pytest.raises(Signal, match="not with this access"):
        setting.put(A, 1)
    balance(setting.host)


def test_tables_go_with_the_last_mapping_of_their_span() -> None:
    """A table of 4K entries keeps huge pages out as long as it stands (recorded, dontneed_thp)."""
    setting = Setting()
    setting.map(2 * HUGE, "thp")
    setting.map(HUGE, "anon4k")
    setting.put(A, 1)
    setting.run(munmap(setting.mm, A, PAGE))
    assert A >> 21 in setting.mm.pte_tables
    setting.run(munmap(setting.mm, A + PAGE, HUGE - PAGE))
    assert A >> 21 not in setting.mm.pte_tables
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    assert setting.level(A) == 2


@pytest.mark.parametrize(("to", "level"), [(A + 4 * HUGE, 2), (A + 4 * HUGE + PAGE, 1)])
def test_mremap_moves_pages_and_splits_a_huge_one_that_does_not_fit(to: int, level: int) -> None:
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 3 * PAGE, 9)
    frame = setting.folio(A).frame
    setting.run(mremap(setting.mm, A, HUGE, to))
    events = [(name, start, event) for name, start, _, event in setting.calls if event == UNMAP]
    assert events == [("start", 0, UNMAP), ("end", 0, UNMAP), ("start", 0, UNMAP), ("end", 0, UNMAP)]
    assert setting.level(A) == 0
    assert (setting.level(to), setting.folio(to).frame) == (level, frame)
    assert setting.get(to + 3 * PAGE) == 9
    balance(setting.host)


def test_exit_releases_first_and_gives_everything_back() -> None:
    setting = Setting(huge=2)
    file = MemFile()
    free = setting.host.frames.free_count
    setting.map(HUGE, "thp")
    setting.map(2 * HUGE, "hugetlb2m", A + HUGE)
    setting.map(4 * PAGE, "memfd", A + 8 * HUGE, file=file)
    for hva in (A, A + HUGE, A + 8 * HUGE):
        setting.put(hva, 1)
    setting.run(exit_process(setting.mm))
    assert [name for name, *_ in setting.calls] == ["release"]
    assert setting.host.processes == {}
    assert setting.host.frames.free_count == free - 1  # the file lives on with its page
    assert (setting.host.pools[2].free, setting.host.pools[2].reserved) == (2, 0)
    assert not file.mappers


def test_hugetlb_reservation_that_does_not_fit_wrong() -> None:
    setting = Setting(huge=2)
    setting.map(2 * HUGE, "hugetlb2m")
    with pytest.raises(OutOfMemory, match="0 neither used nor reserved"):
        setting.map(HUGE, "hugetlb2m", A + 4 * HUGE)


def test_shared_hugetlb_pages_are_reserved_once() -> None:
    setting = Setting(huge=2)
    file = HugetlbFile(setting.host.pools[2])
    setting.map(HUGE, "hugetlb2m", file=file)
    setting.map(HUGE, "hugetlb2m", A + 4 * HUGE, file=file)
    assert setting.host.pools[2].reserved == 1
    setting.put(A, 3)
    assert setting.get(A + 4 * HUGE) == 3
    balance(setting.host, [file])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("anon3k", {}), "kind must be one of anon4k, thp, memfd, hugetlb2m, hugetlb1g, not 'anon3k'"),
        (("memfd", {}), "a memfd mapping needs a file"),
        (("anon4k", {"file": MemFile()}), "cannot show a MemFile"),
        (("anon4k", {"shared": True}), "shared with a file and private without"),
        (("memfd", {"file": MemFile(), "offset": 5}), "file offset must be a multiple of 0x1000, not 0x5"),
        (("hugetlb2m", {}), "no pool of hugetlb2m pages"),
        (("hugetlb1g", {}), "whole pages of 0x40000000"),
    ],
)
def test_mmap_wrong(arguments: tuple[str, dict[str, Any]], message: str) -> None:
    setting = Setting()
    with pytest.raises(BadRange, match=message):
        setting.map(HUGE, arguments[0], **arguments[1])


def test_cut_hugetlb_page_wrong() -> None:
    setting = Setting(huge=1)
    setting.map(HUGE, "hugetlb2m")
    with pytest.raises(BadRange, match="lies inside a hugetlb2m page"):
        setting.run(munmap(setting.mm, A, PAGE))
    assert setting.calls == []


@pytest.mark.parametrize(
    ("kernel", "low", "neighbour", "start"),
    [(HOST_6_1, 4, 0, 4), (HOST_6_12, 4, 0, 0), (HOST_6_12, 4, 1, 4), (HOST_6_12, 4, 9, 4), (HOST_6_12, 0, 0, 0)],
)
def test_mremap_begins_where_its_table_does_from_6_7_on(
    kernel: HostKernel, low: int, neighbour: int, start: int
) -> None:
    """try_realign_addr: not where another mapping (1: before the old place, 9: before the new) lies in the table."""
    setting = Setting(kernel)
    setting.map(HUGE, hva=A + low * PAGE)
    setting.put(A + low * PAGE, 5)
    to = A + 8 * HUGE
    if neighbour:
        setting.map(PAGE, hva=A if neighbour == 1 else to)
    setting.run(mremap(setting.mm, A + low * PAGE, HUGE, to + low * PAGE))
    moves = [call[1:3] for call in setting.calls if call[3] == UNMAP and call[0] == "start"]
    assert moves == [(start * PAGE, low * PAGE + HUGE), (low * PAGE, low * PAGE + HUGE)]
    assert setting.get(to + low * PAGE) == 5
    balance(setting.host)


@pytest.mark.parametrize(("length", "to", "cut"), [(8, 4, 0), (HUGE // PAGE, 5, 0), (HUGE // PAGE, 4, 1)])
def test_mremap_begins_where_it_was_asked_to_otherwise(length: int, to: int, cut: int) -> None:
    """A range that ends in its first table, another place in it, and a range in the middle of its mapping."""
    setting = Setting()
    setting.map((length + cut) * PAGE, hva=A + (4 - cut) * PAGE)
    setting.run(mremap(setting.mm, A + 4 * PAGE, length * PAGE, A + 8 * HUGE + to * PAGE))
    assert {call[1] for call in setting.calls if call[3] == UNMAP} == {4 * PAGE}


def test_mremap_takes_pages_out_of_ksm_first() -> None:
    """move_vma: ksm_madvise(MADV_UNMERGEABLE)."""
    setting = Setting()
    setting.map(2 * PAGE)
    setting.run(mergeable(setting.mm, A, 2 * PAGE))
    for page in range(2):
        setting.put(A + page * PAGE, 5)
    setting.run(scan(setting.host, [(setting.mm, A), (setting.mm, A + PAGE)]))
    setting.run(mremap(setting.mm, A, 2 * PAGE, A + HUGE))
    copies = [call for call in setting.calls if call[3] == CLEAR]
    assert [call[:2] for call in copies] == [("start", 0), ("end", 0), ("start", PAGE), ("end", PAGE)]
    assert setting.calls[: len(copies)] == copies
    assert not setting.host.ksm_pages
    assert (setting.get(A + HUGE), setting.get(A + HUGE + PAGE)) == (5, 5)
    balance(setting.host)


def test_mremap_wrong() -> None:
    setting = Setting(HOST_6_1)
    setting.map(2 * PAGE)
    with pytest.raises(BadRange, match="overlaps itself"):
        setting.run(mremap(setting.mm, A, 2 * PAGE, A + PAGE))
    with pytest.raises(BadRange, match="needs one mapping"):
        setting.run(mremap(setting.mm, A, 4 * PAGE, A + HUGE))


def test_mapping_that_cannot_be_reserved_leaves_no_lock() -> None:
    """hugetlb_reserve_pages fails when the old mapping is gone already."""
    setting = Setting(huge=1)
    setting.map(2 * HUGE)
    effects: list[Any] = []
    with pytest.raises(OutOfMemory, match="2 hugetlb pages of level 2 asked for"):
        run_host(mmap(setting.mm, A, 2 * HUGE, "hugetlb2m"), setting.memory, effects.append)
    locks = [type(effect) for effect in effects if isinstance(effect, MmapLock | MmapUnlock)]
    assert locks == [MmapLock, MmapUnlock]
    assert setting.mm.vmas.find(A) is None
    balance(setting.host)
