"""The fault judge: refusals, the log as it is written, and what software reads of it."""

import random

import pytest

from pymodel.iommu import FaultJudge, Request
from pymodel.spec.faults import FAULT_RECORD, Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FAULT_RECORD_OFFSET, FSTS

FSTS_OFFSET = 0x34
SID = 0x18


def request(iova: int = 0x9000, write: bool = False) -> Request:
    return Request(SID, None, iova, write)


def packed(one: Request, reason: Reason = Reason.READ_DENIED) -> int:
    return FAULT_RECORD.pack(f=1, reason=reason, sid=one.sid, address=one.iova >> 12, t=not one.write)


class Log:
    """A fault log that does what rule M4 says, beside the judge; complaints are collected."""

    def __init__(self, records: int = 4) -> None:
        self.judge = FaultJudge(IommuParams(fault_records=records))
        self.records = [0] * records
        self.next = self.first = 0
        self.overflow = False
        self.complaints: list[str] = []

    def hear(self, *found: str | None) -> None:
        self.complaints += [one for one in found if one is not None]

    @property
    def pending(self) -> int:
        return int(any(record >> 127 for record in self.records))

    def refuse(self, time: int, one: Request, accepted: int | None = None, must: bool = True) -> None:
        """A request is refused; accepted ten cycles before where nothing else is said."""
        recordable = frozenset({True} if must else {True, False})
        self.judge.refused(one, Reason.READ_DENIED, recordable, time - 10 if accepted is None else accepted, time)

    def fault(self, time: int, record: int) -> None:
        """Hardware reports a fault in cycle `time`."""
        overflow = self.overflow
        if not self.overflow and self.records[self.next] >> 127:
            self.overflow = True
        elif not self.overflow:
            if not self.pending:
                self.first = self.next
            self.records[self.next] = record
            self.next = (self.next + 1) % len(self.records)
            self.hear(self.judge.written(time, 1))
        if overflow != self.overflow or self.pending:
            self.hear(self.judge.status(time + 1, self.overflow, self.pending))

    def read(self, time: int, offset: int, size: int, value: int) -> None:
        self.judge.read(time, offset, size)
        self.hear(self.judge.read_answered(time + 1, value))

    def read_record(self, time: int, index: int) -> None:
        for half in (8, 0):
            value = self.records[index] >> 8 * half & (1 << 64) - 1
            self.read(time, FAULT_RECORD_OFFSET + 16 * index + half, 8, value)

    def read_status(self, time: int) -> None:
        value = FSTS.pack(pfo=self.overflow, ppf=self.pending, iqe=1, fri=self.first)
        self.read(time, FSTS_OFFSET, 4, value)

    def clear(self, time: int, index: int) -> None:
        self.judge.cleared(time, index)
        self.records[index] &= ~(1 << 127)
        self.hear(self.judge.status(time + 1, self.overflow, self.pending))

    def clear_overflow(self, time: int) -> None:
        self.judge.overflow_cleared(time)
        self.overflow = False
        self.hear(self.judge.status(time + 1, 0, self.pending))

    def settle(self, time: int, oldest: int | None = None) -> list[str]:
        """What was complained about up to `time`."""
        self.hear(*self.judge.settle(time, time if oldest is None else oldest))
        return self.complaints

    def finish(self, time: int) -> list[str]:
        self.hear(*self.judge.finish(time, time))
        return self.complaints


def test_a_refusal_that_is_recorded_read_and_cleared_is_forgotten() -> None:
    log = Log()
    log.fault(15, packed(request()))
    log.refuse(20, request())
    log.read_status(22)
    log.read_record(23, 0)
    log.clear(24, 0)
    assert log.settle(40) == []
    assert log.judge.kept == 0
    assert log.finish(50) == []


def test_missing_record_is_reported_as_soon_as_its_cycle_is_over() -> None:
    log = Log()
    log.refuse(20, request())
    assert log.settle(20) == []
    (complaint,) = log.settle(21)
    assert "cycle 20: read of 0x9000 by 0x0018 was refused with READ_DENIED; expected a fault record" in complaint


def test_record_outside_the_life_of_its_request_explains_nothing() -> None:
    for time in (10, 21):  # accepted in 10, answered in 20
        log = Log()
        log.fault(time, packed(request()))
        log.refuse(20, request())
        log.read_record(22, 0)
        assert len(log.settle(30)) == 2
        assert any("that no refused request explains" in one for one in log.complaints)


def test_one_refusal_explains_one_record() -> None:
    log = Log()
    for time in (12, 14):
        log.fault(time, packed(request()))
    log.refuse(20, request())
    for index in (0, 1):
        log.read_record(22 + index, index)
    (complaint,) = log.settle(30)
    assert "cycle 14: a fault record that no refused request explains: address 0x9" in complaint


def test_records_find_their_refusals_whatever_the_order_of_the_answers() -> None:
    """Two equal requests: the one that is answered first has to take the first record."""
    log = Log()
    log.fault(12, packed(request()))
    log.fault(25, packed(request()))
    log.refuse(15, request(), accepted=5)
    log.refuse(30, request(), accepted=6)
    for index in (1, 0):
        log.read_record(31 + index, index)
    assert log.settle(40) == []
    assert log.judge.kept == 0


def test_a_refusal_that_may_stay_unrecorded_does_not_take_the_record_of_one_that_must_not() -> None:
    log = Log()
    log.fault(12, packed(request()))
    log.refuse(14, request(), accepted=5, must=False)
    log.refuse(15, request(), accepted=6)
    log.read_record(20, 0)
    assert log.settle(30) == []


@pytest.mark.parametrize("wrong", [{"sid": 9}, {"address": 8}, {"t": 0}, {"reason": 5}, {"at": 1}, {"pasid": 1}])
def test_wrong_contents_explain_nothing(wrong: dict[str, int]) -> None:
    fields = {**FAULT_RECORD.unpack(packed(request())), **wrong}
    log = Log()
    log.fault(12, FAULT_RECORD.pack(**fields))
    log.refuse(20, request())
    log.read_record(22, 0)
    assert len(log.settle(30)) == 2


def test_record_that_is_cleared_unread_may_be_any_that_its_time_covers() -> None:
    log = Log()
    log.fault(12, packed(request(0x5000)))
    log.clear(30, 0)
    log.refuse(20, request())
    assert log.settle(40) == []
    log.fault(52, packed(request(0x5000)))
    log.clear(54, 1)
    (complaint,) = log.settle(60)
    assert "cycle 52: a fault record that no refused request explains" in complaint


def test_record_that_is_read_in_part_has_to_agree_there() -> None:
    for part, count in ((0x9000, 0), (0x8000, 2)):
        log = Log()
        log.fault(12, packed(request()))
        log.refuse(20, request())
        log.read(21, FAULT_RECORD_OFFSET, 4, part)
        log.clear(30, 0)
        assert len(log.settle(40)) == count


def test_faults_may_be_dropped_only_while_overflow_is_set_or_rises() -> None:
    log = Log(records=1)
    log.fault(12, packed(request()))
    log.refuse(15, request())
    log.fault(32, packed(request(0xA000)))  # PFO rises
    log.refuse(35, request(0xA000), accepted=31)
    log.refuse(45, request(0xB000), accepted=41)  # dropped
    log.read_record(50, 0)
    log.clear(51, 0)
    log.refuse(60, request(0xC000), accepted=55)  # the log has room, but PFO is set
    log.clear_overflow(70)
    log.refuse(75, request(0xD000), accepted=69)  # dropped in cycle 70
    assert log.settle(80) == []
    log.refuse(90, request(0xE000), accepted=70)
    (complaint,) = log.settle(100)
    assert "read of 0xe000" in complaint


def test_overflow_needs_a_full_log_and_a_refusal() -> None:
    log = Log(records=1)
    log.hear(log.judge.status(13, 1, 0))
    assert log.complaints == ["cycle 12: fault overflow although record 0 was free"]
    log.settle(20)
    assert "fault overflow, but no refused request wanted a record" in log.complaints[1]


def test_overflow_needs_a_refusal_besides_those_of_the_records_of_its_cycle() -> None:
    for others in (0, 1):
        log = Log(records=1)
        log.fault(12, packed(request()))
        log.hear(log.judge.status(13, 1, 1))  # a second fault in cycle 12
        log.refuse(15, request())
        if others:
            log.refuse(12, request(0xA000))
        log.settle(20)
        assert ["no refused request wanted" in one for one in log.complaints] == [True] * (1 - others)


def test_pending_that_does_not_move_is_noticed_without_a_read() -> None:
    log = Log()
    log.hear(log.judge.written(12, 1))  # and nothing is told of PPF
    assert log.settle(13, 5) == ["cycle 13: FSTS.PPF must be 1, not 0"]
    log.judge.cleared(20, 0)
    assert log.settle(20, 5) == log.complaints[:1]
    assert log.settle(21, 5)[1:] == ["cycle 21: FSTS.PPF must be 0, not 1"]


def test_reset_settles_the_log_and_leaves_open_what_is_not_answered() -> None:
    """The request accepted in 40 is never answered: a record from then on may be its own."""
    for accepted, at, complaints in ((25, 28, 0), (25, 41, 0), (29, 28, 2)):
        log = Log()
        log.fault(at, packed(request()))
        if at < 40:
            log.refuse(30, request(), accepted=accepted)
        log.hear(*log.judge.finish(50, 40))
        assert len(log.complaints) == complaints


def test_overflow_that_rises_in_the_cycle_of_a_clear_is_right() -> None:
    """The log is judged by what it holds at the start of the cycle (M4)."""
    log = Log(records=1)
    log.fault(12, packed(request()))
    log.refuse(15, request())
    log.judge.cleared(20, 0)
    log.hear(log.judge.status(21, 1, 0))
    log.refuse(22, request(0xA000))
    assert log.settle(30) == []


@pytest.mark.parametrize(
    ("what", "text"),
    [("overwritten", "was overwritten before software cleared it"), ("recorded", "although FSTS.PFO is set"),
     ("fell", "fell although software did not clear it"), ("stays", "stays set although software cleared it"),
     ("ppf", "FSTS.PPF must be 1, not 0"), ("f", "F of fault record 0 must read"), ("changed", "changed while its F"),
     ("fri", "PFO, PPF, FRI) must read 0x2 under 0xff03, not 0x102")],
)  # fmt: skip
def test_log_that_breaks_its_own_rules_is_named(what: str, text: str) -> None:
    log = Log(records=1)
    judge = log.judge
    log.fault(12, packed(request()))
    log.refuse(15, request())
    if what == "overwritten":
        log.hear(judge.written(20, 1))
    elif what == "ppf":
        log.hear(judge.status(20, 0, 0))
    elif what == "f":
        log.read(20, FAULT_RECORD_OFFSET + 12, 4, 0x6)
    elif what == "changed":
        log.read_record(20, 0)
        log.read(22, FAULT_RECORD_OFFSET, 8, 0x8000)
    elif what == "fri":
        log.read(20, FSTS_OFFSET, 4, FSTS.pack(ppf=1, fri=1))
    else:
        log.fault(20, packed(request()))
        log.refuse(22, request())
        if what == "recorded":
            log.hear(judge.written(30, 1))
        elif what == "fell":
            log.hear(judge.status(30, 0, 1))
        else:
            judge.overflow_cleared(30)
            log.settle(32)
    assert text in log.complaints[0]


def test_what_is_kept_does_not_grow_with_the_run() -> None:
    """Software reads late or never, refusals go on: counts stay within the log and the requests that are open."""
    for reads in (True, False):
        rng = random.Random(3)
        log, most, at = Log(records=4), 0, 0
        for time in range(20, 20_000, 3):
            one = request(rng.randrange(1 << 20) << 12)
            at = max(at, time - rng.randrange(8))
            log.fault(at, packed(one))
            log.refuse(time, one)
            if reads and rng.random() < 0.3:
                log.read_status(time + 1)
                for index in range(4):
                    log.read_record(time + 1, index)
                    log.clear(time + 1, index)
                if log.overflow:
                    log.clear_overflow(time + 1)
            log.settle(time - 8, oldest=time - 18)  # of the cycles before, everything is told
            most = max(most, log.judge.kept)
        assert log.complaints == []
        assert most < 40


def test_the_end_of_a_run_settles_everything() -> None:
    log = Log()
    log.fault(12, packed(request()))  # never read
    log.refuse(20, request())
    log.refuse(30, request(0xA000), accepted=25)
    (complaint,) = log.finish(31)
    assert "read of 0xa000" in complaint
    assert log.judge.kept == 0
