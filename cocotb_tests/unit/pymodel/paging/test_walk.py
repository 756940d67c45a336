"""The slow walk: every outcome, by hand, in both sets of reason codes."""

import pytest

from pymodel.memory import PhysMem
from pymodel.paging.formats import SecondStage
from pymodel.paging.walk import Translation, Walk, in_interrupt_range, walk
from pymodel.spec.faults import Reason

ROOT, L2, L1, L0 = 0x10000, 0x20000, 0x30000, 0x40000
IOVA = 0x0000_0080_C060_7ABC  # indices 1, 3, 3, 7

RAM = [(0, 0x50000), (0x60000, 0x61000)]


def table(
    *, top: int = L2 | 3, third: int = L1 | 3, second: int = L0 | 3, last: int = 0x1234_5003
) -> PhysMem:
    """A path for IOVA through four levels, with these entries."""
    memory = PhysMem(RAM)
    memory.store(ROOT + 8 * 1, top)
    memory.store(L2 + 8 * 3, third)
    memory.store(L1 + 8 * 3, second)
    memory.store(L0 + 8 * 7, last)
    return memory


def run(memory: PhysMem, *, write: bool = False, iova: int = IOVA, scalable: bool = False) -> Walk:
    """Walk the four-level table."""
    return walk(memory, SecondStage(), ROOT, 4, iova, write, scalable=scalable)


def test_four_levels_to_a_4k_page() -> None:
    outcome = run(table())
    assert outcome.translation == Translation(0x1234_5ABC, 0, True, True, False)
    assert outcome.reason is Reason.NONE
    assert [(step.level, step.table, step.index, step.address) for step in outcome.steps] == [
        (3, ROOT, 1, 0x10008), (2, L2, 3, 0x20018), (1, L1, 3, 0x30018), (0, L0, 7, 0x40038),
    ]  # fmt: skip
    assert outcome.explain() == [
        "read of iova 0x80c0607abc",
        "  level 3: table 0x10000 [1] at 0x10008 = 0x0000000000020003: RW table 0x20000",
        "  level 2: table 0x20000 [3] at 0x20018 = 0x0000000000030003: RW table 0x30000",
        "  level 1: table 0x30000 [3] at 0x30018 = 0x0000000000040003: RW table 0x40000",
        "  level 0: table 0x40000 [7] at 0x40038 = 0x0000000012345003: RW page 0x12345000 of 0x1000 bytes",
        "  -> 0x12345abc RW",
    ]


def test_large_pages_take_more_of_the_iova() -> None:
    outcome = run(table(second=0x1_2340_0883))
    assert outcome.translation == Translation(0x1_2340_7ABC, 1, True, True, True)
    assert outcome.explain()[-1] == "  -> 0x123407abc RW SNP"
    outcome = run(table(third=0xC0_4000_0081))
    assert outcome.translation == Translation(0xC0_4060_7ABC, 2, True, False, False)


@pytest.mark.parametrize("levels", [3, 5])
def test_other_depths(levels: int) -> None:
    memory = PhysMem()
    iova = (1 << (12 + 9 * levels)) - 1
    for level in range(levels - 1, 0, -1):
        memory.store(0x1000 * (level + 1) + 8 * 511, 0x1000 * level | 3)
    memory.store(0x1000 + 8 * 511, 0xABC_D003)
    outcome = walk(memory, SecondStage(), 0x1000 * levels, levels, iova, True)
    assert outcome.translation == Translation(0xABC_DFFF, 0, True, True, False)
    assert len(outcome.steps) == levels


def test_rights_are_the_and_of_all_levels() -> None:
    memory = table(top=L2 | 1, third=L1 | 3, last=0x5003)
    assert run(memory).translation == Translation(0x5ABC, 0, True, False, False)
    assert run(memory, write=True).reason is Reason.WRITE_DENIED
    assert len(run(memory, write=True).steps) == 1  # judged at the entry that lacks the right
    write_only = table(last=0x5002)
    assert run(write_only, write=True).translation == Translation(0x5ABC, 0, False, True, False)
    assert run(write_only).reason is Reason.READ_DENIED
    disjoint = table(top=L2 | 1, second=L0 | 2)
    assert run(disjoint).reason is Reason.READ_DENIED
    assert run(disjoint, scalable=True).reason is Reason.SM_READ_DENIED


R = Reason


@pytest.mark.parametrize(
    ("memory", "write", "legacy", "scalable", "steps"),
    [
        (table(last=0), False, R.READ_DENIED, R.SM_ENTRY_NOT_PRESENT, 4),
        (table(last=0), True, R.WRITE_DENIED, R.SM_ENTRY_NOT_PRESENT, 4),
        (table(top=0x5A0), True, R.WRITE_DENIED, R.SM_ENTRY_NOT_PRESENT, 1),
        (table(last=0x5001), True, R.WRITE_DENIED, R.SM_WRITE_DENIED, 4),
        (table(second=L0 | 2), False, R.READ_DENIED, R.SM_READ_DENIED, 3),
        (table(top=L2 | 0x83), False, R.ENTRY_RESERVED, R.SM_ENTRY_RESERVED, 1),
        (table(third=L1 | 0x803), False, R.ENTRY_RESERVED, R.SM_ENTRY_RESERVED, 2),
        (table(last=1 << 62 | 3), False, R.ENTRY_RESERVED, R.SM_ENTRY_RESERVED, 4),
        # permission before reserved bits, entry by entry
        (table(last=1 << 62 | 1), True, R.WRITE_DENIED, R.SM_WRITE_DENIED, 4),
        (table(last=1 << 62 | 1), False, R.ENTRY_RESERVED, R.SM_ENTRY_RESERVED, 4),
        (table(top=L2 | 1, third=1 << 62 | 3), True, R.WRITE_DENIED, R.SM_WRITE_DENIED, 1),
        # tables outside RAM
        (table(top=0x70003), False, R.TABLE_ACCESS, R.SM_TABLE_ACCESS, 2),
        (table(second=0x5_0003), False, R.TABLE_ACCESS, R.SM_TABLE_ACCESS, 4),
        (table(second=0x5_0001), True, R.WRITE_DENIED, R.SM_WRITE_DENIED, 3),
        # a page is never looked at, only its address
        (table(last=0xFEE0_0003), True, R.INTERRUPT_ADDRESS, R.SM_INTERRUPT_ADDRESS, 4),
        (table(last=0xFEEF_F003), False, R.INTERRUPT_ADDRESS, R.SM_INTERRUPT_ADDRESS, 4),
        (table(last=0xFEE0_0001), True, R.WRITE_DENIED, R.SM_WRITE_DENIED, 4),
        (table(last=0xFEF0_0003), True, R.NONE, R.NONE, 4),
    ],
)  # fmt: skip
def test_reasons(memory: PhysMem, write: bool, legacy: Reason, scalable: Reason, steps: int) -> None:
    for codes, wanted in ((False, legacy), (True, scalable)):
        outcome = run(memory, write=write, scalable=codes)
        assert outcome.reason is wanted, "\n".join(outcome.explain())
        assert outcome.ok is (wanted is Reason.NONE)
        assert len(outcome.steps) == steps


def test_a_large_page_over_the_interrupt_range_is_judged_by_the_byte() -> None:
    memory = table(second=0xFEE0_0083)  # 2 MiB: 0xFEE00000..0xFEFFFFFF
    base = IOVA & ~0x1F_FFFF
    assert run(memory, iova=base | 0xF_FFFF).reason is Reason.INTERRUPT_ADDRESS
    outcome = run(memory, iova=base | 0x10_0000)
    assert outcome.translation == Translation(0xFEF0_0000, 1, True, True, False)


def test_a_root_that_cannot_be_read() -> None:
    outcome = walk(PhysMem(RAM), SecondStage(), 0x70000, 4, 0, False)
    assert outcome.reason is Reason.CONTEXT_INVALID
    assert outcome.explain()[1:] == [
        "  level 3: table 0x70000 [0] at 0x70000 = unreadable: table cannot be read",
        "  -> fault 0x03 CONTEXT_INVALID",
    ]
    assert walk(PhysMem(RAM), SecondStage(), 0x70000, 4, 0, False, scalable=True).reason is (
        Reason.SM_TABLE_ROOT_ACCESS
    )


def test_width_comes_first() -> None:
    outcome = walk(PhysMem([]), SecondStage(), 0, 3, 1 << 39, True)
    assert outcome.reason is Reason.ADDRESS_BEYOND_WIDTH
    assert outcome.steps == ()
    assert run(table(), iova=1 << 48, scalable=True).reason is Reason.SM_ADDRESS_BEYOND_WIDTH
    assert run(table(), iova=(1 << 64) - 1).reason is Reason.ADDRESS_BEYOND_WIDTH


def test_interrupt_range() -> None:
    assert [in_interrupt_range(a) for a in (0xFEDF_FFFF, 0xFEE0_0000, 0xFEEF_FFFF, 0xFEF0_0000)] == [
        False, True, True, False,
    ]  # fmt: skip
    assert not in_interrupt_range(0x1_FEE0_0000)


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"root must be a page address below 2\*\*52, not 0x10008"):
        walk(PhysMem(), SecondStage(), 0x10008, 4, 0, False)
    with pytest.raises(ValueError, match=r"iova must fit 64 bits, not 0x10000000000000000"):
        walk(PhysMem(), SecondStage(), 0x10000, 4, 1 << 64, False)
