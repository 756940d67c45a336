"""What happened in a run: keeps the open requests, feeds the judges, counts, and writes the event log."""

from collections import deque
from collections.abc import Callable
from typing import Any

from cocotb_tests.harness.checkers import ProtocolChecker
from cocotb_tests.harness.decode import EventDecoder, field_places
from cocotb_tests.harness.errors import JudgeError, ProtocolError
from cocotb_tests.harness.eventlog import Event, EventLog, format_event
from cocotb_tests.harness.memory_port import MemoryPort, MemoryTiming
from cocotb_tests.harness.scheduler import Run, Scheduler, Translation
from cocotb_tests.harness.statistics import Statistics
from pymodel.effects import WriteRegister
from pymodel.iommu.architectural import ArchitecturalIommu
from pymodel.iommu.types import Outcome, Request
from pymodel.memory import PhysMem
from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup, WriteId
from pymodel.spec.params import IommuParams

__all__ = ["Ledger"]

_HISTORY = 30
_STALL, _STATUS_WRITE = int(Lookup.STALL), int(WriteId.STATUS)
_REASONS = {int(reason): reason for reason in Reason}
_RARE = (
    ("arrival", ("arrival_id", "arrival_dropped"), "arrivals"),
    ("iotlb_fill", ("iotlb_fill_index", "iotlb_fill_level", "iotlb_fill_sectors", "iotlb_evicted"), "fills"),
    ("psc_fill", ("psc_fill_index", "psc_fill_level", "psc_fill_sectors", "psc_evicted"), "fills"),
    ("context_fill", ("context_fill_index", "context_evicted"), "fills"),
    ("apply", ("apply",), "applies"),
    ("killed", ("killed",), "killed"),
    ("faults_recorded", ("faults_recorded",), "faults_recorded"),
)
_EVENT_NAMES = {"killed": "kill", "faults_recorded": "fault"}
_STATUS = ("queue_state", "queue_head", "queue_error", "fault_overflow", "fault_pending")


class Ledger:
    """The bookkeeping half of `LockStep`: everything that follows from transfers and events, nothing that
    drives."""

    def __init__(
        self,
        params: IommuParams,
        seed: int,
        memory: PhysMem | None,
        timing: MemoryTiming | None,
        log: EventLog | None,
        legal: bool,
        protocol: bool,
    ) -> None:
        self.params, self.seed = params, seed
        self.memory = memory if memory is not None else PhysMem()
        self.statistics = Statistics()
        self.log = log
        self._history: deque[Event] = deque(maxlen=_HISTORY)
        self.emit: Callable[[Event], None] = self._history.append if log is None else log.emit
        self.scheduler = Scheduler(self.memory, self.emit)
        self.port = MemoryPort(self.memory, timing or MemoryTiming(), seed, self._written)
        self.judge: ArchitecturalIommu | None = None
        self.protocol: ProtocolChecker | None = None
        self._wanted = (legal, protocol)
        self._events = EventDecoder(params)
        self._rare = [
            (self._events.mask(name), name, self._events.places(*operands), count)
            for name, operands, count in _RARE
        ]
        places = field_places(params)
        self._status_places = [places[name] for name in _STATUS]
        self._status_mask = sum(mask << low for low, mask in self._status_places)
        self.open: dict[int, Translation] = {}
        """Translations that were accepted and not answered, by tag, the oldest first."""
        self._request_owner: Any = None  # agent or source of the request on the port
        self._access: tuple[Run, Any] | None = None  # on the register port
        self._responding: tuple[Run, Any] | None = None  # accepted, not answered
        self.now = 0
        """The cycle that `cycle` will see next."""
        self._start()

    def _start(self) -> None:
        """The state after reset: nothing is on its way, the judges know of nothing."""
        legal, protocol = self._wanted
        self.judge = ArchitecturalIommu(self.params, self.memory) if legal else None
        self.protocol = ProtocolChecker(self.params) if protocol else None
        self._tags = deque(range(1 << self.params.tag_bits))
        self.open.clear()
        self._access = self._responding = None
        self._status = 0  # the fields of `_STATUS`, in place
        self._state = (0,) * len(_STATUS)

    def _accepted(self, now: int, request: tuple[int, ...]) -> None:
        owner = self._request_owner
        translation = self.open[request[0]] = Translation(request, now, owner)
        self.statistics.accepted += 1
        self.emit((now, "accept", *request))
        if type(owner) is Run:
            self.scheduler.accepted(now, owner, translation)

    def _answered(self, now: int, port: str, answer: tuple[int, ...]) -> None:
        tag = answer[0]
        translation = self.open.pop(tag, None)
        if translation is None:
            raise ProtocolError("L4", now, f"{port} answered tag {tag}, which has no open request")
        self.emit((now, "answer", port, *answer))
        translation.answered_at, translation.port = now, port
        (_, translation.reason, translation.address, translation.level, translation.r, translation.w,
         translation.snoop) = answer  # fmt: skip
        statistics = self.statistics
        statistics.answers += 1
        if port == "completions":
            statistics.completions += 1
        if answer[1]:
            statistics.faults_answered += 1
        statistics.latencies.add(now - translation.accepted_at)
        self._tags.append(tag)
        judge = self.judge
        if judge is not None:
            if answer[1] or not judge.judge.remembers(
                translation.sid, translation.pasid, translation.iova, translation.write, translation.accepted_at,
                now, *answer[2:],
            ):  # fmt: skip
                self._judge(now, judge, translation)
        owner = translation.owner
        if type(owner) is Run:
            self.scheduler.answered(now, owner, translation)
        else:
            owner.answered(translation)

    def _judge(self, now: int, judge: ArchitecturalIommu, translation: Translation) -> None:
        request = Request(translation.sid, translation.pasid, translation.iova, bool(translation.write))
        outcome = Outcome(
            _REASONS[translation.reason], translation.address, translation.level, bool(translation.r),
            bool(translation.w), bool(translation.snoop),
        )  # fmt: skip
        self._complain(now, judge.check(request, translation.accepted_at, now, outcome))

    def _complain(self, now: int, sentence: object) -> None:
        if sentence is not None:
            raise JudgeError(now, f"cycle {now}: not a legal outcome: {sentence}")

    def _access_accepted(self, now: int) -> None:
        assert self._access is not None
        effect = self._access[1]
        self._responding, self._access = self._access, None
        self.statistics.register_accesses += 1
        if type(effect) is WriteRegister:
            self.emit((now, "register_write", effect.offset, effect.size, effect.value))
            if self.judge is not None:
                self.judge.register_write(now, effect.offset, effect.value, effect.size)
        else:
            self.emit((now, "register_read", effect.offset, effect.size))
            if self.judge is not None:
                self.judge.faults.read(now, effect.offset, effect.size)

    def _register_answered(self, now: int, data: int) -> None:
        if self._responding is None:
            raise ProtocolError("R1", now, f"register answer {data:#x} without an access")
        run, effect = self._responding
        self._responding = None
        value = data >> 8 * (effect.offset & 7) & (1 << 8 * effect.size) - 1
        if type(effect) is not WriteRegister:
            self.emit((now, "register_value", value))
            if self.judge is not None:
                self._complain(now, self.judge.faults.read_answered(now, value))
        self.scheduler.register_done(now, run, value)

    def _stored(self, address: int, old: int, new: int) -> None:
        judge = self.judge
        assert judge is not None
        judge.advance(self.now)
        judge.stored(address, old, new)

    def _written(self, cycle: int, number: int, address: int, data: int) -> None:
        self.emit((cycle, "written", number, address, data))

    def _log_memory(self, now: int, took: tuple[bool, bool], reads: Any, writes: Any) -> None:
        """Events of the memory port in this cycle."""
        if took[0]:
            self.statistics.line_reads += 1
            self.emit((now, "read", reads[0], reads[1] << 6))
        data, ack = self.port.read_data, self.port.write_ack
        if data is not None:
            self.emit((now, "data", data[0], data[1], data[2] % 4294967291))
        if took[1]:
            statistics = self.statistics
            statistics.writes += 1
            self.emit((now, "write", *writes))
            if writes[0] == _STATUS_WRITE:
                statistics.status_writes += 1
                if self.judge is not None:
                    self._complain(now, self.judge.wait_completed(now, writes[1], writes[2]))
        if ack is not None:
            self.emit((now, "ack", ack))

    def _take_events(self, at: int, events: int) -> None:
        """Events of the cycle before, from this cycle's observation."""
        decoder, statistics, emit = self._events, self.statistics, self.emit
        kind = events & 15
        statistics.lookups[kind] += 1
        protocol = self.protocol
        if kind > _STALL:
            lookup = decoder.lookup(events)
            statistics.replays += lookup[1]
            emit((at, "lookup", *lookup))
            if protocol is not None:
                protocol.looked_up(at, kind, lookup[1], lookup[2], lookup[3])
        if events >> decoder.rest_low:
            seen: dict[str, tuple[int, ...]] = {}
            for mask, name, places, count in self._rare:
                if events & mask:
                    values = seen[name] = decoder.group(events, places)
                    emit((at, _EVENT_NAMES.get(name, name), *values))
                    setattr(statistics, count, getattr(statistics, count) + 1)
            if "arrival" in seen:
                statistics.dropped += seen["arrival"][1]
            for name in ("iotlb_fill", "psc_fill", "context_fill"):
                if name in seen:
                    statistics.evictions += seen[name][-1]
            self._tell_judges(at, seen)

    def _tell_judges(self, at: int, seen: dict[str, tuple[int, ...]]) -> None:
        """Events with their operands, those of `_RARE`."""
        protocol, judge = self.protocol, self.judge
        if protocol is not None:
            if "arrival" in seen:
                number, dropped = seen["arrival"]
                protocol.arrived(number, dropped, "psc_fill" in seen, "context_fill" in seen)
            if "killed" in seen:
                protocol.killed(*seen["killed"])
            if "apply" in seen:
                protocol.applied()
        if judge is not None and "faults_recorded" in seen:
            self._complain(at, judge.faults.written(at, *seen["faults_recorded"]))

    def _take_status(self, now: int, status: int) -> None:
        """State or head of the invalidation queue, or the fault status changed."""
        before, self._status = self._state, status
        state, head, *flags = self._state = tuple([status >> low & mask for low, mask in self._status_places])
        error, overflow, pending = flags
        head <<= 4
        protocol = self.protocol
        if before[:2] != self._state[:2]:
            self.emit((now, "queue", state, head, error))
            if protocol is not None:
                protocol.queue_state(now, state, head)
        if before[2:] != self._state[2:]:
            raised = int(any(flags))
            if protocol is not None and raised != any(before[2:]):
                protocol.fault_status(now, raised)
            if self.judge is not None:
                self._complain(now, self.judge.faults.status(now, overflow, pending))

    def _settle(self, now: int, over: bool = False) -> None:
        """Let judge 1 look back, before the answers of this cycle; `over`: none will come."""
        judge = self.judge
        if judge is not None:
            oldest = next(iter(self.open.values())).accepted_at if self.open else now
            for complaint in (judge.finish if over else judge.settle)(now, oldest):
                self._complain(now, complaint)

    def history(self) -> list[str]:
        """The last events as text, oldest first."""
        if self.log is not None:
            return self.log.tail()[-_HISTORY:]
        return [format_event(event) for event in self._history]
