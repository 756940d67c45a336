"""Migration: content, every mapping, caches, and who may not be moved."""

from itertools import pairwise

import pytest

from cocotb_tests.unit.pymodel.host.support import GIGA, HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.effects import CopyPage, run_host
from pymodel.host.files import HugetlbFile, HugetlbPool, MemFile
from pymodel.host.fork import fork
from pymodel.host.frames import Frames
from pymodel.host.gup import pin_user_page, populate, unpin
from pymodel.host.kernel import HOST_6_1, HOST_6_7, HOST_6_12, HostKernel
from pymodel.host.madvise import dont_need
from pymodel.host.mapping import mmap, munmap
from pymodel.host.migrate import Moved, move_page
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Host
from pymodel.memory import PhysMem

CLEAR = MmuEvent.CLEAR


@pytest.mark.parametrize(("kind", "length"), [("anon4k", PAGE), ("thp", HUGE), ("hugetlb2m", HUGE)])
def test_page_moves_with_its_content_and_its_entry(kind: str, length: int) -> None:
    """Recorded (migrate): one start and end over the page; the entry is the same but for the frame."""
    setting = Setting(huge=2)
    setting.map(length, kind)
    setting.put(A + length - 8, 5)
    old = setting.folio(A)
    entry = setting.mm.table.lookup(A)
    assert entry is not None
    assert setting.run(move_page(setting.mm, A + length - 8)) is Moved.DONE
    assert setting.calls == [("start", 0, length, CLEAR), ("end", 0, length, CLEAR)]
    new = setting.folio(A)
    assert new.frame != old.frame
    assert setting.reused == list(range(old.frame, old.frame + old.count))
    after = setting.mm.table.lookup(A)
    assert after is not None
    assert after.value ^ entry.value == (new.frame ^ old.frame) << 12
    assert setting.get(A + length - 8) == 5
    setting.put(A, 6)
    assert setting.calls == []
    balance(setting.host)


def test_every_mapping_follows() -> None:
    setting = Setting()
    file = MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.map(PAGE, "memfd", A + HUGE, file=file)
    setting.put(A, 5)
    setting.get(A + HUGE)
    child = setting.run(fork(setting.mm))
    setting.get(A, child)
    assert setting.run(move_page(setting.mm, A)) is Moved.DONE
    assert [call[1] for call in setting.calls] == [0, 0, HUGE, HUGE]
    assert setting.folio(A) is setting.folio(A + HUGE) is setting.folio(A, child) is file.pages[0]
    balance(setting.host, [file])


def test_nobody_can_write_while_it_is_copied() -> None:
    """Between the end of the invalidation and the new entries the page is reached by nobody."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 5)
    agent = move_page(setting.mm, A)
    for effect in agent:
        if isinstance(effect, CopyPage):
            assert entries.is_migration(setting.mm.table.value(1, A))
            assert [name for name, *_ in setting.spy.calls] == ["start", "end"]
            break
    else:
        raise AssertionError("nothing was copied")


def test_page_split_by_mprotect_moves_whole() -> None:
    """Each mapping that shows a part of the page hears of its own part."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A + 3 * PAGE, 5)
    setting.run(mprotect(setting.mm, A + 3 * PAGE, PAGE, read=False, write=False))
    assert setting.run(move_page(setting.mm, A)) is Moved.DONE
    edges = [0, 3 * PAGE, 4 * PAGE, HUGE]
    assert [call[1:3] for call in setting.calls if call[0] == "start"] == list(pairwise(edges))
    setting.run(mprotect(setting.mm, A + 3 * PAGE, PAGE, write=True))
    assert setting.get(A + 3 * PAGE) == 5
    balance(setting.host)


@pytest.mark.parametrize("kernel", [HOST_6_7, HOST_6_12])
def test_huge_page_with_an_unmapped_part_moves_whole_or_from_6_10_in_parts(kernel: HostKernel) -> None:
    """It stays on the deferred-split list, or is split, and its parts move one by one."""
    setting = Setting(kernel)
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(dont_need(setting.mm, A + PAGE, PAGE))
    old = setting.folio(A).frame
    assert setting.run(move_page(setting.mm, A)) is Moved.DONE
    if kernel is HOST_6_7:
        assert list(setting.host.deferred) == [setting.folio(A)]
        assert setting.calls == [("start", 0, HUGE, CLEAR), ("end", 0, HUGE, CLEAR)]
    else:
        assert not setting.host.deferred
        assert setting.folio(A).order == 0
        starts = [call[1:3] for call in setting.calls if call[0] == "start"]
        assert starts == [(0, HUGE), (0, HUGE)] + [(page * PAGE, (page + 1) * PAGE) for page in range(512) if page != 1]
    entry = setting.mm.table.lookup(A)
    assert entry is not None
    assert entry.pfn(A) != old
    assert setting.get(A) == 5
    balance(setting.host)


def test_hugetlb_file_page_moves_within_its_pool() -> None:
    setting = Setting(huge=2)
    file = HugetlbFile(setting.host.pools[2])
    setting.map(HUGE, "hugetlb2m", file=file)
    setting.put(A, 5)
    assert setting.run(move_page(setting.mm, A)) is Moved.DONE
    assert setting.get(A) == 5
    assert file.pages[0] is setting.folio(A)
    balance(setting.host, [file])


@pytest.mark.parametrize(
    ("kernel", "kind", "times"),
    [(HOST_6_1, "anon4k", 10), (HOST_6_1, "memfd", 10), (HOST_6_1, "hugetlb2m", 10),
     (HOST_6_12, "anon4k", 10), (HOST_6_12, "memfd", 2), (HOST_6_12, "hugetlb2m", 10)],
)  # fmt: skip
def test_page_in_use_is_announced_at_every_attempt_and_stays(kernel: HostKernel, kind: str, times: int) -> None:
    """NR_MAX_MIGRATE_PAGES_RETRY: the guest loses the page ten times, its DMA never (folio_migrate_mapping).

    A batch (6.3+) tries three times, then seven; what could be unmapped is not mapped again in between.
    """
    setting = Setting(kernel, huge=2)
    file = MemFile() if kind == "memfd" else None
    size = HUGE if kind == "hugetlb2m" else PAGE
    setting.map(size, kind, file=file)
    setting.put(A, 5)
    entry = setting.mm.table.lookup(A)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(move_page(setting.mm, A)) is Moved.BUSY
    assert setting.calls == [("start", 0, size, CLEAR), ("end", 0, size, CLEAR)] * times
    assert (setting.folio(A), setting.mm.table.lookup(A)) == (folio, entry)
    setting.run(unpin(setting.mm, folio))
    assert setting.run(move_page(setting.mm, A)) is Moved.DONE
    balance(setting.host, [file] if file is not None else [])


def test_what_cannot_move() -> None:
    setting = Setting(huge=1)
    setting.map(PAGE)
    assert setting.run(move_page(setting.mm, A)) is Moved.ABSENT
    setting.get(A)
    assert setting.run(move_page(setting.mm, A)) is Moved.ABSENT  # the zero page
    setting.put(A, 1)
    setting.folio(A).refs += 1
    assert setting.run(move_page(setting.mm, A)) is Moved.BUSY
    setting.folio(A).refs -= 1
    setting.map(HUGE, "hugetlb2m", A + HUGE)
    setting.put(A + HUGE, 1)
    setting.map(1 << 25, "anon4k", A + 16 * HUGE)
    free = setting.host.frames.free_count
    setting.run(populate(setting.mm, A + 16 * HUGE, free * PAGE, write=True))
    assert setting.run(move_page(setting.mm, A)) is Moved.NO_MEMORY
    assert setting.run(move_page(setting.mm, A + HUGE)) is Moved.NO_MEMORY
    assert setting.calls == []
    balance(setting.host)


@pytest.mark.parametrize("pinned", [False, True])
def test_hugetlb_page_moves_without_a_free_page_in_its_pool(pinned: bool) -> None:
    """alloc_migrate_hugetlb_folio: free memory gives the new page, and gets the old one; or the new one back."""
    setting = Setting(huge=1)
    pool = setting.host.pools[2]
    setting.map(HUGE, "hugetlb2m")
    setting.put(A, 5)
    free = setting.host.frames.free_count
    old = setting.folio(A)
    if pinned:
        setting.run(pin_user_page(setting.mm, A, write=True))
    result = setting.run(move_page(setting.mm, A))
    assert ((result is Moved.BUSY), (result is Moved.DONE)) == (pinned, not pinned)
    assert (setting.folio(A) is old) is pinned
    assert (setting.get(A), setting.host.frames.free_count, pool.free) == (5, free, 0)
    if pinned:
        setting.run(unpin(setting.mm, old))
    setting.run(munmap(setting.mm, A, HUGE))
    assert (setting.host.frames.free_count, pool.free) == (free, 1)
    balance(setting.host)


def test_hugetlb_gigabyte_page_needs_one_in_the_pool() -> None:
    frames = Frames(0, 3 << 18)
    host = Host(frames, pools=[HugetlbPool(frames, 3, 1)])
    mm = host.new_process()
    memory = PhysMem()
    run_host(mmap(mm, 0, GIGA, "hugetlb1g"), memory)
    folio = host.pools[3].take(reserved=True)
    assert folio is not None
    mm.vmas.touching(0, GIGA)[0].reserve = set()
    mm.map_page(0, 3, entries.leaf(folio.frame, 3, writable=True, dirty=True), folio)
    run_host(host.put(folio), memory)
    assert run_host(move_page(mm, 0), memory) is Moved.NO_MEMORY
