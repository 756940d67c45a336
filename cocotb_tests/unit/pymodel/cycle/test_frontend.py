"""Front end: FIFOs, lookup, completions (F1..F3, L1..L8, C1..C4)."""

import pytest

from pymodel.spec.context import TTM_ABORT, TTM_SCALABLE
from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup
from pymodel.spec.params import IommuParams

from .bench import PS, RW, TABLE, Bench, ready_bench


def lookups(bench: Bench, start: int) -> list[int]:
    """Lookup events from a cycle on, without NONE."""
    return [seen["lookup"] for seen in bench.log[start:] if seen["lookup"]]


def warm(**params) -> Bench:
    """A bench whose IOTLB holds 8 pages at 0x1000_0000."""
    bench = ready_bench(IommuParams(**params))
    for page in range(8):
        bench.map(0x1000_0000 + 4096 * page, 0x5000_0000 + 4096 * page | RW)
    bench.ask(0x1000_0000)
    bench.idle(3)
    return bench


def test_hit_takes_two_cycles() -> None:
    """L7, L5."""
    bench = warm()
    accepted = bench.submit(9, 0x1000_3456)
    bench.idle(4)
    answer = bench.answers[-1]
    assert (answer.cycle - accepted, answer.port, answer.tag) == (2, "hits", 9)
    assert (answer.address, answer.level, answer.r, answer.w, answer.reason) == (0x5000_3456, 0, 1, 1, 0)


def test_one_hit_per_cycle() -> None:
    """L7: sustained, also over 64 requests."""
    bench = warm()
    first = bench.cycle
    for tag in range(64):
        assert bench.submit(tag, 0x1000_0000 + 4096 * (tag % 8)) == first + tag
    bench.idle(4)
    hits = bench.answers[-64:]
    assert [answer.cycle for answer in hits] == list(range(first + 2, first + 66))
    assert [answer.tag for answer in hits] == list(range(64))


def test_full_hit_fifo_stalls() -> None:
    """F1, F2, L3: two answers, two requests, then requests.ready falls."""
    bench = warm()
    bench.ready.hits_ready = False
    start = bench.cycle
    for tag in range(4):
        bench.submit(tag, 0x1000_0000)
    assert not bench.model.requests_ready
    bench.idle(2)
    assert lookups(bench, start)[:2] == [Lookup.HIT] * 2
    assert set(lookups(bench, start)[2:]) == {Lookup.STALL}
    bench.ready.hits_ready = True
    bench.idle(8)
    assert [answer.tag for answer in bench.answers[-4:]] == [0, 1, 2, 3]


def test_space_is_judged_at_the_start_of_the_cycle() -> None:
    """F2: an answer taken in this cycle makes no space in it."""
    bench = warm()
    bench.ready.hits_ready = False
    for tag in range(3):
        bench.submit(tag, 0x1000_0000)
    bench.idle(2)
    bench.ready.hits_ready = True
    assert bench.tick()["lookup"] == Lookup.STALL
    assert bench.tick()["lookup"] == Lookup.STALL, "the FIFO was full at the start of the cycle before"
    assert bench.tick()["lookup"] == Lookup.HIT


def test_pass_while_off_and_interrupt_messages() -> None:
    """L2.1, L2.4, L5, L6."""
    bench = Bench()
    answer = bench.ask(0x1234_5678_9ABC_DEF0)
    assert (answer.address, answer.r, answer.w, answer.level, answer.snoop) == (
        0x1234_5678_9ABC_DEF0,
        1,
        1,
        0,
        0,
    )
    bench.legacy()
    bench.enable()
    assert bench.ask(0xFEE0_1234, write=1).address == 0xFEE0_1234
    assert bench.ask(0xFEEF_FFFF).reason == Reason.INTERRUPT_ADDRESS
    assert bench.ask(0xFEF0_0000).reason == Reason.READ_DENIED, "outside the range: walked"
    assert bench.read_register("FSTS") == 2
    assert sum(seen["faults_recorded"] for seen in bench.log) == 1


@pytest.mark.parametrize(
    ("mode", "scalable", "pasid", "reason", "recorded"),
    [
        (2, True, None, Reason.SM_BAD_MODE, 1),
        (TTM_ABORT, True, None, Reason.SM_BAD_MODE, 0),
        (TTM_SCALABLE, False, None, Reason.SM_BAD_MODE, 1),
        (0, True, 3, Reason.SM_PASID_IN_LEGACY, 1),
        (TTM_SCALABLE, True, 3, Reason.SM_ROOT_NOT_PRESENT, 1),
    ],
)
def test_modes(mode: int, scalable: bool, pasid: int | None, reason: Reason, recorded: int) -> None:
    """L2.2, L2.3, L6."""
    bench = Bench(IommuParams(scalable=scalable))
    bench.enable(mode)
    assert bench.ask(0x1000, pasid=pasid).reason == reason
    bench.idle(3)
    assert sum(seen["faults_recorded"] for seen in bench.log) == recorded


def test_beyond_width() -> None:
    """L2.7: the lowest bit out of reach, and the highest in reach."""
    bench = ready_bench(depth=3)
    assert bench.ask(1 << 39).reason == Reason.ADDRESS_BEYOND_WIDTH
    assert bench.ask((1 << 39) - 1).reason == Reason.READ_DENIED


@pytest.mark.parametrize("rewalk", [False, True])
def test_hit_without_permission(rewalk: bool) -> None:
    """L2.8, K6."""
    bench = ready_bench(IommuParams(rewalk_on_perm=rewalk))
    bench.map(0x4000, 0x9000 | 1)
    assert bench.ask(0x4000).r == 1
    bench.store(bench.entry_address(0x4000, 0), 0xA000 | RW)
    answer = bench.ask(0x4000, write=1)
    if rewalk:
        assert (answer.reason, answer.address, answer.port) == (0, 0xA000, "completions")
    else:
        assert (answer.reason, answer.port) == (Reason.WRITE_DENIED, "hits")
    assert sum(seen["faults_recorded"] for seen in bench.log) == int(not rewalk)


def test_merge_with_different_permissions_and_pages() -> None:
    """L2.9, C1, C2: one walk, four answers of one line."""
    bench = ready_bench()
    bench.map(0x8000, 0x9_1000 | 1)
    bench.map(0x9000, 0x9_2000 | 2)
    bench.ask(0x1_0000_0000)
    start = bench.cycle
    bench.submit(1, 0x8000)
    bench.submit(2, 0x8004, write=1)
    bench.submit(3, 0x9008, write=1)
    bench.submit(4, 0xA000)
    bench.idle(40)
    assert lookups(bench, start) == [Lookup.WALK] + [Lookup.MERGE] * 3
    one, two, three, four = sorted(bench.answers[-4:], key=lambda answer: answer.tag)
    assert (one.tag, one.address, one.r, one.w) == (1, 0x9_1000, 1, 0)
    assert (two.tag, two.reason) == (2, Reason.WRITE_DENIED)
    assert (three.tag, three.address, three.r, three.w) == (3, 0x9_2008, 0, 1)
    assert (four.tag, four.reason) == (4, Reason.READ_DENIED)
    assert [answer.cycle for answer in bench.answers[-4:]] == [two.cycle + n for n in range(4)]
    assert [answer.tag for answer in bench.answers[-4:]] == [2, 3, 4, 1], "the turn was at entry 1"


def test_merge_in_the_cycle_of_the_last_arrival() -> None:
    """L2 judges by the start of the cycle: the entry joins and is answered with the others (W8)."""
    bench = ready_bench(latency=3)
    bench.map(0x8000, 0x9000 | RW)
    bench.ask(0x20_8000)  # context and upper pointers are cached; 0x8000 needs the PTE line and the PDE line
    bench.idle(5)
    accepted = bench.submit(1, 0x8000)
    while not any(seen["iotlb_fill"] for seen in bench.log[accepted:]):
        request = (2, 0, 0, 0, 0x8000, 0)
        bench.tick(request)
    bench.idle(40)
    kinds = lookups(bench, accepted)
    assert kinds[0] == Lookup.WALK
    assert set(kinds[1:]) <= {Lookup.MERGE, Lookup.HIT}
    assert Lookup.MERGE in kinds
    assert Lookup.HIT in kinds
    assert bench.model.fields()["pending_used"] == 0


def test_wait_for_pending_entries_and_slots() -> None:
    """L3, C4: what is missing stalls; an entry released in a cycle is used in that very cycle."""
    params = IommuParams(walk_slots=1, pending_requests=1)
    bench = ready_bench(params)
    for page in range(4):
        bench.map(page << 21, 0x9000 | RW)
    bench.ask(0)
    start = bench.cycle
    for page in range(1, 4):
        bench.submit(page, page << 21)
    bench.idle(60)
    assert [answer.tag for answer in bench.answers[-3:]] == [1, 2, 3]
    taken = [answer.cycle for answer in bench.answers[-3:]]
    walks = [
        cycle - 1 for cycle, seen in enumerate(bench.log) if seen["lookup"] == Lookup.WALK and cycle > start
    ]
    assert walks[1:] == taken[:2], "slot reuse in the release cycle"
    assert all(seen["slots_busy"] == 1 for seen in bench.log[walks[0] + 1 : taken[2] + 1])


def test_completions_take_turns() -> None:
    """C1: an answer that is not taken stays, others wait."""
    bench = ready_bench()
    for page in range(3):
        bench.map(page << 21, 0x9000 | RW)
    bench.ask(3 << 21)
    bench.ready.completions_ready = False
    for page in range(3):
        bench.submit(page, page << 21)
    bench.idle(50)
    assert bench.model.completions is not None
    assert bench.model.completions[0] == 0
    bench.ready.completions_ready = True
    bench.idle(5)
    assert [answer.tag for answer in bench.answers[-3:]] == [0, 1, 2]


def test_interrupt_range_as_a_result() -> None:
    """C2.5, W9: refused, and not cached while its neighbours are."""
    bench = ready_bench()
    bench.map(0x0, 0xFEE0_0000 | RW)
    bench.map(0x1000, 0x7000 | RW)
    assert bench.ask(0x0).reason == Reason.INTERRUPT_ADDRESS
    assert bench.ask(0x1000).port == "hits"
    assert bench.ask(0x0).port == "completions"


@pytest.mark.parametrize(
    ("level", "iova", "reason"),
    [
        (1, 0x10_0000, 0x0),
        (1, 0xE0_0000, Reason.INTERRUPT_ADDRESS),
        (2, 0x3ED0_0000, 0x0),
        (2, 0x3EE0_0000, Reason.INTERRUPT_ADDRESS),
    ],
)
def test_large_pages_over_the_interrupt_range(level: int, iova: int, reason: int) -> None:
    """C2.5 judges the resulting address, W9 the page: such a page is never cached."""
    bench = ready_bench()
    span = 1 << 12 + 9 * level
    bench.map(iova, 0xFEE0_0000 & ~(span - 1) | RW | PS, level)
    for _ in range(2):
        answer = bench.ask(iova)
        assert (answer.port, answer.reason) == ("completions", reason)
    assert not any(seen["iotlb_fill"] for seen in bench.log)


def test_snoop_of_answers() -> None:
    """L5, C2: SNP | PGSNP, in completions and hits."""
    bench = Bench()
    bench.scalable(pasid=0, pgsnp=0)
    bench.scalable(pasid=1, pgsnp=1)
    bench.map(0x1000, 0x9000 | RW | 1 << 11)
    bench.map(0x2000, 0xA000 | RW)
    bench.map(0x20_0000, 0xB000 | RW)
    bench.enable(TTM_SCALABLE)
    assert [bench.ask(iova).snoop for iova in (0x1000, 0x1000, 0x2000)] == [1, 1, 0]
    assert [bench.ask(0x20_0000, pasid=1).snoop for _ in range(2)] == [1, 1]
    assert bench.ask(0x20_0000).snoop == 0, "PGSNP belongs to the request, not to the cached line"


def test_pass_through_carries_pgsnp() -> None:
    """L2.6, L5, W7."""
    bench = Bench()
    bench.scalable(pgtt=4, pgsnp=1)
    bench.enable(TTM_SCALABLE)
    answer = bench.ask(0xABCD_EF01_2345_6789 & ~0xFFF0_0000, write=1)
    assert (answer.port, answer.snoop, answer.reason) == ("hits", 1, 0)
    assert bench.read_register("FSTS") == 0
    assert TABLE
