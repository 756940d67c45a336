"""Root, context and PASID structures (facts A4, J) and entries that Linux wrote."""

import pytest

from cocotb_tests.anchors.positions import check
from pymodel.spec import context

ONES = 0xFFFF_FFFF_FFFF_FFFF


def test_codes() -> None:
    assert context.ADDRESS_WIDTH_LEVELS == {1: 3, 2: 4, 3: 5}
    assert (context.TTM_LEGACY, context.TTM_SCALABLE, context.TTM_ABORT) == (0b00, 0b01, 0b11)
    assert (context.TT_UNTRANSLATED, context.TT_DEVICE_TLB, context.TT_PASS_THROUGH) == (0, 1, 2)
    assert (context.PGTT_SECOND_STAGE, context.PGTT_PASS_THROUGH) == (2, 4)


def test_root_pointer() -> None:
    check(context.RTADDR, 64, {"ttm": (11, 10), "address": (63, 12)}, 0x3FF)
    assert context.RTADDR.unpack(0x5EDB000) == {"ttm": 0, "address": 0x5EDB}
    assert context.RTADDR.pack(address=0x5EDB, ttm=context.TTM_SCALABLE) == 0x5EDB400


def test_legacy_structures() -> None:
    check(context.LEGACY_ROOT, 128, {"p": (0, 0), "context_table": (63, 12)}, ONES << 64 | 0xFFE)
    check(
        context.LEGACY_CONTEXT,
        128,
        {"p": (0, 0), "fpd": (1, 1), "tt": (3, 2), "table": (63, 12), "aw": (66, 64),
         "ignored_70_67": (70, 67), "did": (87, 72)},
        0xFFFF_FFFF_FF00_0080 << 64 | 0xFF0,
    )  # fmt: skip
    assert context.LEGACY_CONTEXT["ignored_70_67"].ignored


def test_scalable_structures() -> None:
    check(context.SCALABLE_ROOT_HALF, 64, {"p": (0, 0), "context_table": (63, 12)}, 0xFFE)
    check(
        context.SCALABLE_CONTEXT,
        256,
        {"p": (0, 0), "fpd": (1, 1), "dte": (2, 2), "paside": (3, 3), "pre": (4, 4), "pdts": (11, 9),
         "pasid_directory": (63, 12), "rid_pasid": (83, 64), "rid_priv": (84, 84)},
        ONES << 192 | ONES << 128 | 0xFFFF_FFFF_FFE0_0000 << 64 | 0x1E0,
    )  # fmt: skip
    check(context.PASID_DIRECTORY, 64, {"p": (0, 0), "fpd": (1, 1), "table": (63, 12)}, 0xFFC)


def test_pasid_entry() -> None:
    check(
        context.PASID_ENTRY,
        512,
        {"p": (0, 0), "fpd": (1, 1), "aw": (4, 2), "ssee": (5, 5), "pgtt": (8, 6), "ssade": (9, 9),
         "table": (63, 12),
         # qw1, plus 64
         "did": (79, 64), "pwsnp": (87, 87), "pgsnp": (88, 88), "cd": (89, 89), "emte": (90, 90),
         "emt": (93, 91), "pwt": (94, 94), "pcd": (95, 95), "pat": (127, 96),
         # qw2 belongs to the first stage
         "first_stage": (191, 128)},
        ONES << 448 | ONES << 384 | ONES << 320 | ONES << 256 | ONES << 192 | 0x7F_0000 << 64 | 0xC00,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "fields"),
    [
        # 3-level (39-bit) domains 2 and 3, 4-level domains 2, 3 and 7; TT=0
        (0x5F41001, 0x201, {"table": 0x5F41, "aw": 1, "did": 2}),
        (0x5F45001, 0x301, {"table": 0x5F45, "aw": 1, "did": 3}),
        (0xBB01001, 0x202, {"table": 0xBB01, "aw": 2, "did": 2}),
        (0x575F001, 0x302, {"table": 0x575F, "aw": 2, "did": 3}),
        (0x579D001, 0x702, {"table": 0x579D, "aw": 2, "did": 7}),
    ],
)
def test_context_entries_that_linux_wrote(low: int, high: int, fields: dict[str, int]) -> None:
    word = high << 64 | low
    assert context.LEGACY_CONTEXT.pack(p=1, **fields) == word
    decoded = context.LEGACY_CONTEXT.unpack(word)
    assert decoded == {"p": 1, "fpd": 0, "tt": 0, "ignored_70_67": 0, **fields}
    assert word & context.LEGACY_CONTEXT.reserved == 0


def test_root_entries_that_linux_wrote() -> None:
    for low, table in ((0x5F42001, 0x5F42), (0xBB02001, 0xBB02), (0x575C001, 0x575C)):
        assert context.LEGACY_ROOT.pack(p=1, context_table=table) == low
        assert context.LEGACY_ROOT.unpack(low) == {"p": 1, "context_table": table}
