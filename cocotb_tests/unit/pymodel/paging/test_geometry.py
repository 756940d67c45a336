"""Sizes, indices, covers: each against a brute-force second answer."""

import random

import pytest

from pymodel.paging.geometry import (
    PAGE,
    Block,
    Range,
    best_level,
    cover,
    entries,
    entry_address,
    exact_blocks,
    index,
    shift,
    span,
    width,
)


def test_sizes_are_those_of_the_architecture() -> None:
    assert [shift(level) for level in range(5)] == [12, 21, 30, 39, 48]
    assert [span(level) for level in range(3)] == [0x1000, 0x20_0000, 0x4000_0000]
    assert [width(levels) for levels in (3, 4, 5)] == [39, 48, 57]


def test_levels_take_disjoint_bits_that_cover_the_width() -> None:
    for levels in (3, 4, 5):
        iova = (1 << width(levels)) - 1
        seen = 0xFFF
        for level in range(levels):
            bits = [bit for bit in range(64) if index(1 << bit, level)]
            assert len(bits) == 9
            assert not any(seen >> bit & 1 for bit in bits)
            seen |= sum(1 << bit for bit in bits)
            assert index(iova, level) == 511
        assert seen == iova


def test_entry_address() -> None:
    assert entry_address(0x1FEED000, 0xC000_0000, 2) == 0x1FEED018  # seen on a Linux machine
    assert entry_address(0x1FEEE000, 0xFFE0_0000, 1) == 0x1FEEEFF8


def test_best_level_against_trying_all() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        iova = rng.getrandbits(48) & -(1 << rng.randrange(12, 34))
        address = rng.getrandbits(48) & -(1 << rng.randrange(12, 34))
        length = (rng.getrandbits(rng.randrange(1, 34)) + 1) * PAGE
        top = rng.randrange(3)
        wanted = max(
            level
            for level in range(top + 1)
            if iova % span(level) == 0 and address % span(level) == 0 and span(level) <= length
        )
        assert best_level(iova, address, length, top) == wanted


def test_cover_is_the_smallest_block() -> None:
    rng = random.Random(4)
    for _ in range(2000):
        start = rng.getrandbits(30)
        range_ = Range(start, start + rng.getrandbits(rng.randrange(1, 24)) + 1)
        block = cover(range_)
        assert block.range.covers(range_)
        assert block.start % (PAGE << block.am) == 0
        if block.am:
            half = PAGE << (block.am - 1)
            assert not any(
                Range(half_start, half_start + half).covers(range_)
                for half_start in (block.start, block.start + half)
            )


@pytest.mark.parametrize(
    ("start", "end", "block"),
    [
        (0, 1, Block(0, 0)),
        (0xFFFF_D000, 0xFFFF_E000, Block(0xFFFF_D000, 0)),
        (0x1000, 0x3000, Block(0, 2)),  # two pages over a boundary need four
        (0x1F_F000, 0x20_1000, Block(0, 10)),  # and over a 2 MiB boundary 1024
        (0xFF80_0000, 0xFFC0_0000, Block(0xFF80_0000, 10)),  # seen: 4 MiB, AM=10
    ],
)
def test_cover_by_hand(start: int, end: int, block: Block) -> None:
    assert cover(Range(start, end)) == block


def test_exact_blocks_hold_the_range_and_nothing_else() -> None:
    rng = random.Random(5)
    for _ in range(500):
        first = rng.getrandbits(12)
        pages = rng.getrandbits(10) + 1
        top = rng.choice([0, 3, 18, 52])
        blocks = list(exact_blocks(Range(first * PAGE, (first + pages) * PAGE), top))
        at = first * PAGE
        for block in blocks:
            assert block.start == at
            assert block.start % (PAGE << block.am) == 0
            assert block.am <= top
            at = block.range.end
        assert at == (first + pages) * PAGE
    assert list(exact_blocks(Range(0, 4 * PAGE))) == [Block(0, 2)]


def test_entries_cut_a_range_at_the_spans() -> None:
    assert list(entries(Range(0x1F_F000, 0x60_1000), 1)) == [
        Range(0x1F_F000, 0x20_0000), Range(0x20_0000, 0x40_0000), Range(0x40_0000, 0x60_0000),
        Range(0x60_0000, 0x60_1000),
    ]  # fmt: skip


def test_range_relations() -> None:
    one = Range(0x1000, 0x3000)
    assert one.size == 0x2000
    assert 0x2FFF in one
    assert 0x3000 not in one
    assert one.overlaps(Range(0x2FFF, 0x3000))
    assert not one.overlaps(Range(0x3000, 0x4000))
    assert one.covers(Range(0x1000, 0x3000))
    assert not one.covers(Range(0xFFF, 0x3000))
    assert Range.of_entry(0xABCDE123, 1) == Range(0xABC0_0000, 0xABE0_0000)
    assert str(one) == "0x1000..0x3000"


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"range 0x1000\.\.0x1000 must not be empty"):
        Range(0x1000, 0x1000)
    with pytest.raises(ValueError, match=r"must consist of whole 4 KiB pages"):
        list(exact_blocks(Range(0x1000, 0x1800)))
    with pytest.raises(ValueError, match=r"0x1000, 0x800, length 0x1000 must be multiples of 4 KiB"):
        best_level(0x1000, 0x800, 0x1000, 2)
