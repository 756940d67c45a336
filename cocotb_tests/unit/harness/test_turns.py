"""Fairness: those that wait take turns."""

import pytest

from cocotb_tests.harness.errors import ProtocolError
from cocotb_tests.harness.turns import Fairness, Turns
from pymodel.spec.observation import Lookup, fetch_id
from pymodel.spec.params import IommuParams

PARAMS = IommuParams(walk_slots=4, pending_requests=4)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_choice_is_the_first_at_or_after_the_pointer(count: int) -> None:
    """Against the definition, for every pointer, every set and every choice."""
    for pointer in range(count):
        for wanting in range(1, 1 << count):
            order = [*range(pointer, count), *range(pointer)]
            right = next(number for number in order if wanting >> number & 1)
            for number in range(count):
                turns = Turns("W2", "slot", count)
                turns.pointer, turns.wanting = pointer, wanting
                if order.index(number) <= order.index(right):
                    turns.offered(1, number)
                else:
                    with pytest.raises(ProtocolError, match=f"it is the turn of slot {right} "):
                        turns.offered(1, number)


def test_unknown_pointer_blames_nobody() -> None:
    turns = Turns("C1", "pending entry", 4)
    turns.pointer, turns.wanting = None, 0b1111
    turns.offered(1, 3)
    turns.taken(3)
    after: list[object] = [turns.pointer, turns.wanting]
    assert after == [0, 0b0111]


def walks(kind: Lookup = Lookup.WALK, count: int = 3) -> Fairness:
    """Requests 10, 11, ... in entries 0, 1, ... of slots 0, 1, ..."""
    fairness = Fairness(PARAMS)
    for number in range(count):
        fairness.accepted(10 + number)
        fairness.looked_up(number + 1, kind, 0, number, number)
    return fairness


def test_slots_want_to_read_from_their_allocation_or_the_fill_of_their_pointer() -> None:
    fairness = walks()
    assert fairness.reads.wanting == 0b111
    for number in range(3):
        fairness.read_offered(5 + number, number, False)
        fairness.read_taken(number)
    assert fairness.reads.wanting == 0
    fairness.arrived(1, 0, goes_on=True, context_filled=False)
    fairness.arrived(0, 0, goes_on=True, context_filled=False)
    assert fairness.reads.wanting == 0b11
    fairness.read_offered(9, 0, False)
    fairness.read_taken(0)
    fairness.killed(0b10)
    assert fairness.reads.wanting == 0
    fairness.no_read(11, False)


def test_entries_want_to_answer_from_the_end_of_their_page_walk() -> None:
    fairness = walks()
    fairness.accepted(20)
    fairness.looked_up(7, Lookup.MERGE, 0, 3, 1)
    fairness.arrived(1, 0, goes_on=False, context_filled=False)
    assert fairness.answers.wanting == 0b1010
    fairness.answer_offered(9, 11)
    fairness.answer_taken(9, 11)
    fairness.answer_offered(10, 20)
    fairness.arrived(2, 0, goes_on=False, context_filled=False)
    fairness.answer_taken(10, 20)
    fairness.arrived(0, 0, goes_on=False, context_filled=False)
    with pytest.raises(ProtocolError, match="it is the turn of pending entry 0"):
        fairness.answer_offered(11, 12)


def test_entries_that_are_looked_up_again_do_not_wait() -> None:
    fairness = walks()
    for number in (0, 1):
        fairness.arrived(number, 0, goes_on=False, context_filled=False)
    assert fairness.answers.wanting == 0b11
    fairness.killed(0b11)
    assert fairness.answers.wanting == 0


def test_answer_must_be_offered_unless_an_entry_may_be_late() -> None:
    """Entry 3 joins the walk of slot 1 while its read is outstanding; the next read of the walk leaves after it."""
    def ends(kind: Lookup, goes_on: bool) -> Fairness:
        fairness = walks(count=2)
        fairness.accepted(20)
        fairness.looked_up(7, kind, 0, 3, 1 if kind == Lookup.MERGE else 2)
        if goes_on:
            fairness.arrived(1, 0, goes_on=True, context_filled=False)
        for number in (0, 1):
            fairness.arrived(number, 0, goes_on=False, context_filled=False)
        return fairness

    late = ends(Lookup.MERGE, goes_on=False)
    late.no_answer(9)
    assert late.answers.wanting == 0b11
    for fairness in (ends(Lookup.MERGE, goes_on=True), ends(Lookup.WALK, goes_on=False)):
        with pytest.raises(ProtocolError, match=r"rule C1: pending entries 0b(10)?11 must answer"):
            fairness.no_answer(9)
    late.answer_taken(10, 20)
    with pytest.raises(ProtocolError, match="rule C1: pending entries 0b11 must answer"):
        late.no_answer(11)


def test_entry_that_was_refused_late_is_not_late_once_it_walks_or_is_answered() -> None:
    for kind, slot in ((Lookup.WALK, 0), (Lookup.HIT, 0)):
        fairness = walks(count=2)
        fairness.accepted(20)
        fairness.looked_up(7, Lookup.MERGE, 0, 3, 0)
        fairness.arrived(0, 0, goes_on=False, context_filled=False)
        fairness.arrived(1, 0, goes_on=False, context_filled=False)
        fairness.no_answer(9)
        fairness.looked_up(10, kind, 1, 3, slot)
        with pytest.raises(ProtocolError, match="rule C1"):
            fairness.no_answer(11)


@pytest.mark.parametrize("late", [False, True])
def test_pointer_of_the_answers_is_known_after_an_answer_unless_a_late_refusal_moved_it(late: bool) -> None:
    fairness = walks()
    if late:
        fairness.accepted(20)
        fairness.looked_up(7, Lookup.MERGE, 0, 3, 2)
    for number in (0, 1):
        fairness.arrived(number, 0, goes_on=False, context_filled=False)
    fairness.answer_offered(9, 11)  # nothing was answered before: any entry may be the first
    fairness.answer_taken(9, 11)
    fairness.arrived(2, 0, goes_on=False, context_filled=False)
    if late:
        fairness.answer_offered(11, 10)  # entry 3 may have been refused in cycle 10
    else:
        with pytest.raises(ProtocolError, match="it is the turn of pending entry 2 "):
            fairness.answer_offered(11, 10)


def test_context_walks_and_the_fetch_are_left_out() -> None:
    fairness = walks(Lookup.CONTEXT_WALK)
    fairness.arrived(0, 0, goes_on=False, context_filled=False)
    fairness.arrived(fetch_id(PARAMS), 0, goes_on=False, context_filled=False)
    fairness.arrived(1, 0, goes_on=False, context_filled=True)
    fairness.arrived(2, 1, goes_on=False, context_filled=False)
    assert fairness.answers.wanting == 0


def test_lookup_without_a_request_is_named() -> None:
    with pytest.raises(ProtocolError, match="rule L1"):
        Fairness(PARAMS).looked_up(3, Lookup.HIT, 0, 0, 0)
