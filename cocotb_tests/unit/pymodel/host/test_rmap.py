"""The reverse map: who maps a page, and migration entries in its place."""

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, Setting, balance
from pymodel.host import entries
from pymodel.host.files import MemFile
from pymodel.host.fork import fork
from pymodel.host.gup import pin_user_page, unpin
from pymodel.host.mprotect import mprotect
from pymodel.host.rmap import restore_entries, spans, to_migration_entries, waiting_entry


def test_spans_follow_mappings_oldest_first() -> None:
    setting, file = Setting(), MemFile()
    setting.map(2 * PAGE, "memfd", file=file)
    setting.map(2 * PAGE, "memfd", A + HUGE, file=file)
    setting.put(A + PAGE, 1)
    setting.get(A + HUGE + PAGE)
    found = spans(setting.folio(A + PAGE))
    assert [(span.start - A, span.end - A, span.places) for span in found] == [
        (PAGE, 2 * PAGE, [(A + PAGE, 1)]), (HUGE + PAGE, HUGE + 2 * PAGE, [(A + HUGE + PAGE, 1)])]  # fmt: skip


def test_entries_wait_and_come_back_as_they_were() -> None:
    """W, D and A survive; a PROT_NONE entry comes back as one."""
    setting = Setting()
    setting.map(HUGE, "thp")
    setting.put(A, 1)
    setting.run(mprotect(setting.mm, A + 3 * PAGE, PAGE, read=False, write=False))
    folio = setting.folio(A)
    before = {entry.hva: entry.value for entry in setting.mm.table.leaves(A, A + HUGE)}
    setting.run(to_migration_entries(folio))
    assert all(entries.is_migration(entry.value) for entry in setting.mm.table.leaves(A, A + HUGE))
    setting.run(restore_entries(folio, folio))
    after = {entry.hva: entry.value for entry in setting.mm.table.leaves(A, A + HUGE)}
    same = ~(entries.SOFT_DIRTY | entries.SAVED_DIRTY | entries.DIRTY)
    assert {hva: value & same for hva, value in after.items()} == {hva: value & same for hva, value in before.items()}
    balance(setting.host)


def test_child_that_is_born_meanwhile_is_served() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    folio = setting.folio(A)
    setting.run(to_migration_entries(folio))
    child = setting.run(fork(setting.mm))
    setting.run(restore_entries(folio, folio))
    assert (setting.get(A), setting.get(A, child)) == (1, 1)
    assert not setting.mm.table.value(1, A) & entries.WRITABLE
    balance(setting.host)


def test_pinned_page_keeps_its_entry_though_it_is_announced() -> None:
    """folio_try_share_anon_rmap fails between the start and the end."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    folio = setting.run(pin_user_page(setting.mm, A, write=True))
    value = setting.mm.table.value(1, A)
    assert waiting_entry(folio, value) is None
    setting.run(to_migration_entries(folio))
    assert ([name for name, *_ in setting.calls], setting.mm.table.value(1, A)) == (["start", "end"], value)
    setting.run(unpin(setting.mm, folio))
    assert waiting_entry(folio, value) is not None


def test_waiting_entry_knows_whose_page_it_is() -> None:
    """SWP_MIGRATION_READ, _READ_EXCLUSIVE, _WRITE."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    folio, value = setting.folio(A), setting.mm.table.value(1, A)
    kinds = []
    for exclusive, old in ((0, value & ~entries.WRITABLE), (1, value & ~entries.WRITABLE), (1, value)):
        folio.exclusive = exclusive
        new = waiting_entry(folio, old)
        assert new is not None
        kinds.append(new >> 59)
    assert kinds == [28, 29, 30]
