"""References and misuse of the host's books."""

import pytest

from cocotb_tests.unit.pymodel.host.support import PAGE, A, Setting, balance
from pymodel.host.effects import HostPteChanged
from pymodel.host.errors import BadRange, DoubleFree
from pymodel.host.process import check_range


def test_last_reference_frees_and_says_so() -> None:
    setting = Setting()
    folio = setting.host.frames.allocate(9)
    folio.refs = 2
    setting.run(setting.host.put(folio))
    assert setting.reused == []
    setting.run(setting.host.put(folio))
    assert setting.reused == list(range(folio.frame, folio.frame + 512))
    assert setting.host.frames.is_free(folio.frame)
    with pytest.raises(DoubleFree, match="dropped twice"):
        setting.run(setting.host.put(folio))


def test_mapping_twice_wrong() -> None:
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    other = setting.host.frames.allocate(0)
    with pytest.raises(DoubleFree, match=f"maps {A:#x} twice"):
        setting.mm.map_page(A, 1, 0x5867, other)


def test_entry_change_is_told_with_both_values() -> None:
    setting = Setting()
    assert setting.mm.write_entry(A, 1, 0x5867) == HostPteChanged(1, A, 1, 0, 0x5867)
    assert setting.mm.write_entry(A, 1, 0) == HostPteChanged(1, A, 1, 0x5867, 0)
    assert (A >> 21 in setting.mm.pte_tables, A >> 30 in setting.mm.pmd_tables) == (True, True)


def test_swap_slot_dropped_twice_wrong() -> None:
    setting = Setting()
    slot = setting.host.swap.allocate()
    with pytest.raises(DoubleFree, match="swap slot 0 was dropped twice"):
        setting.run(setting.host.put_slot(slot))


@pytest.mark.parametrize(
    ("start", "length", "level"), [(A + 1, PAGE, 1), (A, 5, 1), (A, 0, 1), (A, PAGE, 2), (-PAGE, PAGE, 1)]
)
def test_range_wrong(start: int, length: int, level: int) -> None:
    with pytest.raises(BadRange, match="whole pages of"):
        check_range(start, length, level)


def test_balance_sees_a_lost_and_a_surplus_reference() -> None:
    """The accounts that other tests rely on can fail."""
    setting = Setting()
    setting.map(PAGE)
    setting.put(A, 1)
    balance(setting.host)
    for change in (1, -1):
        setting.folio(A).refs += change
        with pytest.raises(AssertionError, match="references of"):
            balance(setting.host)
        setting.folio(A).refs -= change
    setting.mm.table.clear(1, A)
    with pytest.raises(AssertionError, match="reverse map"):
        balance(setting.host)
