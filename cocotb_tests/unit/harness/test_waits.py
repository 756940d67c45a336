"""Waits: old answers, the states, the status write, the fence; a legal trace and its broken twins."""

import pytest

from cocotb_tests.harness.errors import ProtocolError
from cocotb_tests.harness.waits import Staleness, Waits
from pymodel.spec.descriptors import WAIT, DescriptorType
from pymodel.spec.observation import Lookup, QueueState, WriteId

IDLE, DECODE, WAITING, STATUS, FENCE = (
    QueueState.IDLE, QueueState.DECODE, QueueState.WAIT, QueueState.STATUS, QueueState.FENCE
)  # fmt: skip


def drained(hit_taken: int | None, completion_taken: int | None) -> None:
    """A hit and a completion wait when an invalidation is applied; a wait descriptor goes on in cycle 11."""
    checker = Staleness()
    checker.looked_up(Lookup.HIT)
    checker.applied((1, 2, 3))
    checker.state(10, WAITING)
    for cycle in range(10, 12):
        if hit_taken == cycle:
            checker.hit_taken(cycle)
        if completion_taken == cycle:
            checker.completion_taken(cycle)
    checker.looked_up(Lookup.HIT)  # a newer answer does not count
    checker.state(12, STATUS)


def test_wait_goes_on_only_after_old_answers_were_taken() -> None:
    drained(10, 10)
    for hit, completion, text in (
        (None, 10, "1 old hits and 0 old"), (10, None, "0 old hits and 1 old"), (11, 10, "1 old hits"),
        (10, 11, "1 old completions"),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match=text) as caught:
            drained(hit, completion)
        assert caught.value.rule == "I8"


def wait(*states: tuple[int, QueueState], **fields: int) -> tuple[Waits, list[bool]]:
    """The checker after a wait of these fields went through these (cycle, state), and where IWC rose."""
    checker = Waits()
    word = WAIT.pack(type=DescriptorType.WAIT, address=0x100 >> 2, data=9, **fields)
    checker.line = word << 128 | 0xFF << 256
    raised = [checker.moved(cycle, state, 0x1010) for cycle, state in ((1, DECODE), (2, WAITING), *states)]
    return checker, raised[2:]


def test_states_follow_the_bits_of_the_descriptor() -> None:
    assert wait((3, STATUS), (5, FENCE), status_write=1, fence=1)[1] == [False, False]
    assert wait((3, STATUS), (5, IDLE), status_write=1, interrupt=1)[1] == [False, True]
    assert wait((3, DECODE), interrupt=1, fence=1)[1] == [True]
    for states, fields in (
        ([(3, IDLE)], {"status_write": 1}), ([(3, STATUS)], {"interrupt": 1}),
        ([(3, STATUS), (4, FENCE)], {"status_write": 1}), ([(3, STATUS), (4, IDLE)], {"status_write": 1, "fence": 1}),
        ([(3, FENCE)], {"fence": 1}), ([(3, DECODE), (4, STATUS)], {}), ([(3, DECODE), (4, FENCE)], {}),
    ):  # fmt: skip
        with pytest.raises(ProtocolError, match="went from") as caught:
            wait(*states, **fields)
        assert caught.value.rule == "I9"


def test_status_write_follows_the_grant_and_carries_the_descriptor() -> None:
    right = (WriteId.STATUS, 0x100, 9)
    for offered in (right, (WriteId.STATUS, 0x104, 9), (WriteId.STATUS, 0x100, 8), None):
        checker, _ = wait((3, STATUS), (5, IDLE), status_write=1)
        if offered == right:
            checker.watch(5, offered)
            assert checker.due is None
        else:
            with pytest.raises(ProtocolError, match=r"the status write .* must be on the port"):
                checker.watch(5, offered)


def test_status_write_goes_before_everything_else() -> None:
    checker, _ = wait((3, STATUS), status_write=1)
    checker.not_granted(3, "nothing")  # it wants the buffer from cycle 3 on: an earlier one may have been loaded
    with pytest.raises(ProtocolError, match="rule M1: a status write waits"):
        checker.not_granted(4, "nothing")


def test_fence_is_left_when_the_status_write_is_acknowledged_neither_before_nor_later() -> None:
    def fenced() -> Waits:
        checker, _ = wait((3, STATUS), (4, FENCE), status_write=1, fence=1)
        checker.watch(4, (WriteId.STATUS, 0x100, 9))
        return checker

    checker = fenced()
    checker.acked(9)
    checker.watch(10, None)
    checker.moved(11, DECODE, 0x1020)
    checker.watch(11, None)
    for left in (8, 10):  # before the ack, and in its own cycle
        checker = fenced()
        if left == 10:
            checker.acked(9)
        with pytest.raises(ProtocolError, match="rule I9: the fence was left with a status write"):
            checker.moved(left, DECODE, 0x1020)
    checker = fenced()
    checker.acked(9)
    with pytest.raises(ProtocolError, match="rule I9: the fence was not left"):
        checker.watch(11, None)
