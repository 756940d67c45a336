"""The page cache of memfd files: made, found, read back."""

from cocotb_tests.unit.pymodel.host.support import PAGE, A, Setting, balance
from pymodel.host.effects import ClearPage, CopyPage, perform
from pymodel.host.files import MemFile
from pymodel.host.frames import Folio
from pymodel.host.pagecache import cache_page
from pymodel.host.reclaim import reclaim
from pymodel.host.swap import Slot


def test_page_is_made_once_and_cleared() -> None:
    setting, file = Setting(), MemFile()
    first = setting.run(cache_page(setting.host, file, 3))
    assert isinstance(first, Folio)
    assert setting.run(cache_page(setting.host, file, 3)) is first
    assert (first.cache, first.refs, list(file.pages)) == ((file, 3), 1, [3])
    balance(setting.host, [file])


def test_locked_page_is_not_given_out() -> None:
    setting, file = Setting(), MemFile()
    folio = setting.run(cache_page(setting.host, file, 0))
    assert folio is not None
    folio.locked = True
    assert setting.run(cache_page(setting.host, file, 0)) is None


def test_swapped_page_is_read_back_and_its_slot_is_free() -> None:
    setting, file = Setting(), MemFile()
    setting.map(PAGE, "memfd", file=file)
    setting.put(A, 5)
    assert setting.run(reclaim(setting.host, [setting.folio(A)], ages=False)) == 1
    assert isinstance(file.pages[0], Slot)
    agent = cache_page(setting.host, file, 0)
    effect = next(agent)
    assert isinstance(effect, CopyPage)
    perform(effect, setting.memory)
    setting.run(agent)
    assert setting.host.swap.used == 0
    assert setting.get(A) == 5
    balance(setting.host, [file])


def test_the_slower_of_two_gives_its_page_back() -> None:
    setting, file = Setting(), MemFile()
    slow = cache_page(setting.host, file, 0)
    assert isinstance(next(slow), ClearPage)
    winner = setting.run(cache_page(setting.host, file, 0))
    assert setting.run(slow) is None
    assert file.pages[0] is winner
    balance(setting.host, [file])
