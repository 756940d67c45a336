"""Walks: timing, fills, reasons, the read port (W1..W10, T3, T5, C2)."""

import pytest

from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup
from pymodel.spec.params import IommuParams

from .bench import CONTEXT_TABLE, PS, ROOT_TABLE, RW, TABLE, Bench, ready_bench

NX = 1 << 62


def walked(bench: Bench, iova: int, **more) -> tuple[int, int]:
    """(cycles from acceptance to answer, reads) of one request."""
    reads = len(bench.reads)
    bench.idle(2)
    accepted = bench.submit(1, iova, **more)
    count = len(bench.answers)
    while len(bench.answers) == count:
        bench.tick()
    return bench.answers[-1].cycle - accepted, len(bench.reads) - reads


@pytest.mark.parametrize("latency", [1, 3, 10])
@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_walk_of_n_reads_takes_n_times_latency_plus_1_plus_2(latency: int, depth: int, level: int) -> None:
    """W4: cold page walk, then with the context walk, for every depth and page size."""
    bench = ready_bench(latency=latency, depth=depth)
    iova = 0x12_3456_7000
    bench.map(iova, 0x40_0000_0000 | RW | (PS if level else 0), level, depth)
    reads = depth - level
    assert walked(bench, iova) == ((reads + 2) * (latency + 1) + 3, reads + 2)
    answer = bench.answers[-1]
    assert (answer.level, answer.reason) == (level, 0)
    assert answer.address == 0x40_0000_0000 | iova & (1 << 12 + 9 * level) - 1
    bench.map(iova ^ 1 << 38, 0x40_0000_0000 | RW | (PS if level else 0), level, depth)
    cold = reads if depth == 3 else reads - (depth - 3)  # PSC 3 and up know the way to this table
    assert walked(bench, iova ^ 1 << 38) == (cold * (latency + 1) + 2, cold)


def test_warm_walk_reads_once() -> None:
    """T3, L8: the deepest pointer."""
    bench = ready_bench()
    for page in range(16):
        bench.map(page << 12, 0x9000 | RW)
    bench.ask(0)
    start = bench.cycle
    assert walked(bench, 0x8000) == (1 * 4 + 2, 1)
    levels = [seen["lookup_level"] for seen in bench.log[start:] if seen["lookup"] == Lookup.WALK]
    assert levels == [0]


def test_permissions_are_anded_on_the_way() -> None:
    """W8, T1, C2.1: also through a cached pointer."""
    bench = ready_bench()
    bench.map(0x1000, 0x9000 | RW, rw=1)
    assert bench.ask(0x1000, write=1).reason == Reason.WRITE_DENIED
    answer = bench.ask(0x1000)
    assert (answer.r, answer.w, answer.port) == (1, 0, "hits") or answer.reason == 0
    bench.map(0x9000, 0xA000 | 2, rw=1)
    start = len(bench.reads)
    assert bench.ask(0x9000).reason == Reason.READ_DENIED
    assert len(bench.reads) == start + 1


def test_walk_ends_where_nothing_is_left() -> None:
    """W8: r' = w' = 0 ends the walk although the entry is present."""
    bench = ready_bench()
    bench.map(0x1000, 0x9000 | RW, rw=1)
    bench.store(bench.entry_address(0x1000, 1), bench.load(bench.entry_address(0x1000, 1)) ^ 3)
    reads = len(bench.reads)
    assert bench.ask(0x1000, write=1).reason == Reason.WRITE_DENIED
    assert bench.reads[-1][2] == bench.entry_address(0x1000, 1) >> 6
    assert len(bench.reads) == reads + 5
    assert not any(seen["iotlb_fill"] for seen in bench.log)


CASES = [
    # level, entry, params, reason
    (0, 0x9000 | RW | NX, {}, Reason.ENTRY_RESERVED),
    (0, 0x9000 | NX, {}, Reason.READ_DENIED),
    (0, 1 << 48 | RW, {}, Reason.ENTRY_RESERVED),
    (0, 1 << 48 | RW, {"haw": 52}, 0),
    (0, 0x9000 | RW | 1 << 11, {}, 0),
    (0, 0x9000 | RW | 1 << 11, {"leaf_snp_legal": False}, Reason.ENTRY_RESERVED),
    (0, 0x9000 | RW | 1 << 11, {"snoop_control": False}, Reason.ENTRY_RESERVED),
    (0, 0x9000 | RW | 1 << 7, {}, 0),
    (0, 0x9000 | RW | 0x77C | 0x3FF << 52 | 1 << 63, {}, 0),
    (1, 0x20_0000 | RW | PS, {}, 0),
    (1, 0x20_0000 | RW | PS, {"large_pages": 0}, Reason.ENTRY_RESERVED),
    (1, 0x20_1000 | RW | PS, {}, Reason.ENTRY_RESERVED),
    (1, 0x20_0000 | RW | PS | 1 << 11, {"leaf_snp_legal": False}, Reason.ENTRY_RESERVED),
    (1, 0x20_0000 | RW | 1 << 11, {}, Reason.ENTRY_RESERVED),
    (2, 0x4000_0000 | RW | PS, {}, 0),
    (2, 0x4000_0000 | RW | PS, {"large_pages": 1}, Reason.ENTRY_RESERVED),
    (2, 0x4020_0000 | RW | PS, {}, Reason.ENTRY_RESERVED),
    (3, 0x4000_0000 | RW | PS, {}, Reason.ENTRY_RESERVED),
    (3, 0x4000_0000 | RW | NX, {}, Reason.ENTRY_RESERVED),
    (3, 0, {}, Reason.READ_DENIED),
    (1, NX, {}, Reason.READ_DENIED),
]


@pytest.mark.parametrize(("level", "entry", "params", "reason"), CASES)
@pytest.mark.parametrize("mode", [0, 1])
def test_entries(level: int, entry: int, params: dict, reason: int, mode: int) -> None:
    """W8, C2: reserved bits and large pages by level, K4, in both modes."""
    bench = Bench(IommuParams(**params))
    bench.scalable() if mode else bench.legacy()
    bench.map(0x0, entry, level)
    bench.enable(mode)
    scalable = {
        Reason.ENTRY_RESERVED: Reason.SM_ENTRY_RESERVED,
        Reason.READ_DENIED: Reason.SM_ENTRY_NOT_PRESENT,
        0: 0,
    }
    wanted = scalable[reason] if mode else reason
    assert bench.ask(0x0).reason == wanted
    filled = [seen["iotlb_fill_level"] for seen in bench.log if seen["iotlb_fill"]]
    assert filled == [level] * (reason == 0)


@pytest.mark.parametrize("mode", [0, 1])
def test_permission_reasons(mode: int) -> None:
    """C2.3: by mode and access."""
    bench = Bench()
    bench.scalable() if mode else bench.legacy()
    bench.map(0x0, 0x9000 | 1)
    bench.map(0x1000, 0x9000 | 2)
    bench.enable(mode)
    wanted = [Reason.SM_WRITE_DENIED, Reason.SM_ENTRY_NOT_PRESENT] if mode else [5, 6]
    assert [bench.ask(0, write=1).reason, bench.ask(0x20_0000).reason] == wanted


@pytest.mark.parametrize("mode", [0, 1])
def test_access_errors(mode: int) -> None:
    """W5, C2.2: at the root of the table and below it."""
    bench = Bench()
    bench.scalable() if mode else bench.legacy()
    bench.map(0x0, 0x9000 | RW)
    bench.enable(mode)
    bench.bad_lines = {bench.entry_address(0, 0) >> 6}
    below, root = Reason.TABLE_ACCESS, Reason.CONTEXT_INVALID
    if mode:
        below, root = Reason.SM_TABLE_ACCESS, Reason.SM_TABLE_ROOT_ACCESS
    assert bench.ask(0).reason == below
    bench.bad_lines = {TABLE >> 6}
    assert bench.ask(1 << 39).reason == root
    assert not any(seen["iotlb_fill"] for seen in bench.log)


def test_fills() -> None:
    """W9: sectors of pointers and of leaves; neighbours that are bad are left out."""
    bench = ready_bench()
    bench.map(0x0, 0x9000 | RW)
    bench.map(0x1000, 0x9000 | RW | NX)
    bench.map(0x2000, 0xFEE0_1000 | RW)
    bench.map(0x7000, 0x9000 | 2)
    bench.map(0x20_0000, 0x20_0000 | RW | PS, 1)
    bench.map(0x40_0000, 0x40_0000 | 1, 1)
    bench.ask(0x4000)
    fills = [seen for seen in bench.log if seen["psc_fill"]]
    assert [(seen["psc_fill_level"], seen["psc_fill_sectors"]) for seen in fills] == [
        (2, 1),
        (1, 1),
        (0, 0b101),
    ]
    (leaf,) = (seen for seen in bench.log if seen["iotlb_fill"])
    assert (leaf["iotlb_fill_level"], leaf["iotlb_fill_sectors"]) == (0, 0b1000_0001)
    assert bench.answers[-1].reason == Reason.READ_DENIED, (
        "the wanted entry was not present, its neighbours were"
    )


def test_no_fill_when_the_wanted_large_entry_is_bad() -> None:
    """W9: at levels 1 and 2 only a good leaf fills."""
    bench = ready_bench()
    bench.map(0x0, 0x20_0000 | RW | PS, 1)
    bench.map(0x20_0000, 0x20_1000 | RW | PS, 1)
    assert bench.ask(0x20_0000).reason == Reason.ENTRY_RESERVED
    assert not any(seen["iotlb_fill"] for seen in bench.log)
    assert bench.ask(0).reason == 0
    assert [seen["iotlb_fill_sectors"] for seen in bench.log if seen["iotlb_fill"]] == [1]


def test_lowest_index_wins_over_sizes() -> None:
    """T2: a 2 MiB leaf and a 4 KiB leaf of one address: the line with the lowest index."""
    bench = ready_bench()
    bench.map(0x0, 0x9000 | RW)
    bench.ask(0)
    bench.store(bench.entry_address(0, 1), 0x40_0000 | RW | PS)
    bench.ask(0x8000)
    assert bench.answers[-1].address != 0x40_8000, "the pointer was still cached"
    fresh = ready_bench()
    fresh.map(0x0, 0x40_0000 | RW | PS, 1)
    fresh.ask(0x0)
    assert fresh.ask(0x1000).address == 0x40_1000


def test_reads_take_turns_and_stay() -> None:
    """W2, P1: round robin over slots, an offered read stays."""
    bench = ready_bench()
    bench.ask(0)
    for page in range(1, 4):
        bench.submit(page, page << 39)
    bench.ready.reads_ready = False
    bench.idle(8)
    offered = bench.model.reads
    assert offered is not None
    bench.ready.reads_ready = True
    start = len(bench.reads)
    bench.idle(40)
    ids = [ident for _, ident, _ in bench.reads[start:]]
    assert ids[0] == offered[0]
    assert len(set(ids)) > 1


def test_read_addresses() -> None:
    """W3: lines of root, context and tables; addresses are cut to haw."""
    bench = Bench()
    bench.legacy(sid=0x1234)
    bench.enable()
    bench.ask(0x1000, sid=0x1234)
    lines = [line for _, _, line in bench.reads]
    assert lines[:3] == [(ROOT_TABLE + 16 * 0x12) >> 6, (CONTEXT_TABLE + 16 * 0x34) >> 6, TABLE >> 6]
    far = Bench(IommuParams(haw=36))
    far.write_register("RTADDR", ROOT_TABLE | 1 << 40)
    far.write_register("GCMD", 0xC000_0000)
    far.ask(0)
    assert far.reads[0][2] == ROOT_TABLE >> 6


def test_data_that_nobody_asked_for() -> None:
    """P3: the model refuses impossible inputs."""
    bench = ready_bench()
    bench.returns.append((0, (3, 0, 0)))
    with pytest.raises(ValueError, match="id 3"):
        bench.tick()


def test_replacement_and_eviction_events() -> None:
    """T4, T5: a hit protects its line."""
    bench = ready_bench(IommuParams(iotlb_entries=2))
    for page in range(4):
        bench.map(page << 15, 0x9000 | RW)
    bench.ask(0 << 15)
    bench.ask(1 << 15)
    bench.ask(0 << 15)
    bench.ask(2 << 15)
    fills = [seen for seen in bench.log if seen["iotlb_fill"]]
    assert [(seen["iotlb_fill_index"], seen["iotlb_evicted"]) for seen in fills] == [(0, 0), (1, 0), (1, 1)]
    assert bench.ask(0).port == "hits"
