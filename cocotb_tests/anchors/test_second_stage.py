"""Second-stage entries (facts A1, J) and words that Linux wrote on a machine with VT-d."""

import pytest

from cocotb_tests.anchors.positions import check
from pymodel.paging.formats import Kind, SecondStage
from pymodel.spec import second_stage
from pymodel.spec.fields import Format


def test_sizes() -> None:
    assert second_stage.PAGE_BYTES == 4096
    assert second_stage.ENTRIES_PER_TABLE == 512
    assert (second_stage.LINE_BYTES, second_stage.ENTRIES_PER_LINE) == (64, 8)
    assert (second_stage.INTERRUPT_FIRST, second_stage.INTERRUPT_LAST) == (0xFEE00000, 0xFEEFFFFF)
    assert second_stage.LEVEL_NAMES == ("PTE", "PDE", "PDPE", "PML4E", "PML5E")


def test_index_bits() -> None:
    # PML5E 56:48, PML4E 47:39, PDPE 38:30, PDE 29:21, PTE 20:12
    for level, (msb, lsb) in enumerate([(20, 12), (29, 21), (38, 30), (47, 39), (56, 48)]):
        assert second_stage.level_shift(level) == lsb
        assert second_stage.index(1 << lsb, level) == 1
        assert second_stage.index(1 << msb, level) == 256
        assert second_stage.index(1 << (msb + 1) | 1 << (lsb - 1), level) == 0


COMMON = {
    "r": (0, 0), "w": (1, 1), "x": (2, 2), "a": (8, 8), "ignored_61_52": (61, 52), "ignored_63": (63, 63),
}  # fmt: skip
POINTER = {**COMMON, "ignored_6_3": (6, 3), "ignored_10_9": (10, 9), "address": (51, 12)}
LEAF = {**COMMON, "emt": (5, 3), "ipat": (6, 6), "d": (9, 9), "ignored_10": (10, 10), "snp": (11, 11)}


@pytest.mark.parametrize(
    ("format_", "fields", "reserved"),
    [
        (second_stage.SS_TABLE_TOP, POINTER, 0x4000_0000_0000_0880),  # 62, 11, 7
        (second_stage.SS_TABLE, {**POINTER, "ps": (7, 7)}, 0x4000_0000_0000_0800),  # 62, 11
        (second_stage.SS_LEAF_4K, {**LEAF, "ignored_7": (7, 7), "address": (51, 12)}, 0x4000_0000_0000_0000),
        # 2M: also 20:12; 1G: also 29:12
        (second_stage.SS_LEAF_2M, {**LEAF, "ps": (7, 7), "address": (51, 21)}, 0x4000_0000_001F_F000),
        (second_stage.SS_LEAF_1G, {**LEAF, "ps": (7, 7), "address": (51, 30)}, 0x4000_0000_3FFF_F000),
    ],
    ids=lambda value: value.name if isinstance(value, Format) else None,
)
def test_entries(format_: Format, fields: dict[str, tuple[int, int]], reserved: int) -> None:
    check(format_, 64, fields, reserved)
    looked_at = {"r", "w", "ps", "snp", "address"}
    assert {field.name for field in format_ if not field.ignored} == looked_at & set(fields)


def test_order_of_leaf_formats() -> None:
    assert [leaf.name for leaf in second_stage.LEAVES] == ["SS_LEAF_4K", "SS_LEAF_2M", "SS_LEAF_1G"]


@pytest.mark.parametrize(
    ("haw", "large_pages", "snoop", "level", "leaf", "mask"),
    [
        (48, 2, True, 0, True, 0x400F_0000_0000_0000),
        (48, 2, False, 0, True, 0x400F_0000_0000_0800),
        (48, 2, True, 1, True, 0x400F_0000_001F_F000),
        (48, 2, False, 2, True, 0x400F_0000_3FFF_F800),
        (48, 2, True, 1, False, 0x400F_0000_0000_0800),
        (48, 2, True, 2, False, 0x400F_0000_0000_0800),
        (48, 1, True, 2, False, 0x400F_0000_0000_0880),
        (48, 0, True, 1, False, 0x400F_0000_0000_0880),
        (48, 2, True, 3, False, 0x400F_0000_0000_0880),
        (48, 2, False, 4, False, 0x400F_0000_0000_0880),
        (39, 2, True, 0, True, 0x400F_FF80_0000_0000),
        (39, 2, True, 3, False, 0x400F_FF80_0000_0880),
        (36, 2, True, 2, False, 0x400F_FFF0_0000_0800),
        (52, 2, True, 0, True, 0x4000_0000_0000_0000),
        (52, 2, True, 3, False, 0x4000_0000_0000_0880),
    ],
)
def test_reserved_masks(haw: int, large_pages: int, snoop: bool, level: int, leaf: bool, mask: int) -> None:
    assert SecondStage(haw, large_pages, snoop).reserved_mask(level, leaf) == mask


@pytest.mark.parametrize(
    ("word", "level", "kind", "address"),
    [
        (0x1FEED003, 3, Kind.TABLE, 0x1FEED000),
        (0x1FEEE003, 2, Kind.TABLE, 0x1FEEE000),
        (0x1FEEF003, 1, Kind.TABLE, 0x1FEEF000),
        (0x0AC00083, 1, Kind.LEAF, 0x0AC00000),
        (0x1FEEC003, 0, Kind.LEAF, 0x1FEEC000),
    ],
)
def test_words_that_linux_wrote(word: int, level: int, kind: Kind, address: int) -> None:
    format_ = SecondStage(48, 2, False)
    entry = format_.classify(word, level)
    assert (entry.kind, entry.address, entry.r, entry.w) == (kind, address, True, True)
    again = format_.make_table(address, level) if kind is Kind.TABLE else format_.make_leaf(address, level)
    assert again == word


def test_fields_of_a_kvm_entry() -> None:
    # EPT leaf of guest RAM: R, W, X, memory type 6, IPAT, PS, A, D; KVM's markers at 57, 58 and 59
    word = 0x0E00_0001_2340_03F7
    assert second_stage.SS_LEAF_2M.unpack(word) == {
        "r": 1, "w": 1, "x": 1, "emt": 6, "ipat": 1, "ps": 1, "a": 1, "d": 1, "ignored_10": 0, "snp": 0,
        "address": 0x91A, "ignored_61_52": 0xE0, "ignored_63": 0,
    }  # fmt: skip
    assert word & second_stage.SS_LEAF_2M.reserved == 0
