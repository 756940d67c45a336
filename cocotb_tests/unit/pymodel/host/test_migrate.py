"""Migration: content, every mapping, caches, and who may not be moved."""

from itertools import pairwise

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.effects import CopyPage
from pymodel.host.files import HugetlbFile, MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, populate, unpin
from pymodel.host.madvise import dont_need
from pymodel.host.migrate import Moved, move_page
from pymodel.host.mprotect import mprotect
from pymodel.host.notifier import MmuEvent

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


def test_waiting_huge_page_is_still_waiting_at_its_new_place() -> None:
    """A huge page with an unmapped part stays on the deferred-split list."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 5)
    setting.run(dont_need(setting.mm, A + PAGE, PAGE))
    setting.run(move_page(setting.mm, A))
    assert list(setting.host.deferred) == [setting.folio(A)]
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


@pytest.mark.parametrize("kind", ["anon4k", "memfd"])
def test_page_in_use_is_announced_at_every_attempt_and_stays(kind: str) -> None:
    """NR_MAX_MIGRATE_PAGES_RETRY: the guest loses the page ten times, its DMA never (folio_migrate_mapping)."""
    setting = Setting()
    file = MemFile() if kind == "memfd" else None
    setting.map(PAGE, kind, file=file)
    setting.put(A, 5)
    value = setting.mm.table.value(1, A)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    assert setting.run(move_page(setting.mm, A)) is Moved.BUSY
    assert setting.calls == [("start", 0, PAGE, CLEAR), ("end", 0, PAGE, CLEAR)] * 10
    assert (setting.folio(A), setting.mm.table.value(1, A)) == (folio, value)
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
    assert setting.run(move_page(setting.mm, A + HUGE)) is Moved.NO_MEMORY
    setting.map(1 << 25, "anon4k", A + 16 * HUGE)
    free = setting.host.frames.free_count
    setting.run(populate(setting.mm, A + 16 * HUGE, free * PAGE, write=True))
    assert setting.run(move_page(setting.mm, A)) is Moved.NO_MEMORY
    assert setting.calls == []
    balance(setting.host)
