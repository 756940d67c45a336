"""The invalidation queue: errors, scopes, kills, drain and timing (I1..I10)."""

import pytest

from pymodel.spec.descriptors import CONTEXT_INV, INTERRUPT_INV, IOTLB_INV, PASID_CACHE_INV, PASID_IOTLB_INV
from pymodel.spec.observation import Apply, Lookup, QueueState, WriteId
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FSTS, GCMD, QUEUE_ERROR

from .bench import QUEUE, RW, Bench, page_inv, ready_bench, wait

GLOBAL = IOTLB_INV.pack(type=2, g=1)
CONTEXT_GLOBAL = CONTEXT_INV.pack(type=1, g=1)


def warm(pages=(0x0,), queue: bool = True, **params) -> Bench:
    """Pages mapped and cached, queue on."""
    bench = ready_bench(IommuParams(**params), queue=queue)
    for page in pages:
        bench.map(page, 0x9000 | page | RW)
    for page in pages:
        bench.ask(page)
    bench.idle(3)
    return bench


def first(bench: Bench, name: str, value: int = 1, start: int = 0) -> int:
    """First cycle in which a field of the observation has a value."""
    return next(cycle for cycle in range(start, len(bench.log)) if bench.log[cycle][name] == value)


@pytest.mark.parametrize("latency", [1, 7])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_timing(latency: int, count: int) -> None:
    """I10: k invalidations and a status write in one line; on the port in A+2k+4."""
    bench = ready_bench(latency=latency, queue=True)
    bench.queue(*[page_inv(0)] * count, wait(data=0xBEEF))
    bench.drain()
    bench.idle(3)
    arrival = first(bench, "arrival_id", bench.params.walk_slots) - 1
    assert bench.log[arrival + 1]["queue_state"] == QueueState.DECODE
    applied = [cycle - 1 for cycle, seen in enumerate(bench.log) if seen["apply"]]
    assert applied == [arrival + 2 + 2 * k for k in range(count)]
    assert bench.writes == [(arrival + 2 * count + 4, WriteId.STATUS, 0x9000, 0xBEEF)]


def test_fetch_goes_first_and_reads_a_line_once() -> None:
    """W2, I2, I5: four descriptors a line, then the next fetch; the head wraps."""
    bench = ready_bench(queue=True)
    bench.write_register("IQT", 4096 - 32)
    for offset in range(0, 4096, 16):
        bench.store(QUEUE + offset, INTERRUPT_INV.pack(type=4, index=5), 16)
    bench.drain(2000)
    assert len(bench.reads) == 64
    bench.queue(*[INTERRUPT_INV.pack(type=4)] * 4)
    bench.drain()
    lines = [line - (QUEUE >> 6) for _, _, line in bench.reads[64:]]
    assert lines == [63, 0]
    assert bench.read_register("IQH") == bench.read_register("IQT") == 32


@pytest.mark.parametrize(
    ("word", "params", "error"),
    [
        (0, {}, "bad_type"),
        (3, {}, "bad_type"),
        (8, {}, "bad_type"),
        (9, {}, "bad_type"),
        (PASID_CACHE_INV.pack(type=7, g=3), {"scalable": False}, "bad_type"),
        (PASID_IOTLB_INV.pack(type=6, g=2), {"scalable": False}, "bad_type"),
        (CONTEXT_INV.pack(type=1, g=0), {}, "reserved"),
        (IOTLB_INV.pack(type=2, g=0), {}, "reserved"),
        (PASID_CACHE_INV.pack(type=7, g=2), {}, "reserved"),
        (PASID_IOTLB_INV.pack(type=6, g=0), {}, "reserved"),
        (PASID_IOTLB_INV.pack(type=6, g=1), {}, "reserved"),
        (GLOBAL | 1 << 8, {}, "reserved"),
        (GLOBAL | 1 << 71, {}, "reserved"),
        (wait() | 1 << 8, {}, "reserved"),
        (wait() | 1 << 64, {}, "reserved"),
        (INTERRUPT_INV.pack(type=4) | 1 << 127, {}, "reserved"),
        (page_inv(0, am=19), {}, "reserved"),
        (page_inv(0, am=19), {"max_address_mask": 52}, None),
        (page_inv(0x1000, am=1), {}, "reserved"),
        (page_inv(0x2000, am=1), {}, None),
        (PASID_IOTLB_INV.pack(type=6, g=3, am=1, address=1), {}, "reserved"),
        (IOTLB_INV.pack(type=2, g=1, am=63, address=1), {}, None),
        (IOTLB_INV.pack(type=2, g=2, am=63, address=1), {}, None),
        (CONTEXT_INV.pack(type=1, g=3, fm=3), {}, None),
        (PASID_CACHE_INV.pack(type=7, g=1), {}, None),
    ],
)
def test_descriptor_errors(word: int, params: dict, error: str | None) -> None:
    """I3, I4, I5: code and head; a good one goes on."""
    bench = ready_bench(IommuParams(**params), queue=True)
    bench.queue(INTERRUPT_INV.pack(type=4), word)
    bench.idle(30)
    code, head = (QUEUE_ERROR[error], 16) if error else (0, 32)
    assert bench.read_register("IQER") == code
    assert FSTS.get(bench.read_register("FSTS"), "iqe") == int(error is not None)
    assert bench.read_register("IQH") == head


def test_resume_after_an_error() -> None:
    """I4, R2: stands still until IQE is cleared, then goes on from head."""
    bench = ready_bench(queue=True)
    bench.queue(15, wait())
    bench.idle(30)
    assert bench.writes == []
    bench.store(QUEUE, INTERRUPT_INV.pack(type=4), 16)
    bench.idle(10)
    assert bench.writes == []
    bench.write_register("FSTS", FSTS.pack(pfo=1))
    bench.idle(10)
    assert bench.writes == []
    bench.write_register("FSTS", FSTS.pack(iqe=1))
    bench.drain()
    assert bench.read_register("IQER") == 0
    assert len(bench.writes) == 1


@pytest.mark.parametrize(("tail", "wide", "bad"), [(8 << 4, 0, 0), (4096, 0, 1), (16, 1, 1), (32, 1, 0)])
def test_bad_tail(tail: int, wide: int, bad: int) -> None:
    """I1."""
    bench = ready_bench(queue=False)
    bench.write_register("IQA", QUEUE | wide << 11)
    bench.write_register("GCMD", GCMD.pack(te=1, qie=1))
    for offset in range(0, 128, 16):
        bench.store(QUEUE + offset, 0 if wide and offset & 16 else INTERRUPT_INV.pack(type=4), 16)
    bench.write_register("IQT", tail)
    bench.idle(40)
    assert bench.read_register("IQER") == QUEUE_ERROR["bad_tail"] * bad
    assert bench.read_register("IQH") == tail * (1 - bad)


def test_fetch_error() -> None:
    """I2."""
    bench = ready_bench(queue=True)
    bench.bad_lines = {QUEUE >> 6}
    bench.queue(GLOBAL)
    bench.idle(10)
    assert bench.read_register("IQER") == QUEUE_ERROR["fetch"]
    assert bench.read_register("IQH") == 0


def test_wide_descriptors() -> None:
    """I3: 256 bits, two a line, the upper half is reserved."""
    bench = ready_bench()
    bench.write_register("IQA", QUEUE | 1 << 11)
    bench.write_register("GCMD", GCMD.pack(te=1, qie=1))
    bench.queue(GLOBAL, wait(), GLOBAL, size=32)
    bench.drain()
    assert (len(bench.writes), len(bench.reads)) == (1, 2)
    bench.queue(GLOBAL | 1 << 255, size=32)
    bench.idle(20)
    assert bench.read_register("IQER") == QUEUE_ERROR["reserved"]


def test_enabling_sets_head_to_zero_and_disabling_stops() -> None:
    """R3, I1."""
    bench = ready_bench(queue=True)
    bench.invalidate(GLOBAL, GLOBAL)
    bench.write_register("GCMD", GCMD.pack(te=1))
    bench.store(QUEUE + 32, GLOBAL, 16)
    bench.write_register("IQT", 48)
    bench.idle(10)
    assert bench.read_register("IQH") == 32
    bench.write_register("GCMD", GCMD.pack(te=1, qie=1))
    bench.drain()
    assert sum(seen["apply"] == Apply.IOTLB for seen in bench.log) == 5


@pytest.mark.parametrize(
    ("word", "pages", "contexts"),
    [
        (GLOBAL, 0, 1),
        (IOTLB_INV.pack(type=2, g=2, did=7), 0, 1),
        (IOTLB_INV.pack(type=2, g=2, did=8), 1, 1),
        (PASID_IOTLB_INV.pack(type=6, g=2, did=7), 0, 1),
        (PASID_IOTLB_INV.pack(type=6, g=3, did=7), 0, 1),
        (page_inv(0x0), 0, 1),
        (page_inv(0x1000), 1, 1),
        (page_inv(0x0, did=8), 1, 1),
        (CONTEXT_GLOBAL, 1, 0),
        (CONTEXT_INV.pack(type=1, g=2, did=7), 1, 0),
        (CONTEXT_INV.pack(type=1, g=2, did=8), 1, 1),
        (CONTEXT_INV.pack(type=1, g=3, sid=0), 1, 0),
        (CONTEXT_INV.pack(type=1, g=3, sid=1), 1, 1),
        (CONTEXT_INV.pack(type=1, g=3, sid=1, fm=3), 1, 0),
        (CONTEXT_INV.pack(type=1, g=3, sid=4, fm=1), 1, 0),
        (CONTEXT_INV.pack(type=1, g=3, sid=2, fm=1), 1, 1),
        (CONTEXT_INV.pack(type=1, g=3, sid=6, fm=2), 1, 0),
        (CONTEXT_INV.pack(type=1, g=3, sid=8, fm=3), 1, 1),
        (PASID_CACHE_INV.pack(type=7, g=3), 1, 0),
        (PASID_CACHE_INV.pack(type=7, g=0, did=7), 1, 0),
        (PASID_CACHE_INV.pack(type=7, g=1, did=7, pasid=0), 1, 0),
        (PASID_CACHE_INV.pack(type=7, g=1, did=7, pasid=1), 1, 1),
    ],
)
def test_scopes(word: int, pages: int, contexts: int) -> None:
    """I6: what one descriptor leaves of one cached page and one context."""
    bench = warm()
    bench.invalidate(word)
    model = bench.model
    assert model._frontend._contexts.lines.valid == contexts
    assert model._frontend._iotlb.lines.valid == pages
    kind = Apply.CONTEXT if not contexts or word & 15 in (1, 7) else Apply.IOTLB
    assert sum(seen["apply"] == kind for seen in bench.log) == 1


def test_scalable_context_scopes() -> None:
    """I6: domain drops all contexts in scalable mode; a PASID invalidation compares the PASID used."""

    def cached() -> Bench:
        bench = Bench()
        bench.scalable(pasid=9, did=7, context={"rid_pasid": 9})
        bench.enable(1, queue=True)
        bench.ask(0x1000)
        bench.ask(0x1000, pasid=9)
        return bench

    for word, left in [
        (CONTEXT_INV.pack(type=1, g=2, did=8), 0),
        (PASID_CACHE_INV.pack(type=7, g=1, did=7, pasid=9), 0),
        (PASID_CACHE_INV.pack(type=7, g=1, did=7, pasid=0), 3),
        (PASID_CACHE_INV.pack(type=7, g=0, did=8), 3),
    ]:
        bench = cached()
        bench.invalidate(word)
        assert bench.model._frontend._contexts.lines.valid == left


def test_hint_keeps_pointers() -> None:
    """I6: IH=1 keeps the PSC, IH=0 drops what the range uses; sectors beside it stay."""
    bench = warm(pages=(0x0, 0x20_0000))
    reads = len(bench.reads)
    bench.invalidate(page_inv(0x0, ih=1))
    assert bench.ask(0x0).port == "completions"
    assert len(bench.reads) - reads == 2, "the fetch and one read"
    bench.invalidate(page_inv(0x0))
    reads = len(bench.reads)
    assert bench.ask(0x20_0000).port == "hits"
    bench.ask(0x20_1000)
    assert len(bench.reads) == reads + 1
    bench.ask(0x0)
    assert len(bench.reads) == reads + 5, "all levels again"


def killing(stage: int, word: int, latency: int) -> tuple[Bench, int]:
    """A request accepted `stage` cycles before `word` is applied, run to then: (bench, cycle of APPLY)."""
    bench = ready_bench(queue=True, latency=latency)
    bench.map(0x0, 0x9000 | RW)
    bench.map(0x80_0000_0000, 0x9000 | RW)
    bench.ask(0x80_0000_0000)
    bench.idle(5)
    bench.store(QUEUE, word, 16)
    lead = latency + 4  # doorbell, IDLE, FETCH, the line, DECODE, APPLY
    apply_cycle = bench.cycle + max(lead, stage)
    while bench.cycle <= apply_cycle:
        request = (0x33, 0, 0, 0, 0x0, 0) if bench.cycle == apply_cycle - stage else None
        register = (1, 0x88, 16, 255) if bench.cycle == apply_cycle - lead else None
        bench.tick(request, register)
    return bench, apply_cycle


@pytest.mark.parametrize("latency", [1, 4])
@pytest.mark.parametrize("word", [GLOBAL, CONTEXT_GLOBAL, page_inv(0x3000), page_inv(0x0, am=9)])
def test_a_walk_is_killed_in_every_cycle_of_its_life(word: int, latency: int) -> None:
    """I6, I7, W10: whatever the cycle, the request is answered once, from memory as after the APPLY."""
    killed_states = set()
    for stage in range(1, 5 * (latency + 1) + 3):
        bench, apply_cycle = killing(stage, word, latency)
        assert bench.log[apply_cycle]["queue_state"] == QueueState.APPLY
        bench.store(bench.entry_address(0x0, 0), 0xA000 | RW)
        killed = bench.model.fields()["killed"]
        bench.idle(120)
        answers = [answer for answer in bench.answers if answer.tag == 0x33]
        assert len(answers) == 1
        read_after = any(line == bench.entry_address(0x0, 0) >> 6 and cycle > apply_cycle
                         for cycle, _, line in bench.reads)  # fmt: skip
        if killed:
            killed_states.add(stage)
            if answers[0].cycle > apply_cycle + 1:
                assert read_after
                assert answers[0].address == 0xA000
        final = bench.model.fields()
        assert (final["slots_busy"], final["slots_killed"], final["pending_used"]) == (0, 0, 0)
    assert len(killed_states) >= 3 * (latency + 1)


@pytest.mark.parametrize(
    ("level", "page", "hint", "killed"),
    [
        (0, 0x7000, 1, 1),
        (0, 0x8000, 1, 0),
        (0, 0x8000, 0, 1),
        (0, 0x1F_F000, 0, 1),
        (0, 0x20_0000, 0, 0),
        (1, 0xFF_F000, 1, 1),
        (1, 0x100_0000, 1, 0),
        (1, 0x3FFF_F000, 0, 1),
        (1, 0x4000_0000, 0, 0),
    ],
)
def test_region_of_a_walk(level: int, page: int, hint: int, killed: int) -> None:
    """I6: the line with IH=1, the whole table with IH=0, by the level at the start of the cycle."""
    bench = ready_bench(latency=40, queue=True)
    bench.map(0x0, 0x9000 | RW)
    bench.map(0x4000_0000, 0x9000 | RW)
    bench.ask(0x4000_0000)
    bench.submit(1, 0x0)  # reads levels 2, 1, 0: the pointer to the table of level 2 is cached
    bench.idle(41 * (2 - level))
    bench.hold_returns = True
    bench.idle(4)
    slot = bench.model._walker.slots[0]
    assert slot.stage == level
    bench.store(QUEUE, page_inv(page, ih=hint), 16)
    bench.tick(register=(1, 0x88, 16, 255))
    bench.idle(4)
    held = bench.returns
    bench.returns = [entry for entry in held if entry[1][0] == bench.params.walk_slots]
    bench.hold_returns = False
    while not bench.log[-1]["apply"]:
        bench.tick()
    assert bench.log[-1]["killed"] == killed
    bench.returns += [entry for entry in held if entry[1][0] != bench.params.walk_slots]
    bench.idle(300)
    assert bench.answers[-1].tag == 1


def test_killed_while_its_read_is_offered() -> None:
    """I7: an offered read that is not accepted stays, and its data is dropped (W10)."""
    bench = warm()
    bench.map(0x40_0000_0000, 0x9000 | RW)
    bench.queue(GLOBAL)
    while bench.model._invalidations.state != QueueState.FETCHING:
        bench.tick()
    bench.ready.reads_ready = False
    bench.submit(2, 0x40_0000_0000)
    while not bench.model._walker.killed:
        bench.tick()
    assert bench.model.reads is not None
    assert bench.tick()["slots_killed"] == 1
    assert bench.model.fields()["slots_busy"] == 3, "the request is walked again in another slot"
    bench.idle(3)
    bench.ready.reads_ready = True
    bench.idle(60)
    assert sum(seen["arrival_dropped"] for seen in bench.log) == 1
    assert [answer.tag for answer in bench.answers[1:]] == [2]
    assert bench.model.fields()["slots_busy"] == 0


def test_an_offered_answer_stays_and_delays_the_wait() -> None:
    """I7, I8: DONE and killed with its answer on the port; the others are walked again; the wait drains."""
    bench = warm()
    bench.map(0x40_0000_0000, 0x9000 | RW)
    bench.ready.completions_ready = False
    bench.submit(1, 0x40_0000_0000)
    bench.submit(2, 0x40_0000_0000)
    bench.idle(40)
    bench.queue(GLOBAL, wait())
    bench.idle(40)
    assert bench.model.completions is not None
    assert bench.model.completions[0] == 2, "the turn is at entry 1"
    assert bench.model._invalidations.state == QueueState.WAIT
    assert bench.model.fields()["slots_killed"] == 1
    assert [seen["lookup"] for seen in bench.log if seen["lookup_replay"]][-1] == Lookup.WALK
    bench.ready.completions_ready = True
    taken = bench.cycle
    bench.idle(10)
    assert bench.writes[-1][0] == taken + 3, "taken, WAIT left, STATUS, on the port"
    bench.idle(30)
    assert [answer.tag for answer in bench.answers[-2:]] == [2, 1]


def test_hits_in_the_fifo_delay_the_wait() -> None:
    """I8: the number of hits that were older counts down; newer ones do not matter."""
    bench = warm()
    bench.ready.hits_ready = False
    bench.submit(1, 0x0)
    bench.submit(2, 0x0)
    bench.idle(3)
    bench.queue(CONTEXT_INV.pack(type=1, g=3, sid=9), wait())
    bench.idle(20)
    assert bench.model._invalidations.stale == 2
    assert bench.model._invalidations.state == QueueState.WAIT
    bench.submit(3, 0x0)
    bench.ready.hits_ready = True
    bench.tick()
    bench.tick()
    bench.ready.hits_ready = False
    bench.idle(6)
    assert len(bench.writes) == 1
    assert bench.model.hits is not None, "the newer hit still waits"


def test_walk_drain_off_touches_no_walk() -> None:
    """K9: broken on purpose: the old entry is cached after the invalidation."""
    bench = ready_bench(IommuParams(walk_drain=False), queue=True)
    bench.map(0x0, 0x9000 | RW)
    bench.queue(*[GLOBAL] * 12)
    bench.submit(1, 0x0)
    bench.drain()
    bench.idle(60)
    assert not any(seen["killed"] for seen in bench.log)
    assert sum(seen["apply"] == Apply.IOTLB for seen in bench.log) == 12
    assert bench.answers[-1].reason == 0


def test_lookup_stalls_in_apply_cycles() -> None:
    """L1."""
    bench = warm()
    bench.queue(*[page_inv(0x8000)] * 4)
    while not bench.log[-1]["apply"]:
        bench.tick((1, 0, 0, 0, 0, 0))
    applied = len(bench.log) - 1
    assert bench.log[applied]["lookup"] == Lookup.STALL
    bench.tick((1, 0, 0, 0, 0, 0))
    assert bench.log[-1]["lookup"] == Lookup.HIT


def test_fence_waits_for_the_acknowledge() -> None:
    """I9: with FN the queue goes on only when every status write is acknowledged."""
    for fence in (0, 1):
        bench = ready_bench(queue=True)
        bench.ack_latency = 20
        bench.queue(wait(fence=fence), GLOBAL)
        bench.drain()
        applied = first(bench, "apply", Apply.IOTLB)
        assert (applied > bench.writes[0][0] + 20) == bool(fence)


def test_wait_with_interrupt_and_without_status() -> None:
    """I9: IF sets IWC; without SW nothing is written; FN without SW has nothing to wait for."""
    bench = ready_bench(queue=True)
    bench.invalidate(wait(status_write=0, interrupt=1, fence=1, page_drain=1))
    assert bench.read_register("ICS") == 1
    assert bench.writes == []
    bench.write_register("ICS", 1)
    bench.invalidate(wait(interrupt=1))
    bench.idle(3)
    assert bench.read_register("ICS") == 1
    assert len(bench.writes) == 1


def test_status_waits_for_the_buffer() -> None:
    """M1, I9: IWC is set in the cycle of the grant, not before."""
    bench = ready_bench(queue=True)
    bench.ready.writes_ready = False
    bench.queue(wait(), wait(interrupt=1))
    bench.idle(30)
    assert bench.model._invalidations.state == QueueState.STATUS
    assert bench.read_register("ICS") == 0
    bench.ready.writes_ready = True
    bench.idle(3)
    assert bench.read_register("ICS") == 1
