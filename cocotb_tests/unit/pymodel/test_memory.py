"""Physical memory and the explorer's memory."""

import random

import numpy as np
import pytest

from pymodel.memory import PhysMem, Ranges, SparseMem

TOP = (1 << 52) - 8


@pytest.fixture(params=[PhysMem, SparseMem])
def memory(request: pytest.FixtureRequest) -> PhysMem | SparseMem:
    """One of each kind, empty."""
    made: PhysMem | SparseMem = request.param()
    return made


def test_words_anywhere_in_52_bits(memory: PhysMem | SparseMem) -> None:
    for address in (0, 8, 0xFF8, 0x1000, 0xFEE0_0000, 1 << 40, TOP):
        assert memory.load(address) == 0
        memory.store(address, address ^ 0xFFFF_FFFF_FFFF_FFFF)
        assert memory.load(address) == address ^ 0xFFFF_FFFF_FFFF_FFFF
        memory.store(address, 0)
        assert memory.load(address) == 0


def test_lines_and_dwords_are_little_endian(memory: PhysMem | SparseMem) -> None:
    for position in range(8):
        memory.store(0x1040 + 8 * position, 0x0101_0101_0101_0101 * (position + 1))
    line = memory.read_line(0x1040)
    assert line.to_bytes(64, "little") == b"".join(bytes([position + 1] * 8) for position in range(8))
    memory.write_dword(0x1044, 0xAABB_CCDD)
    memory.write_dword(0x1048, 0x1122_3344)
    assert memory.load(0x1040) == 0xAABB_CCDD_0101_0101
    assert memory.load(0x1048) == 0x0202_0202_1122_3344
    assert memory.read_line(0x7000) == 0


def test_atomics(memory: PhysMem | SparseMem) -> None:
    assert memory.fetch_or(0x1000, 0x300) == 0
    assert memory.fetch_or(0x1000, 0x003) == 0x300
    assert memory.fetch_and(0x1000, 0x101) == 0x303
    assert memory.compare_exchange(0x1000, 0x100, 7) == 0x101
    assert memory.load(0x1000) == 0x101
    assert memory.compare_exchange(0x1000, 0x101, 7) == 0x101
    assert memory.load(0x1000) == 7


def test_random_accesses_against_a_dictionary(memory: PhysMem | SparseMem) -> None:
    rng = random.Random(1)
    pages = [rng.randrange(1 << 40) << 12 for _ in range(4)] + [0, TOP & -4096]
    reference: dict[int, int] = {}
    for _ in range(3000):
        address = rng.choice(pages) + 8 * rng.randrange(16)
        if rng.random() < 0.5:
            reference[address] = rng.getrandbits(64) * rng.randrange(2)
            memory.store(address, reference[address])
        else:
            assert memory.load(address) == reference.get(address, 0)
        line = address & ~63
        expected = sum(reference.get(line + 8 * i, 0) << (64 * i) for i in range(8))
        assert memory.read_line(line) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("load(0x1001)", r"0x1001 must be a multiple of 8"),
        ("load(1 << 52)", r"0x10000000000000 lies outside the 52-bit space"),
        ("load(-8)", r"-0x8 lies outside the 52-bit space"),
        ("store(0x1004, 0)", r"0x1004 must be a multiple of 8"),
        ("store(0x1000, 1 << 64)", r"0x10000000000000000 does not fit 64 bits"),
        ("store(0x1000, -1)", r"-0x1 does not fit 64 bits"),
        ("read_line(0x1020)", r"0x1020 must be a multiple of 64"),
        ("read_line(1 << 52)", r"lies outside the 52-bit space"),
        ("write_dword(0x1002, 0)", r"0x1002 must be a multiple of 4"),
        ("write_dword(0x1004, 1 << 32)", r"0x100000000 does not fit 32 bits"),
        ("fetch_or(0x1001, 1)", r"0x1001 must be a multiple of 8"),
        ("compare_exchange(1 << 52, 0, 0)", r"outside the 52-bit space"),
    ],
)
def test_misuse(memory: PhysMem | SparseMem, call: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eval(f"memory.{call}")


def test_ranges_decide_what_can_be_read() -> None:
    memory = PhysMem([(0x8000_0000, 0x9000_0000), (0, 0x9_FC00)])
    cases = [(0, True), (0x9_FBC0, True), (0x9_FBF8, True), (0x9_FC00, False), (0x8000_0000, True),
             (0x7FFF_FFF8, False), (0x8FFF_FFC0, True), (0x9000_0000, False), (TOP, False)]  # fmt: skip
    for address, readable in cases:
        assert memory.readable(address) is readable, hex(address)
    assert not PhysMem([(0, 0x1020)]).readable(0x1000)  # only whole lines can be read
    assert PhysMem().readable(TOP)
    assert not PhysMem([]).readable(0)
    assert memory.ranges.contains(0x8000_0000, 0x9000_0000)
    assert not memory.ranges.contains(0x8000_0000, 0x9000_0040)


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0x1000, 0x1000)], r"range 0x1000\.\.0x1000 is empty"),
        ([(0, (1 << 52) + 1)], r"leaves 52 bits"),
        ([(0, 0x2000), (0x1000, 0x3000)], r"0x1000\.\.0x3000 overlaps the one that ends at 0x2000"),
    ],
)
def test_bad_ranges(spans: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Ranges(spans)


def test_observers_see_every_change_once_and_nothing_else() -> None:
    memory = PhysMem()
    seen: list[tuple[int, int, int]] = []
    memory.store(0x1000, 1)
    memory.observers.append(lambda address, old, new: seen.append((address, old, new)))
    memory.store(0x1000, 1)
    memory.store(0x1000, 2)
    memory.fetch_or(0x1000, 2)
    memory.fetch_or(0x1000, 4)
    memory.compare_exchange(0x1000, 5, 9)
    memory.write_dword(0x100C, 3)
    words = np.zeros(512, dtype=np.uint64)
    words[0], words[511] = 6, 7
    memory.store_words(0x1000, words)
    assert seen == [
        (0x1000, 1, 2), (0x1000, 2, 6), (0x1008, 0, 3 << 32), (0x1008, 3 << 32, 0), (0x1FF8, 0, 7),
    ]  # fmt: skip
    memory.clear_page(0x1000)
    assert seen[5:] == [(0x1000, 6, 0), (0x1FF8, 7, 0)]
    assert list(memory.pages()) == []


def test_cleared_page_takes_no_memory_and_can_be_written_again() -> None:
    memory = PhysMem()
    for round_ in range(1, 4):
        for page in range(0, 0x8000, 0x1000):
            memory.store(page + 8, round_)
            view = memory.page_words(page)
            assert view is not None
            memory.clear_page(page)
            assert not view.any()
            assert memory.page_words(page) is None
            assert memory.load(page + 8) == 0
        assert list(memory.pages()) == []
    memory.store(0x1008, 9)
    assert memory.load(0x1008) == 9


def test_numpy_and_integers_see_the_same_page() -> None:
    memory = PhysMem()
    assert memory.page_words(0x5000) is None
    memory.store(0x5008, 5)
    view = memory.page_words(0x5000)
    assert view is not None
    assert view[1] == 5
    memory.store(0x5010, 1 << 63)
    assert view[2] == 1 << 63
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    words = np.arange(512, dtype=np.uint64)
    memory.store_words(0x9000, words)
    assert memory.load(0x9000 + 8 * 77) == 77
    assert list(memory.pages()) == [0x5000, 0x9000]
    with pytest.raises(ValueError, match=r"512 words of uint64, not \(511,\)"):
        memory.store_words(0x9000, words[1:])
    with pytest.raises(ValueError, match=r"0x9008 must be a multiple of 4096"):
        memory.page_words(0x9008)
    with pytest.raises(ValueError, match=r"0x9008 must be a multiple of 4096"):
        memory.clear_page(0x9008)


def test_a_copy_of_physical_memory_is_independent() -> None:
    memory = PhysMem([(0, 0x2000)])
    memory.store(0x1000, 1)
    other = memory.copy()
    other.store(0x1000, 2)
    memory.store(0x1008, 3)
    assert (memory.load(0x1000), other.load(0x1000), other.load(0x1008)) == (1, 2, 0)
    assert not other.readable(0x2000)


def test_sparse_memory_is_a_value() -> None:
    one, two = SparseMem({0x1000: 1, 0x2000: 2}), SparseMem({0x2000: 2})
    two.store(0x1000, 9)
    two.store(0x1000, 1)
    two.store(0x3000, 5)
    assert one != two
    two.store(0x3000, 0)
    assert one == two
    assert hash(one) == hash(two)
    assert {one: "seen"}[two] == "seen"
    assert one != "something else"
    assert repr(one) == "SparseMem({0x1000: 0x1, 0x2000: 0x2})"


def test_sparse_copies_do_not_see_each_other() -> None:
    rng = random.Random(2)
    family: list[tuple[SparseMem, dict[int, int]]] = [(SparseMem(), {})]
    for _ in range(400):
        memory, words = rng.choice(family)
        address, value = 8 * rng.randrange(6), rng.randrange(3)
        memory.store(address, value)
        words[address] = value
        if len(family) < 12 and rng.random() < 0.3:
            family.append((memory.copy(), dict(words)))
        for other, expected in family:
            assert dict(other.items()) == {a: v for a, v in expected.items() if v}


def test_a_hashed_memory_refuses_to_change() -> None:
    memory = SparseMem({0x1000: 1})
    hash(memory)
    memory.store(0x1000, 1)
    with pytest.raises(TypeError, match=r"hashed and must not change at 0x1000: store to a copy"):
        memory.store(0x1000, 2)
    successor = memory.copy()
    successor.store(0x1000, 2)
    assert (memory.load(0x1000), successor.load(0x1000)) == (1, 2)
