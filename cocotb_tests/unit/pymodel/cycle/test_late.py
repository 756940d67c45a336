"""Late joiners: refusals that a read found before a request was there (F3, L2.5, L2.9, L9, C5)."""

from typing import Any

import pytest

from pymodel.spec.faults import Reason
from pymodel.spec.observation import Apply, Lookup
from pymodel.spec.params import IommuParams

from .bench import CONTEXT_TABLE, PS, QUEUE, RW, Answer, Bench, page_inv, ready_bench, wait

LATENCY = 10
PAGE = 0x8000
"""Not mapped at first; PSC 0 knows its table, so that its walk is one read, accepted in t+2."""
ARRIVAL = 2 + LATENCY
"""Cycles from the acceptance of the first request to the data of a walk of one read (W4)."""
CHOSEN = ARRIVAL + 1


def warm(pending_requests: int = 16, **params: Any) -> Bench:
    """Context and pointers down to the table of `PAGE` are cached; the turn (C1) is at entry 2."""
    params = {"walk_slots": min(8, pending_requests)} | params
    bench = ready_bench(IommuParams(pending_requests=pending_requests, **params), LATENCY, queue=True)
    bench.map(0x0, 0x9000 | RW)
    bench.submit(0xF0, 0x0)
    bench.submit(0xF1, 0x0)
    bench.idle(80)
    assert bench.model._frontend._pointer == 2 % bench.params.pending_requests
    bench.answers.clear()
    return bench


def until(bench: Bench, cycle: int) -> None:
    """Let cycles pass until the current one is `cycle`."""
    assert cycle >= bench.cycle
    bench.idle(cycle - bench.cycle)


def map_page(bench: Bench, iova: int = PAGE) -> None:
    """Make a page present."""
    bench.map(iova, iova << 8 | RW)


def answered(bench: Bench, tag: int) -> Answer:
    """The only answer with a tag."""
    (answer,) = (answer for answer in bench.answers if answer.tag == tag)
    return answer


def lookups(bench: Bench, cycle: int) -> list[tuple[int, int, int, int]]:
    """(cycle, kind, replay, slot) of the lookups from a cycle on, without NONE and STALL."""
    return [
        (number - 1, seen["lookup"], seen["lookup_replay"], seen["lookup_slot"])
        for number, seen in enumerate(bench.log)
        if number > cycle and seen["lookup"] > Lookup.STALL
    ]


def recorded(bench: Bench) -> int:
    """How many faults were recorded."""
    return sum(seen["faults_recorded"] for seen in bench.log)


def at_rest(bench: Bench) -> bool:
    """Nothing is in use any more."""
    seen = bench.model.fields()
    return not (seen["slots_busy"] or seen["slots_killed"] or seen["pending_used"])


def joined(bench: Bench, offset: int, iova: int = PAGE, **more: int) -> int:
    """Tag 1 for `PAGE`, and tag 2 accepted `offset` cycles later; returns the acceptance of tag 1."""
    start = bench.submit(1, PAGE, **more)
    until(bench, start + offset)
    assert bench.submit(2, iova, **more) == start + offset
    return start


def test_a_page_mapped_between_read_and_join_is_translated() -> None:
    """C5: the late one is looked up again and finds the page; nothing is recorded for it."""
    bench = warm(pending_requests=2)  # the turn is at entry 0
    start = bench.submit(1, PAGE)
    until(bench, start + 4)
    map_page(bench)
    bench.submit(2, PAGE)
    bench.idle(60)
    assert answered(bench, 1).reason == Reason.READ_DENIED
    assert answered(bench, 1).cycle == start + CHOSEN
    valid = [cycle for cycle, seen in enumerate(bench.log) if seen["completions_valid"] and cycle > start]
    assert valid == [start + CHOSEN, start + CHOSEN + 1 + 1 + LATENCY + 2]
    late = answered(bench, 2)
    assert (late.reason, late.address, late.cycle) == (0, PAGE << 8, valid[1])
    assert lookups(bench, start) == [
        (start + 1, Lookup.WALK, 0, 0), (start + 5, Lookup.MERGE, 0, 0),
        (start + CHOSEN + 2, Lookup.WALK, 1, 0),
    ]  # fmt: skip
    assert recorded(bench) == 1
    used = [seen["pending_used"] for seen in bench.log[start + CHOSEN : start + CHOSEN + 3]]
    assert used == [0b11, 0b10, 0b10], "the entry is kept while it is not offered"
    busy = [seen["slots_busy"] for seen in bench.log[start + CHOSEN : start + CHOSEN + 4]]
    assert busy == [1, 1, 0, 1]
    assert at_rest(bench)


@pytest.mark.parametrize("offset", range(1, ARRIVAL + 1))
def test_who_is_late(offset: int) -> None:
    """L9: joining in ISSUE (t+2) is on time, in WAIT, the cycle of the data included, it is late."""
    bench = warm()
    start = joined(bench, offset)
    bench.idle(80)
    kinds = lookups(bench, start)
    expected = Lookup.WALK if offset == ARRIVAL else Lookup.MERGE
    assert kinds[1][:3] == (start + offset + 1, expected, 0)
    replayed = [cycle for cycle, _, replay, _ in kinds if replay]
    late = 2 <= offset < ARRIVAL
    assert len(replayed) == int(late)
    answer = answered(bench, 2)
    assert answer.reason == Reason.READ_DENIED
    if late:
        assert answer.cycle == replayed[0] + 1 + LATENCY + 1
    assert recorded(bench) == 2, "a second refusal is believed and recorded once"
    assert at_rest(bench)


@pytest.mark.parametrize("ready_after", [0, 3])
def test_joining_while_the_read_is_offered(ready_after: int) -> None:
    """L9: as long as the read is not accepted the slot is in ISSUE."""
    bench = warm()
    bench.ready.reads_ready = False
    start = bench.submit(1, PAGE)
    until(bench, start + 6)
    bench.submit(2, PAGE)  # joins in t+7
    bench.idle(1 + ready_after)
    bench.ready.reads_ready = True
    bench.idle(40)
    assert [kind for _, kind, _, _ in lookups(bench, start)] == [Lookup.WALK, Lookup.MERGE]
    assert [answer.reason for answer in bench.answers] == [Reason.READ_DENIED] * 2


@pytest.mark.parametrize("offset", range(2, ARRIVAL))
def test_a_late_translation_is_answered_at_once(offset: int) -> None:
    """C5 concerns refusals only."""
    bench = warm()
    map_page(bench)
    start = joined(bench, offset)
    bench.idle(40)
    assert bench.model._frontend.late
    assert [answer.reason for answer in bench.answers] == [0, 0]
    assert {answer.cycle for answer in bench.answers} == {start + CHOSEN, start + CHOSEN + 1}
    assert not any(replay for _, _, replay, _ in lookups(bench, start))


def test_a_late_answer_with_its_own_permissions() -> None:
    """C2, C5: in one walk the late read is answered and the late write refused, which is looked up again."""
    bench = warm()
    bench.map(PAGE, 0x5000 | 1)
    start = joined(bench, 4)
    bench.submit(3, PAGE, write=1)
    bench.idle(60)
    assert [answered(bench, tag).reason for tag in (1, 2, 3)] == [0, 0, Reason.WRITE_DENIED]
    assert answered(bench, 3).port == "hits", "by now the IOTLB knows the page, and refuses (L2.8)"
    assert [kind for _, kind, replay, _ in lookups(bench, start) if replay] == [Lookup.FAULT]
    assert recorded(bench) == 1
    assert at_rest(bench)


@pytest.mark.parametrize("outcome", ["absent", "reserved", "error", "leaf"])
def test_any_refusal_of_a_late_one(outcome: str) -> None:
    """C5: whatever the reason."""
    bench = warm()
    if outcome == "reserved":
        bench.map(PAGE, 0x9000 | RW | 1 << 62)
    if outcome == "leaf":
        bench.map(PAGE, 0xFEE0_0000 | RW)
    line = bench.entry_address(PAGE, 0) >> 6
    bench.bad_lines = {line} if outcome == "error" else set()
    start = bench.submit(1, PAGE)
    until(bench, start + 4)
    bench.bad_lines = set()
    map_page(bench)
    bench.submit(2, PAGE)
    bench.idle(60)
    assert answered(bench, 1).reason != 0
    assert (answered(bench, 2).reason, answered(bench, 2).address) == (0, PAGE << 8)
    assert recorded(bench) == 1


@pytest.mark.parametrize("offset", range(2, 2 * LATENCY + 5))
def test_a_slot_that_goes_on_makes_its_entries_punctual(offset: int) -> None:
    """L9, W4: late is who joins the WAIT of the last read, not who joins as the data of the first comes."""
    bench = warm()
    iova = 0x20_0000  # PSC 1 knows its table: levels 1 and 0
    bench.map(iova + 0x4_0000, 0x9000 | RW)
    start = bench.submit(1, iova)
    until(bench, start + offset)
    bench.submit(2, iova)
    bench.idle(100)
    first, second = start + 2, start + 2 + LATENCY + 1
    assert [cycle for cycle, _, _ in bench.reads if start < cycle <= second] == [first, second]
    join = start + offset + 1
    assert lookups(bench, start)[1][:3] == (join, Lookup.MERGE, 0) or join > second + LATENCY
    replayed = [kind for _, kind, replay, _ in lookups(bench, start) if replay]
    assert replayed == [Lookup.WALK] * (second < join <= second + LATENCY)
    assert answered(bench, 2).reason == Reason.READ_DENIED
    assert at_rest(bench)


@pytest.mark.parametrize("mode", [0, 1])
@pytest.mark.parametrize("fpd", [0, 1])
@pytest.mark.parametrize("offset", [3, LATENCY + 1, LATENCY + 2, LATENCY + 3, 2 * LATENCY + 2])
def test_context_faults(mode: int, fpd: int, offset: int) -> None:
    """L9, C5 for a context slot: ROOT, then a CONTEXT entry that is not present when it is read."""
    bench = Bench(latency=LATENCY)
    build = bench.scalable if mode else bench.legacy
    bench.map(PAGE, PAGE << 8 | RW)
    if mode:
        bench.scalable(context={"p": 0, "fpd": fpd})
    else:
        bench.legacy(p=0, fpd=fpd)
    bench.enable(mode)
    start = bench.submit(1, PAGE)
    second = start + 2 + LATENCY + 1  # the read of the CONTEXT entry
    until(bench, start + offset)
    bench.submit(2, PAGE)
    if bench.cycle > second:
        build()
    bench.idle(120)
    absent = Reason.SM_CONTEXT_NOT_PRESENT if mode else Reason.CONTEXT_NOT_PRESENT
    assert bench.reads[1][0] == second
    assert bench.reads[1][2] == CONTEXT_TABLE >> 6
    assert answered(bench, 1).reason == absent
    late = start + offset + 1 > second
    kinds = [kind for _, kind, replay, _ in lookups(bench, start) if replay]
    if late:
        assert (answered(bench, 2).reason, answered(bench, 2).address) == (0, PAGE << 8)
        assert kinds == [Lookup.CONTEXT_WALK, Lookup.WALK]
    else:
        assert answered(bench, 2).reason == absent
        assert kinds == []
    refused = 1 if late else 2
    assert recorded(bench) == refused * (not fpd)
    assert at_rest(bench)


def test_a_context_walk_that_ends_well_retries_nobody() -> None:
    """W7: its entries become REPLAY as ever, late ones too, and may join what they find."""
    bench = Bench(latency=LATENCY)
    bench.legacy()
    bench.map(PAGE, 0x9000 | RW)
    bench.enable()
    start = joined(bench, 2 * LATENCY)
    bench.idle(100)
    assert not bench.model._frontend.retried
    kinds = [kind for _, kind, _, _ in lookups(bench, start)]
    assert kinds == [Lookup.CONTEXT_WALK, Lookup.CONTEXT_MERGE, Lookup.WALK, Lookup.MERGE]


def test_a_retried_request_joins_slots_in_issue_only() -> None:
    """L2.9: three refusals in a row; the second joins the walk of the first, the third starts its own."""
    bench = warm()
    start = joined(bench, 3)
    for tag in (3, 4):
        bench.submit(tag, PAGE)
    map_page(bench)
    bench.idle(16)  # tag 1 is answered between: the turn was at entry 2
    bounced = start + CHOSEN
    again = [entry for entry in lookups(bench, bounced) if entry[2]]
    assert [(cycle - bounced, kind, slot) for cycle, kind, _, slot in again] == [
        (1, Lookup.WALK, 1), (2, Lookup.MERGE, 1), (4, Lookup.WALK, 0)]  # fmt: skip
    assert bench.submit(5, PAGE) > again[-1][0]
    bench.idle(40)
    assert [answered(bench, tag).reason for tag in (1, 2, 3, 4, 5)] == [Reason.READ_DENIED, 0, 0, 0, 0]
    assert at_rest(bench)


def test_two_live_slots_of_one_key() -> None:
    """L2.9: others join the one with the lowest index, whatever its state; one may end before the other."""
    bench = warm()
    start = joined(bench, 3)
    for tag in (3, 4):
        bench.submit(tag, PAGE)
    until(bench, start + CHOSEN + 5)
    walker = bench.model._walker
    assert list(walker.live_pages.values()) == [0b11]
    bench.ready.reads_ready = False
    assert bench.model.reads is not None
    assert bench.model.reads[0] == 0, "slot 0 is in ISSUE, slot 1 in WAIT"
    bench.submit(5, PAGE)
    bench.idle(3)
    assert lookups(bench, start)[-1][1:] == (Lookup.MERGE, 0, 0)
    bench.idle(20)
    assert list(walker.live_pages.values()) == [0b01]
    bench.ready.reads_ready = True
    bench.idle(30)
    assert not walker.live_pages
    assert [answered(bench, tag).reason for tag in range(1, 6)] == [Reason.READ_DENIED] * 5
    assert recorded(bench) == 5
    assert at_rest(bench)


def test_others_join_the_lowest_slot_although_it_waits() -> None:
    """L2.9, L9: with slot 1 in WAIT and slot 2 in ISSUE a new request joins slot 1, and is late."""
    bench = warm()
    bench.ready.completions_ready = False  # slot 0 keeps tag 1
    start = joined(bench, 3)
    for tag in (3, 4, 5):
        bench.submit(tag, PAGE)
    refused = start + CHOSEN
    until(bench, refused + 3)
    bench.submit(6, PAGE)
    bench.idle(10)
    assert [(cycle - refused, *rest) for cycle, *rest in lookups(bench, refused)] == [
        (1, Lookup.WALK, 1, 1), (2, Lookup.MERGE, 1, 1), (3, Lookup.WALK, 1, 2), (4, Lookup.MERGE, 0, 1),
    ]  # fmt: skip
    assert bench.model._frontend.late >> bench.log[refused + 5]["lookup_pending"] & 1
    bench.ready.completions_ready = True
    bench.idle(60)
    assert [answered(bench, tag).reason for tag in range(1, 7)] == [Reason.READ_DENIED] * 6
    assert recorded(bench) == 6
    assert at_rest(bench)


def context_bench() -> Bench:
    """Device 0 has no context at first, device 1 one with the same domain."""
    bench = Bench(latency=LATENCY)
    bench.legacy(sid=1)
    bench.legacy(sid=0, p=0)
    bench.map(0x0, 0x9000 | RW)
    bench.enable()
    bench.ask(0x0, sid=1)
    bench.idle(3)
    return bench


def retried_context(other: int | None) -> tuple[Bench, int, list[tuple[int, int, int, int]]]:
    """A late context refusal; device 1 asks for the same page `other` cycles later. Replays last."""
    bench = context_bench()
    start = bench.submit(1, PAGE)
    until(bench, start + LATENCY + 5)
    bench.legacy(sid=0)
    bench.submit(2, PAGE)
    if other is not None:
        until(bench, start + other)
        bench.submit(3, PAGE, sid=1)
    bench.idle(120)
    assert at_rest(bench)
    return bench, start, [entry for entry in lookups(bench, start) if entry[2]]


def test_a_retried_request_joins_context_slots_in_issue_only() -> None:
    """L2.5: as for pages, three refusals in a row."""
    bench = context_bench()  # the turn is at entry 1
    start = bench.submit(1, PAGE)
    refused = start + 2 + 2 * (LATENCY + 1)
    until(bench, start + LATENCY + 4)
    bench.legacy(sid=0)
    for tag in (2, 3, 4):
        bench.submit(tag, PAGE)
    bench.idle(100)
    again = [(cycle - refused, *rest) for cycle, *rest in lookups(bench, refused)]
    assert again[:3] == [
        (1, Lookup.CONTEXT_WALK, 1, 1), (2, Lookup.CONTEXT_MERGE, 1, 1), (3, Lookup.CONTEXT_WALK, 1, 0),
    ]  # fmt: skip
    assert answered(bench, 1).reason == Reason.CONTEXT_NOT_PRESENT
    assert [answered(bench, tag).reason for tag in (2, 3, 4)] == [Reason.READ_DENIED] * 3
    fills = [seen["context_fill_index"] for seen in bench.log[refused:] if seen["context_fill"]]
    assert fills == [1, 1], "the second finds the key of the first (T4)"
    assert at_rest(bench)


def test_retried_lasts_until_the_answer() -> None:
    """F3, C5: retried at a context walk, it joins no page walk in WAIT either."""
    _, start, alone = retried_context(None)
    (_, first, _, _), (cycle, second, _, _) = alone
    assert (first, second) == (Lookup.CONTEXT_WALK, Lookup.WALK)
    bench, _, again = retried_context(cycle - start - 4)  # in WAIT since two cycles
    assert again[-1][:2] == (cycle, Lookup.WALK)
    assert again[-1][3] != [slot for _, kind, replay, slot in lookups(bench, start) if not replay][-1]
    _, _, again = retried_context(cycle - start - 2)  # in ISSUE in that very cycle
    assert again[-1][:2] == (cycle, Lookup.MERGE)


def test_a_new_request_of_an_entry_is_not_retried() -> None:
    """F3: a request that enters from the FIFO is neither late nor retried, whoever had its entry before."""
    bench = warm(pending_requests=2)
    for _ in range(3):
        start = joined(bench, 4)
        bench.idle(3)
        assert bench.model._frontend.retried == 0
        bench.idle(60)
        assert sum(replay for _, _, replay, _ in lookups(bench, start)) == 1
        assert [answer.reason for answer in bench.answers[-2:]] == [Reason.READ_DENIED] * 2


def test_the_turn_moves_on() -> None:
    """C1, C5: as if the answer had been taken, and though the port is not ready."""
    bench = warm()
    map_page(bench, PAGE + 0x1000)
    start = bench.submit(1, PAGE)
    until(bench, start + 3)
    for tag, iova in ((2, PAGE + 0x1000), (3, PAGE), (4, PAGE + 0x1000)):
        bench.submit(tag, iova)
    map_page(bench)
    bench.ready.completions_ready = False
    until(bench, start + CHOSEN)
    assert bench.model._frontend.unbelieved == 2, "entry 2, tag 3, has the turn"
    assert bench.tick()["completions_valid"] == 0
    assert bench.model._frontend._pointer == 3
    seen = bench.tick()
    assert (seen["completions_valid"], seen["completions_tag"]) == (1, 4)
    bench.idle(30)
    bench.ready.completions_ready = True
    bench.idle(5)
    assert [answer.tag for answer in bench.answers if answer.port == "completions"] == [4, 1, 2, 3]
    assert [answered(bench, tag).reason for tag in (1, 2, 3, 4)] == [Reason.READ_DENIED, 0, 0, 0]


def test_the_slot_is_free_for_a_lookup_in_that_cycle() -> None:
    """C5, C4, L3: the slot that the refused entry leaves last, while the entry itself waits for a slot."""
    bench = warm(walk_slots=1, pending_requests=2)
    bench.map(0x20_0000, 0x5000 | RW)
    start = joined(bench, 4)
    bench.submit(3, 0x20_0000)
    map_page(bench)
    bench.idle(100)
    left = start + CHOSEN + 1
    assert answered(bench, 1).cycle == left - 1
    assert bench.log[left]["lookup"] == Lookup.STALL, "one cycle before: entry 0 is free, the slot is not"
    assert lookups(bench, left)[0] == (left, Lookup.WALK, 0, 0)
    assert bench.log[left + 1]["lookup_pending"] == 0
    assert bench.log[left + 2]["lookup"] == Lookup.STALL
    assert [answered(bench, tag).reason for tag in (2, 3)] == [0, 0]
    assert answered(bench, 2).cycle > answered(bench, 3).cycle
    assert at_rest(bench)


def test_the_entry_is_not_free_for_a_lookup_in_that_cycle() -> None:
    """C5: nor in the next, in which it is the candidate."""
    bench = warm(pending_requests=3)  # the turn is at entry 2
    start = joined(bench, 4)
    bench.submit(3, PAGE)
    bench.submit(4, 0x20_0000)
    bench.idle(120)
    refused = start + CHOSEN
    assert bench.log[refused]["completions_valid"] == 0
    assert bench.log[refused + 1]["lookup"] == Lookup.STALL
    assert bench.log[refused + 1]["pending_used"] == 0b111
    assert lookups(bench, refused)[0][:3] == (refused + 1, Lookup.WALK, 1)
    assert bench.log[refused + 2]["lookup_pending"] == 2
    assert [answered(bench, tag).reason for tag in (1, 2, 3, 4)] == [Reason.READ_DENIED] * 4


def killed(apply_at: int, word: int, ready: bool = True, **params: Any) -> tuple[Bench, int]:
    """Tags 1 and, late, 2 and 3; `word` applied `apply_at` cycles after tag 1 came: (bench, that cycle)."""
    bench = warm(**params)
    bench.store(QUEUE, word, 16)
    bench.store(QUEUE + 16, wait(), 16)
    lead = LATENCY + 4
    start = bench.cycle + lead
    bench.ready.completions_ready = ready
    for cycle in range(start - lead, start + 30):
        tag = {start: 1, start + 4: 2, start + 5: 3}.get(cycle)
        if cycle == start + 4:
            map_page(bench)
        register = (1, IQT_AT, 32, 255) if cycle == start + apply_at - lead else None
        bench.tick(None if tag is None else (tag, 0, 0, 0, PAGE, 0), register)
        if cycle == start + apply_at:
            assert bench.model.fields()["apply"] != Apply.NONE
    bench.ready.completions_ready = True
    bench.idle(100)
    return bench, start + apply_at


IQT_AT = 0x88
GLOBAL = page_inv(0x0, am=9)


@pytest.mark.parametrize("drain", [True, False])
@pytest.mark.parametrize("pending", [3, 4, 8])
@pytest.mark.parametrize("apply_at", range(3, CHOSEN + 8))
def test_invalidations_around_a_late_refusal(apply_at: int, pending: int, drain: bool) -> None:
    """I7, K9, C5: in whatever cycle, late ones find the page, each request is answered once."""
    bench, _ = killed(apply_at, GLOBAL, pending_requests=pending, walk_drain=drain)
    assert sorted(answer.tag for answer in bench.answers) == [1, 2, 3]
    assert [answered(bench, tag).reason for tag in (2, 3)] == [0, 0]
    assert recorded(bench) == int(answered(bench, 1).reason != 0)
    assert drain or not any(seen["killed"] for seen in bench.log)
    assert len(bench.writes) == 1
    assert at_rest(bench)


@pytest.mark.parametrize("ready", [True, False])
def test_killed_in_the_cycle_of_the_refusal(ready: bool) -> None:
    """C5, I7, I8: no answer is offered: the slot is free, all are looked up again, one of them retried."""
    bench, applied = killed(CHOSEN, GLOBAL, ready, pending_requests=3)
    after = bench.log[applied + 1]
    assert bench.log[applied]["completions_valid"] == 0
    assert (after["killed"], after["slots_busy"], after["slots_killed"]) == (1, 0, 0)
    assert after["pending_used"] == 0b111
    kinds = lookups(bench, applied)  # the last one does not join the WAIT of slot 0
    assert [entry[1:] for entry in kinds] == [
        (Lookup.WALK, 1, 0), (Lookup.MERGE, 1, 0), (Lookup.WALK, 1, 1)]  # fmt: skip
    assert [answer.reason for answer in bench.answers] == [0, 0, 0]
    assert recorded(bench) == 0
    # DECODE, WAIT (nothing is stale), STATUS, then the write is on the port (I9).
    assert bench.writes[0][0] == applied + 4
    assert bench.model._frontend.retried == 0b100


def test_killed_with_the_last_entry() -> None:
    """C5, C4: the slot is free at the end of the cycle by both; the entry is retried."""
    bench, applied = killed(CHOSEN + 2, GLOBAL, pending_requests=8, walk_slots=1)
    assert bench.answers[0].tag == 1
    assert bench.log[applied]["completions_valid"] == 0
    assert (bench.log[applied + 1]["killed"], bench.log[applied + 1]["slots_busy"]) == (1, 0)
    assert bench.log[applied + 1]["lookup"] == Lookup.STALL
    assert bench.model._frontend.retried == 0b110
    assert [answered(bench, tag).reason for tag in (2, 3)] == [0, 0]


def test_walk_drain_off_keeps_the_slot() -> None:
    """K9=0: the refused entry leaves, its slot and the others stay."""
    bench, applied = killed(CHOSEN, GLOBAL, pending_requests=3, walk_drain=False)
    after = bench.log[applied + 1]
    assert (after["killed"], after["slots_busy"], after["pending_used"]) == (0, 1, 0b111)
    assert answered(bench, 1).cycle == applied + 1
    assert lookups(bench, applied)[0] == (applied + 1, Lookup.WALK, 1, 1)


@pytest.mark.parametrize("level", [1, 2])
def test_large_pages(level: int) -> None:
    """C5 at other levels: a table made a leaf between read and join."""
    bench = warm(haw=52)
    iova = (1 << 12 + 9 * level) * 8
    start = bench.submit(1, iova)
    until(bench, start + 4)
    bench.map(iova, 1 << 40 | RW | PS, level)
    bench.submit(2, iova + 0x1234)
    bench.idle(80)
    assert answered(bench, 1).reason == Reason.READ_DENIED
    late = answered(bench, 2)
    assert (late.reason, late.address, late.level) == (0, (1 << 40) + 0x1234, level)
