"""Entry values against those of the recordings, and what survives a conversion."""

import pytest

from pymodel.host import entries
from pymodel.host.kernel import HOST_6_1, HOST_6_12

FRAME = 0x14A39C


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        (entries.leaf(0x149096, 1, writable=True, dirty=True), 0x8000000149096867),
        (entries.leaf(0x149600, 2, writable=True, dirty=True), 0x80000001496008E7),
        (entries.leaf(0x144859, 1, writable=True, dirty=False), 0x8000000144859027),
        (entries.leaf(0x142600, 2, writable=False, dirty=False), 0x80000001426000A5),
        (entries.zero_leaf(0x3738, 1), 0x8000000003738225),
        (entries.zero_leaf(0x140E00, 2), 0x8000000140E000A5),
        (entries.write_protect(0x800000014A35E867, HOST_6_1), 0x800000014A35E865),
        (entries.write_protect(0x80000001490B0867, HOST_6_12), 0x84000001490B0825),
        (entries.none_protection(0x800000014A353865), 0xFFFFEB5CAC960),
        (entries.make_writable(entries.undo_none_protection(0xFFFFEB5CAC960)), 0x800000014A353867),
        (entries.clean_and_old(0x800000014BD2C867), 0x800000014BD2C807),
        (entries.swap_entry(0x4000, exclusive=True), 0x7FFFFFFFF7FFE0A),
    ],
)
def test_value_is_the_recorded_one(value: int, recorded: int) -> None:
    """Literals are copied from recordings of Linux 6.1 and 6.12."""
    assert f"{value:#x}" == f"{recorded:#x}"


def test_saved_dirty_bit_comes_back_with_write_permission() -> None:
    value = entries.write_protect(entries.leaf(FRAME, 1, writable=True, dirty=True), HOST_6_12)
    assert not value & entries.DIRTY
    assert entries.is_dirty(value)
    assert entries.make_writable(value) == entries.leaf(FRAME, 1, writable=True, dirty=True)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("writable", [False, True])
@pytest.mark.parametrize("dirty", [False, True])
def test_migration_keeps_everything_but_the_frame(level: int, writable: bool, dirty: bool) -> None:
    frame, moved = 0x14A400, 0x155600
    value = entries.leaf(frame, level, writable=writable, dirty=dirty)
    entry = entries.migration_entry(value, exclusive=True)
    assert entries.is_migration(entry)
    assert not entries.is_swap(entry)
    assert entries.mapped_frame(entry) is None
    assert entries.migration_frame(entry) == frame
    after = entries.after_migration(entry, moved, level, may_write=True)
    assert after == entries.leaf(moved, level, writable=writable, dirty=dirty)
    read_only = entries.migration_read_only(entry, exclusive=False)
    assert (entries.migration_frame(read_only), entries.migration_exclusive(read_only)) == (frame, False)
    assert not entries.after_migration(read_only, moved, level, may_write=True) & entries.WRITABLE


def test_parts_of_a_huge_entry_follow_each_other() -> None:
    huge = entries.leaf(0x149600, 2, writable=True, dirty=True)
    assert entries.part(huge, 5) == entries.leaf(0x149605, 1, writable=True, dirty=True)
    hidden = entries.none_protection(entries.write_protect(huge, HOST_6_1))
    assert entries.mapped_frame(entries.part(hidden, 511)) == 0x1497FF
    moving = entries.migration_entry(huge, exclusive=True)
    assert entries.migration_frame(entries.migration_part(moving, 7)) == 0x149607
    assert entries.is_migration(entries.migration_part(moving, 511))


def test_swap_entry_forgets_only_its_owner() -> None:
    entry = entries.swap_entry(77, exclusive=True)
    shared = entries.swap_shared(entry)
    assert entries.is_swap(entry)
    assert (entries.swap_number(entry), entries.swap_number(shared)) == (77, 77)
    assert (entries.swap_exclusive(entry), entries.swap_exclusive(shared)) == (True, False)
