"""The format interface alone: every level, every page size, addresses 0, random and last."""

import random

import numpy as np
import pytest

from cocotb_tests.unit.pymodel.paging.support import interesting_addresses
from pymodel.paging.formats import Kind, SecondStage
from pymodel.paging.geometry import span
from pymodel.spec.params import IommuParams

FORMATS = [
    SecondStage(),
    SecondStage(haw=36, large_pages=0, snp_legal=False),
    SecondStage(haw=39, large_pages=1),
    SecondStage(haw=52, snp_legal=False),
]
IDS = [f"haw{format_.haw}-large{format_.large_pages}-snp{format_.snp_legal:d}" for format_ in FORMATS]
every_format = pytest.mark.parametrize("format_", FORMATS, ids=IDS)


def reference_kind(word: int, level: int, format_: SecondStage) -> Kind:
    """Facts A1 and J again, bit by bit, in the plainest words."""

    def bit(position: int) -> bool:
        return bool(word >> position & 1)

    if not bit(0) and not bit(1):
        return Kind.EMPTY
    leaf = level == 0 or (bit(7) and level <= format_.large_pages)
    if bit(62) or any(bit(position) for position in range(format_.haw, 52)):
        return Kind.RESERVED
    if leaf:
        if bit(11) and not format_.snp_legal:
            return Kind.RESERVED
        if level == 1 and any(bit(position) for position in range(12, 21)):
            return Kind.RESERVED
        if level == 2 and any(bit(position) for position in range(12, 30)):
            return Kind.RESERVED
        return Kind.LEAF
    if bit(11) or bit(7):  # bit 7 of a pointer: PS where no leaf can be
        return Kind.RESERVED
    return Kind.TABLE


@every_format
def test_leaves_carry_address_and_attributes(format_: SecondStage) -> None:
    rng = random.Random(10)
    for level in range(format_.max_leaf_level + 1):
        for address in interesting_addresses(level, format_.haw, rng):
            for r, w in ((True, True), (True, False), (False, True)):
                for snp in (False, True) if format_.snp_legal else (False,):
                    word = format_.make_leaf(address, level, r, w, snp)
                    entry = format_.classify(word, level)
                    assert entry.kind is Kind.LEAF, entry.reason
                    assert (entry.address, entry.r, entry.w, entry.snp) == (address, r, w, snp)
                    assert (entry.accessed, entry.dirty, entry.reserved) == (False, False, 0)
                    assert entry.word == word
                    assert entry.level == level


@every_format
def test_pointers_can_be_read_back_and_put_again(format_: SecondStage) -> None:
    rng = random.Random(11)
    for level in range(1, 5):
        for address in interesting_addresses(0, format_.haw, rng):
            entry = format_.classify(format_.make_table(address, level), level)
            assert entry.kind is Kind.TABLE
            assert (entry.address, entry.r, entry.w) == (address, True, True)
    assert format_.classify(format_.empty, 3).kind is Kind.EMPTY


@every_format
def test_every_single_bit_against_the_plain_reading(format_: SecondStage) -> None:
    for level in range(5):
        for base in (0, 1, 2, 3, 0x81, 0x83, 0x883):
            for position in range(64):
                word = base | 1 << position
                assert format_.classify(word, level).kind is reference_kind(word, level, format_), (
                    level, hex(word),
                )  # fmt: skip


@every_format
def test_reserved_bits_are_named(format_: SecondStage) -> None:
    for level in range(5):
        for leaf in (False, True):
            if (level == 0 and not leaf) or (leaf and level > format_.max_leaf_level):
                continue
            mask = format_.reserved_mask(level, leaf)
            shape = 1 | (1 << 7 if leaf and level else 0)
            for position in range(64):
                if mask >> position & 1:
                    entry = format_.classify(shape | 1 << position, level)
                    assert entry.kind is Kind.RESERVED
                    assert entry.reserved == 1 << position
                    assert entry.reason == f"reserved bit {position} set"
    assert format_.classify(0x1 | 1 << 62 | 1 << 11, 4).reason == "reserved bits 11, 62 set"


@every_format
def test_random_words_one_by_one_and_as_arrays(format_: SecondStage) -> None:
    rng = np.random.default_rng(12)
    words = rng.integers(0, 1 << 64, 2000, dtype=np.uint64)
    masks = [(1 << 64) - 1, 0x83, 0xFFF, ((1 << format_.haw) - 1) & ~0x3FFF_F880, (1 << 52) - 1 & ~0x1F_F000]
    for mask in masks:
        thinned = words & np.uint64(mask)
        for level in range(5):
            many = format_.classify_words(thinned, level)
            for position, word in enumerate(thinned.tolist()[:400]):
                entry = format_.classify(word, level)
                assert entry.kind is reference_kind(word, level, format_), (level, hex(word))
                assert many.kind[position] == entry.kind.value
                if entry.kind is not Kind.EMPTY:
                    assert (many.r[position], many.w[position]) == (entry.r, entry.w)
                if entry.kind in (Kind.LEAF, Kind.TABLE):
                    assert int(many.address[position]) == entry.address
                    assert bool(many.snp[position]) == entry.snp


@every_format
def test_ignored_bits_change_nothing(format_: SecondStage) -> None:
    ignored = [2, 3, 4, 5, 6, 8, 9, 10, *range(52, 62), 63]
    for level in range(5):
        for word in (format_.make_table(0x1000, level),) if level else ():
            for position in ignored:
                entry = format_.classify(word | 1 << position, level)
                assert (entry.kind, entry.address) == (Kind.TABLE, 0x1000)
        if level <= format_.max_leaf_level:
            word = format_.make_leaf(span(level), level)
            for position in [*ignored, *([7] if level == 0 else [])]:
                entry = format_.classify(word | 1 << position, level)
                assert (entry.kind, entry.address) == (Kind.LEAF, span(level))


@every_format
def test_split_and_join_are_inverse_and_keep_attributes(format_: SecondStage) -> None:
    rng = random.Random(13)
    for level in range(1, format_.max_leaf_level + 1):
        for address in interesting_addresses(level, format_.haw, rng):
            extra = 1 << 59 | 1 << 8 | 0x70
            word = format_.make_leaf(address, level, True, False, format_.snp_legal, extra)
            for position in (0, 1, 255, 511):
                part = format_.split_leaf(word, level, position)
                entry = format_.classify(part, level - 1)
                assert entry.kind is Kind.LEAF
                assert entry.address == address + position * span(level - 1)
                assert (entry.r, entry.w, entry.snp) == (True, False, format_.snp_legal)
                assert part & extra == extra
            assert format_.join_leaf(format_.split_leaf(word, level, 0), level - 1) == word


def test_rights_and_pages_can_be_changed_alone() -> None:
    format_ = SecondStage()
    word = format_.make_leaf(0x4000_0000, 1, extra=1 << 9 | 1 << 57, snp=True)
    weaker = format_.restrict(word, 1, True, False)
    assert weaker == word & ~2
    assert format_.restrict(weaker, 1, True, True) == word
    moved = format_.move(word, 1, 0x20_0000)
    assert format_.classify(moved, 1).address == 0x20_0000
    assert moved ^ word == 0x4000_0000 ^ 0x20_0000


def test_kvm_words_read_as_the_facts_say() -> None:
    format_ = SecondStage()
    mmio = 0b110 | 0x3 << 12
    assert format_.classify(mmio, 0).kind is Kind.LEAF  # present and write-only for the IOMMU: the MMIO alias
    assert (format_.classify(mmio, 0).r, format_.classify(mmio, 0).w) == (False, True)
    assert format_.classify(0x5A0, 0).kind is Kind.EMPTY  # REMOVED_SPTE
    assert format_.classify(1 << 63 | 0x5A0, 1).kind is Kind.EMPTY  # FROZEN_SPTE
    assert format_.classify(0b100, 0).kind is Kind.EMPTY  # execute only
    pointer = 0x1234_5000 | 0x107 | 1 << 11  # KVM's present bit at 11: reserved in a pointer
    assert format_.classify(pointer, 3).reason == "reserved bit 11 set"
    assert format_.classify(pointer & ~(1 << 11) | 1 << 59, 3).kind is Kind.TABLE


def test_reasons_read_well() -> None:
    format_ = SecondStage()
    assert format_.classify(0, 2).reason == "R=W=0"
    assert format_.classify(0x5001, 3).reason == "R- table 0x5000"
    assert format_.classify(0x20_0883, 1).reason == "RW page 0x200000 of 0x200000 bytes, SNP"


def test_the_parameters_choose_the_format() -> None:
    params = IommuParams(haw=42, large_pages=1, snoop_control=False)
    assert SecondStage.of(params) == SecondStage(haw=42, large_pages=1, snp_legal=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("make_leaf(0x1000, 1)", r"page address at level 1 must be a multiple of 0x200000 .* not 0x1000"),
        ("make_leaf(1 << 48, 0)", r"multiple of 0x1000 below 2\*\*48, not 0x1000000000000"),
        ("make_leaf(0, 3)", r"leaves must be at level 0\.\.2, not 3"),
        ("make_leaf(0, 0, r=False, w=False)", r"a leaf must grant r or w"),
        ("make_leaf(0, 0, extra=1 << 62)", r"extra bits must be ignored ones .* not 0x4000000000000000"),
        ("make_leaf(0, 1, extra=1 << 7)", r"extra bits must be ignored ones"),
        ("make_table(0x800, 1)", r"table address must be a multiple of 0x1000"),
        ("make_table(0, 0)", r"table pointer must be at level 1\.\.4, not 0"),
        ("move(3, 2, 0x20_0000)", r"page address at level 2 must be a multiple of 0x40000000"),
        ("reserved_mask(3, True)", r"has no leaf at level 3"),
        ("reserved_mask(0, False)", r"has no pointer at level 0"),
        ("reserved_mask(5, False)", r"has no pointer at level 5"),
    ],
)
def test_misuse(call: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eval(f"format_.{call}", {"format_": SecondStage()})


def test_misuse_of_the_format_itself() -> None:
    with pytest.raises(ValueError, match=r"haw must be in 36\.\.52, not 53"):
        SecondStage(haw=53)
    with pytest.raises(ValueError, match=r"large_pages must be 0, 1 or 2, not 3"):
        SecondStage(large_pages=3)
    with pytest.raises(ValueError, match=r"snp must be false"):
        SecondStage(snp_legal=False).make_leaf(0, 0, snp=True)
