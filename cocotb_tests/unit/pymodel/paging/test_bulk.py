"""The bulk walker gives, for every IOVA, exactly what the slow walk gives."""

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cocotb_tests.unit.pymodel.paging.support import Bench
from pymodel.memory import PhysMem
from pymodel.paging.bulk import BulkWalker
from pymodel.paging.formats import SecondStage
from pymodel.paging.geometry import index, shift, width
from pymodel.paging.walk import walk
from pymodel.spec.faults import Reason


def noise(rng: random.Random, levels: int, format_: SecondStage) -> tuple[PhysMem, int, list[int]]:
    """Memory with a table full of mistakes, its root, and IOVAs that get deep into it."""
    pages = [number << 12 for number in rng.sample(range(1, 64), 12)]
    hole = rng.choice(pages)
    ranges = [(0, hole + 0x400), (hole + 0x800, 1 << 45)] if rng.random() < 0.7 else None
    memory = PhysMem(ranges)
    root = pages[0]
    iovas: list[int] = []

    def entry(level: int) -> int:
        style = rng.random()
        rights = rng.choice([3, 3, 3, 1, 2, 0])
        if level and style < 0.65:
            word = rng.choice(pages) | rights
        else:
            size_bit = 0x80 if level else 0
            word = rng.getrandbits(format_.haw) & -(1 << shift(min(level, 2))) | rights | size_bit
            if rng.random() < 0.2:
                word = 0xFEE0_0000 & -(1 << shift(min(level, 2))) | word & 0xFFF
        if rng.random() < 0.15:
            word |= 1 << rng.randrange(64)
        if rng.random() < 0.02:
            word |= rng.choice([1 << 46, 0x7000_0000])
        return word

    for page in pages:
        for position in rng.sample(range(512), 40):
            memory.store(page + 8 * position, entry(rng.randrange(levels)))
    # Paths through non-empty entries; the rest of the bits at random.
    for _ in range(150):
        table, iova = root, rng.getrandbits(12)
        for level in range(levels - 1, -1, -1):
            words = memory.page_words(table)
            used = np.flatnonzero(words).tolist() if words is not None else []
            position = rng.choice(used) if used and rng.random() < 0.95 else rng.randrange(512)
            iova |= position << shift(level)
            decoded = format_.classify(memory.load(table + 8 * position), level)
            table = decoded.address & -4096 if decoded.kind.name == "TABLE" else rng.choice(pages)
        iovas.append(iova)
    iovas += [rng.getrandbits(width(levels)) for _ in range(20)]
    iovas += [1 << width(levels), (1 << 64) - 1, 1 << 63, (1 << width(levels)) - 1, 0, iovas[0] | 1 << 60]
    return memory, root, iovas


def compare(
    memory: PhysMem, format_: SecondStage, root: int, levels: int, iovas: list[int], scalable: bool
) -> set[Reason]:
    """Compare all outcomes for reads and writes; returns the reasons that were met."""
    walker = BulkWalker(memory, format_, root, levels, scalable=scalable)
    vector = np.array(iovas, dtype=np.uint64)
    seen: set[Reason] = set()
    for write in (False, True):
        many = walker.walk(vector, write)
        for position, iova in enumerate(iovas):
            one = walk(memory, format_, root, levels, iova, write, scalable=scalable)
            found = (
                bool(many.ok[position]), int(many.address[position]), int(many.level[position]),
                bool(many.r[position]), bool(many.w[position]), bool(many.snp[position]),
                Reason(int(many.reason[position])),
            )  # fmt: skip
            t = one.translation
            wanted = (True, t.address, t.level, t.r, t.w, t.snp) if t else (False, 0, 0, False, False, False)
            assert found == (*wanted, one.reason), "\n".join(one.explain())
            seen.add(one.reason)
    return seen


@pytest.mark.parametrize("levels", [3, 4, 5])
@pytest.mark.parametrize("scalable", [False, True], ids=["legacy", "scalable"])
def test_tables_full_of_mistakes(levels: int, scalable: bool) -> None:
    seen: set[Reason] = set()
    for seed in range(40):
        rng = random.Random(f"{levels} {seed}")
        format_ = SecondStage(rng.choice([40, 46, 52]), rng.randrange(3), rng.random() < 0.5)
        memory, root, iovas = noise(rng, levels, format_)
        seen |= compare(memory, format_, root, levels, iovas, scalable)
    legacy = {
        Reason.NONE, Reason.ADDRESS_BEYOND_WIDTH, Reason.WRITE_DENIED, Reason.READ_DENIED,
        Reason.TABLE_ACCESS, Reason.ENTRY_RESERVED, Reason.INTERRUPT_ADDRESS,
    }  # fmt: skip
    published = {
        Reason.NONE, Reason.SM_ADDRESS_BEYOND_WIDTH, Reason.SM_WRITE_DENIED, Reason.SM_READ_DENIED,
        Reason.SM_TABLE_ACCESS, Reason.SM_ENTRY_RESERVED, Reason.SM_INTERRUPT_ADDRESS,
        Reason.SM_ENTRY_NOT_PRESENT,
    }  # fmt: skip
    every = published if scalable else legacy
    assert seen >= every  # the comparison met every outcome


@given(seed=st.integers(0, 1 << 32), levels=st.sampled_from([3, 4, 5]), scalable=st.booleans())
@settings(max_examples=40, deadline=None)
def test_any_seed(seed: int, levels: int, scalable: bool) -> None:
    rng = random.Random(seed)
    format_ = SecondStage(rng.randrange(40, 53), rng.randrange(3), rng.random() < 0.5)
    memory, root, iovas = noise(rng, levels, format_)
    compare(memory, format_, root, levels, iovas, scalable)


def test_many_chunks_of_a_proper_table() -> None:
    bench = Bench()
    bench.map(0, 1 << 30, 1 << 30)
    bench.map(1 << 30, 1 << 21, 1 << 22, w=False)
    bench.map((1 << 30) + (1 << 22), 0x5000, 80 << 21, snp=True)  # more tables than are compiled at a time
    rng = np.random.default_rng(6)
    iovas = rng.integers(0, 5 << 28, 100_000, dtype=np.uint64)
    write: npt.NDArray[np.bool_] = rng.random(len(iovas)) < 0.5
    many = BulkWalker(bench.memory, bench.format, bench.table.root, 4).walk(iovas, write)
    gigabyte = iovas < 1 << 30
    assert many.ok[gigabyte].all()
    assert (many.level[gigabyte] == 2).all()
    assert (many.address[gigabyte] == iovas[gigabyte] + np.uint64(1 << 30)).all()
    large = ~gigabyte & (iovas < (1 << 30) + (1 << 22))
    assert (many.ok[large] == ~write[large]).all()
    small = ~gigabyte & ~large & (iovas < (1 << 30) + (82 << 21))
    assert many.snp[small].all()
    assert (many.address[small] == iovas[small] - np.uint64((1 << 30) + (1 << 22) - 0x5000)).all()
    assert not many.snp[~small].any()
    assert (many.level[small] == 0).all()
    beyond = iovas >= (1 << 30) + (82 << 21)
    assert not many.ok[beyond].any()
    assert set(many.reason[beyond].tolist()) == {Reason.READ_DENIED, Reason.WRITE_DENIED}


def test_it_is_a_snapshot() -> None:
    bench = Bench()
    bench.map(0x1000, 0x5000, 0x1000)
    walker = BulkWalker(bench.memory, bench.format, bench.table.root, 4)
    bench.unmap(0x1000, 0x1000)
    iovas = np.array([0x1234], dtype=np.uint64)
    assert int(walker.walk(iovas).address[0]) == 0x5234
    assert not BulkWalker(bench.memory, bench.format, bench.table.root, 4).walk(iovas).ok[0]


def test_tables_that_point_to_themselves_and_to_nothing() -> None:
    memory = PhysMem()
    for position in range(512):
        memory.store(0x1000 + 8 * position, (0x1000 if position % 2 else 0x10_0000 + (position << 12)) | 3)
    iovas = [0, 0x1FF << 39 | 0x1FF << 30 | 0x1FF << 21 | 0x1FF << 12, 1 << 39, 0x1 << 39 | 0x2 << 30]
    assert index(iovas[2], 3) == 1
    compare(memory, SecondStage(), 0x1000, 4, iovas, False)
    # at each level below the root: itself, and one table for the 256 that were never written
    assert BulkWalker(memory, SecondStage(), 0x1000, 4).tables == 1 + 3 * 2


def test_an_empty_array_and_an_empty_table() -> None:
    walker = BulkWalker(PhysMem(), SecondStage(), 0x1000, 4)
    assert len(walker.walk(np.zeros(0, dtype=np.uint64)).ok) == 0
    assert walker.walk(np.zeros(3, dtype=np.uint64), True).reason.tolist() == [Reason.WRITE_DENIED] * 3
    hidden = BulkWalker(PhysMem([]), SecondStage(), 0x1000, 4, scalable=True)
    assert hidden.walk(np.zeros(1, dtype=np.uint64)).reason.tolist() == [Reason.SM_TABLE_ROOT_ACCESS]


def test_misuse() -> None:
    walker = BulkWalker(PhysMem(), SecondStage(), 0x1000, 4)
    with pytest.raises(ValueError, match=r"vector of uint64, not 1 dimensions of int64"):
        walker.walk(np.zeros(1, dtype=np.int64))
    with pytest.raises(ValueError, match=r"write must be one bool or 2 of them, not \(3,\)"):
        walker.walk(np.zeros(2, dtype=np.uint64), np.zeros(3, dtype=np.bool_))
    with pytest.raises(ValueError, match=r"root must be a page address below 2\*\*52, not 0x1001"):
        BulkWalker(PhysMem(), SecondStage(), 0x1001, 4)
