"""The host's page table: lookups, ranges, what an entry grants."""

from pymodel.host.page_table import HostPageTable, grants

_A = 0x2000_4020_0000


def test_page_table_finds_the_largest_leaf() -> None:
    table = HostPageTable()
    table.set(2, _A, 0x14A4008E7)
    entry = table.lookup(_A + 0x5123)
    assert entry is not None
    assert (entry.level, entry.pfn(_A + 0x5123), entry.writable) == (2, 0x14A405, True)
    table.clear(2, _A)
    assert table.lookup(_A) is None
    table.set(1, _A + 0x1000, 0x8000000003738225)
    entry = table.lookup(_A + 0x1000)
    assert entry is not None
    assert (entry.pfn(_A + 0x1000), entry.writable, entry.present) == (0x3738, False, True)


def test_copied_range_equals_the_other_table() -> None:
    one, other = HostPageTable(), HostPageTable()
    one.set(2, _A, 0x8E7)
    for page in range(512):
        other.set(1, _A + (page << 12), page << 12 | 0x867)
    one.copy_range(other, _A, _A + (1 << 21))
    assert one == other
    assert not one.range_empty(_A, _A + 4096)
    one.copy_range(HostPageTable(), 0, 1 << 57)
    assert one.range_empty(_A, _A + (1 << 21))


def test_leaves_come_by_address_over_all_levels() -> None:
    table = HostPageTable()
    table.set(1, _A + 0x3000, 0x3867)
    table.set(2, _A + (1 << 21), 0x2000E7)
    table.set(1, _A, 0x1867)
    assert [(entry.hva - _A, entry.level) for entry in table.leaves(_A, _A + (1 << 22))] == [
        (0, 1), (0x3000, 1), (1 << 21, 2)]  # fmt: skip
    assert [entry.level for entry in table.leaves(_A + (1 << 21) + 0x5000, _A + (1 << 21) + 0x6000)] == [2]
    assert (table.value(1, _A + 0x3FFF), table.value(2, _A)) == (0x3867, 0)


def test_entry_grants_what_its_bits_say() -> None:
    table = HostPageTable()
    table.set(1, _A, 0x5865)
    entry = table.lookup(_A)
    assert grants(entry, _A, False) == (5, False)
    assert grants(entry, _A, True) is None
    assert grants(None, _A, False) is None


def test_walk_goes_on_with_what_a_huge_entry_became() -> None:
    """Somebody splits it, or takes an entry away, before the walk is there."""
    table = HostPageTable()
    table.set(1, _A - 0x1000, 0x1000_0225)
    table.set(2, _A, 0x14A4008E7)
    table.set(1, _A + (1 << 21), 0x2000_0225)
    walk = table.walk(_A - 0x1000, _A + (1 << 21) + 0x1000)
    assert next(walk).hva == _A - 0x1000
    table.clear(2, _A)
    for page in (0, 5):
        table.set(1, _A + (page << 12), 0x14A400867 + (page << 12))
    table.clear(1, _A + (1 << 21))
    assert [(entry.hva - _A, entry.level) for entry in walk] == [(0, 1), (0x5000, 1)]
