"""Passive protocol checkers: rules of docs/timing.md that every port has to keep, whatever the caches and
walkers do.

Each family is a small class that is told about valid payloads and transfers and raises `ProtocolError` with
the number of the rule. `ProtocolChecker` feeds them once in a cycle from the decoded outputs and the
inputs; in a cycle without traffic it costs a few comparisons.
"""

from collections import deque

from cocotb_tests.harness.answers import Answers
from cocotb_tests.harness.errors import ProtocolError
from cocotb_tests.harness.messages import Messages
from cocotb_tests.harness.turns import Fairness
from cocotb_tests.harness.waits import Staleness, Waits
from pymodel.cycle.inputs import Inputs
from pymodel.spec.observation import QueueState, WriteId, fetch_id
from pymodel.spec.params import IommuParams

__all__ = ["ProtocolChecker", "ReadIds", "Registers", "Stream", "Writes"]


Outputs = tuple[
    int,
    int,
    tuple[int, ...] | None,
    tuple[int, ...] | None,
    tuple[int, int] | None,
    tuple[int, int, int] | None,
    int | None,
]
"""requests_ready, register_requests_ready, hits, completions, reads, writes, register_responses."""

# Plain numbers: looking up a member of an enumeration costs a call, here in every cycle.
_FETCH, _STATUS_WRITE, _LAST_WRITE_ID = int(QueueState.FETCH), int(WriteId.STATUS), int(WriteId.FAULT_EVENT)
_NOTHING: Outputs = (1, 1, None, None, None, None, None)
_NOT_READY: Outputs = (0, *_NOTHING[1:])


class Stream:
    """P1: once valid, a stream stays valid with the same payload until it is taken."""

    __slots__ = ("held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: object = None
        """Payload that was offered and not taken in the cycle before."""

    def offer(self, cycle: int, payload: object, ready: object) -> None:
        """One cycle with `payload` (None while not valid)."""
        held = self.held
        if held is not None and payload != held:
            raise ProtocolError(
                "P1", cycle, f"{self.name}: {held!r} was offered and not taken, then came {payload!r}"
            )
        self.held = None if ready else payload


class ReadIds:
    """P3: a read id is known, and not used again while a read with it is outstanding."""

    __slots__ = ("highest", "outstanding")

    def __init__(self, params: IommuParams) -> None:
        self.highest = params.walk_slots
        self.outstanding: dict[int, int] = {}

    def read(self, cycle: int, number: int) -> None:
        """A read was accepted."""
        if number > self.highest:
            raise ProtocolError("P3", cycle, f"read id {number} is above the queue's, {self.highest}")
        if number in self.outstanding:
            raise ProtocolError(
                "P3",
                cycle,
                f"read id {number} is used again; its read of cycle {self.outstanding[number]} is open",
            )
        self.outstanding[number] = cycle

    def data(self, cycle: int, number: int) -> None:
        """Data returned."""
        if self.outstanding.pop(number, None) is None:
            raise ProtocolError("P3", cycle, f"the memory returned data for id {number}, which has no read")


class Writes:
    """P3, M1: writes have a known source, status writes are dwords, acks come in the order of the writes."""

    __slots__ = ("outstanding",)

    def __init__(self) -> None:
        self.outstanding: deque[int] = deque()

    def write(self, cycle: int, write: tuple[int, int, int]) -> None:
        """A write was accepted."""
        number, address, _ = write
        if number > _LAST_WRITE_ID:
            raise ProtocolError("M1", cycle, f"write id {number} names no source")
        if address & 3:
            raise ProtocolError("M1", cycle, f"write to {address:#x}, which is no multiple of 4")
        self.outstanding.append(number)

    def ack(self, cycle: int, number: int) -> None:
        """The memory acknowledged a write."""
        if not self.outstanding or self.outstanding.popleft() != number:
            raise ProtocolError("P3", cycle, f"the memory acknowledged write id {number} out of order")


class Registers:
    """R1: an access is answered in the next cycle, a write with 0, and none is taken while an answer
    waits."""

    __slots__ = ("due", "zero")

    def __init__(self) -> None:
        self.due: int | None = None
        self.zero = False

    def cycle(self, cycle: int, ready: object, response: int | None) -> None:
        """Outputs of one cycle."""
        if self.due is not None and response is None:
            raise ProtocolError(
                "R1", cycle, f"the access of cycle {self.due - 1} must be answered in {self.due}"
            )
        if self.due is None and response is not None:
            raise ProtocolError("R1", cycle, f"answer {response:#x} without an access")
        if bool(ready) == (response is not None):
            raise ProtocolError("R1", cycle, "ready must be 1 exactly while no answer waits")
        if self.zero and response:
            raise ProtocolError("R1", cycle, f"a write must be answered with 0, not {response:#x}")

    def accepted(self, cycle: int, write: int) -> None:
        """An access was taken in this cycle."""
        self.due, self.zero = cycle + 1, bool(write)

    def taken(self) -> None:
        """The answer was taken in this cycle."""
        self.due, self.zero = None, False


class ProtocolChecker:
    """All families on all ports.

    In each cycle: first the events of the cycle before, if there are any (`looked_up`, `arrived`, `killed`, `applied`,
    in this order), then `queue_state` and `fault_status` if they have changed, then `cycle`.
    """

    def __init__(self, params: IommuParams) -> None:
        self.answers = Answers(params)
        self.read_ids = ReadIds(params)
        self.writes = Writes()
        self.registers = Registers()
        self.staleness = Staleness()
        self.waits = Waits()
        self.messages = Messages()
        self.fairness = Fairness(params)
        self._fetch = fetch_id(params)
        names = (
            "hits",
            "completions",
            "reads",
            "writes",
            "register_responses",
            "requests",
            "register_requests",
        )
        self._streams = tuple(Stream(name) for name in names)
        self._completion_held: object = None
        self._read_held = self._write_held = False
        self._held_any = self._held_else = False
        self._waiting: object = None  # request that was held after the last cycle
        self._quiet = True  # nothing else was held, due or wanted after the last cycle

    # --- events of the cycle before, and state ----------------------------------------------------------------

    def looked_up(self, cycle: int, kind: int, replay: int, entry: int, slot: int) -> None:
        """A lookup of the previous cycle that was neither NONE nor STALL."""
        self._quiet = False
        self.staleness.looked_up(kind)
        self.fairness.looked_up(cycle, kind, replay, entry, slot)

    def arrived(self, number: int, dropped: int, goes_on: bool, context_filled: bool) -> None:
        """Read data came in the previous cycle; `goes_on`: it filled pointers."""
        self._quiet = False
        self.fairness.arrived(number, dropped, goes_on, context_filled)

    def killed(self, slots: int) -> None:
        """Slots whose walks were killed in the previous cycle."""
        self.fairness.killed(slots)

    def applied(self) -> None:
        """An invalidation was applied in the previous cycle."""
        self.staleness.applied(self._completion_held)

    def queue_state(self, cycle: int, state: int, head: int) -> None:
        """State and head (bytes) of the queue engine in this cycle."""
        self._quiet = False
        self.staleness.state(cycle, state)
        if self.waits.moved(cycle, state, head):
            self.messages.completed(cycle)

    def fault_status(self, cycle: int, raised: int) -> None:
        """PFO | PPF | IQE in this cycle has changed."""
        self._quiet = False
        self.messages.fault_cause(cycle, bool(raised))

    @property
    def quiet(self) -> bool:
        """Nothing is due or wanted, and at most a request is held: cycles like the last one say nothing new."""
        return self._quiet

    # --- ports --------------------------------------------------------------------------------------------------

    def cycle(self, cycle: int, out: Outputs, inputs: Inputs) -> None:
        """Outputs and inputs of one cycle; transfers follow from both."""
        waiting = self._waiting
        if (
            self._quiet and inputs.request is waiting and inputs.register_request is None
            and out == (_NOTHING if waiting is None else _NOT_READY)
        ):  # fmt: skip
            self._completion_held = None
        else:
            self._busy_cycle(cycle, out, inputs)
        data = inputs.read_data
        if data is not None:
            self.read_ids.data(cycle, data[0])
            if data[0] == self._fetch:
                self.waits.line = data[2]
        if inputs.write_ack is not None:
            self.writes.ack(cycle, inputs.write_ack)
            if inputs.write_ack == _STATUS_WRITE:
                self.waits.acked(cycle)
                self._quiet = False

    def _busy_cycle(self, cycle: int, out: Outputs, inputs: Inputs) -> None:
        requests_ready, accesses_ready, hits, completions, reads, writes, response = out
        request, access = inputs.request, inputs.register_request
        fairness = self.fairness
        if completions is None:
            if fairness.answers.wanting:
                fairness.no_answer(cycle)
        elif self._completion_held is None:
            fairness.answer_offered(cycle, completions[0])
        if self._held_any or not (
            (request is None or requests_ready)
            and (hits is None or inputs.hits_ready)
            and (completions is None or inputs.completions_ready)
            and (reads is None or inputs.reads_ready)
            and (writes is None or inputs.writes_ready)
            and (response is None or inputs.register_responses_ready)
            and (access is None or accesses_ready)
        ):
            self._stability(cycle, out, inputs)
        else:
            self._completion_held = None
        registers, staleness, waits = self.registers, self.staleness, self.waits
        if response is not None or registers.due is not None or not accesses_ready:
            registers.cycle(cycle, accesses_ready, response)
        if reads is not None or self._read_held or fairness.reads.wanting or waits.state == _FETCH:
            self._reads(cycle, reads, inputs.reads_ready)
        if writes is not None or self.messages.watched or waits.watched or waits.due is not None:
            self._writes(cycle, writes, inputs.writes_ready)
        if hits is not None and inputs.hits_ready:
            self.answers.answered(cycle, "hits", hits)
            staleness.hit_taken(cycle)
        if completions is not None and inputs.completions_ready:
            self.answers.answered(cycle, "completions", completions)
            staleness.completion_taken(cycle)
            fairness.answer_taken(cycle, completions[0])
        if request is not None and requests_ready:
            self.answers.accepted(cycle, request)
            fairness.accepted(request[0])
        if response is not None and inputs.register_responses_ready:
            registers.taken()
        if access is not None and accesses_ready:
            registers.accepted(cycle, access[0])
            if access[0]:
                self.messages.register_write(cycle, access[1], access[2], access[3])
        self._quiet = not (
            registers.due is not None or self._held_else or self.messages.watched or waits.watched
            or fairness.reads.wanting or fairness.answers.wanting or waits.state == _FETCH
        )  # fmt: skip

    def _reads(self, cycle: int, reads: tuple[int, int] | None, ready: object) -> None:
        """W2, P3 on `reads`."""
        fairness, fetching = self.fairness, self.waits.state == _FETCH
        if reads is None:
            if fetching or fairness.reads.wanting:
                fairness.no_read(cycle, fetching)
            self._read_held = False
            return
        if not self._read_held:
            fairness.read_offered(cycle, reads[0], fetching)
        self._read_held = not ready
        if ready:
            self.read_ids.read(cycle, reads[0])
            fairness.read_taken(reads[0])

    def _writes(self, cycle: int, writes: tuple[int, int, int] | None, ready: object) -> None:
        """M1, M2, I9 on `writes`."""
        waits = self.waits
        new = None if self._write_held else writes
        if writes is None or new is not None:  # the buffer was free in the cycle before
            if new is not None and new[0] == _STATUS_WRITE and waits.due is None:
                raise ProtocolError("M1", cycle, f"the status write {new!r} belongs to no wait")
            waits.not_granted(cycle, f"{new!r} was loaded" if new else "nothing was loaded")
            self.messages.watch(cycle, new, writes is None)
        waits.watch(cycle, new)
        self._write_held = writes is not None and not ready
        if writes is not None and ready:
            self.writes.write(cycle, writes)

    def _stability(self, cycle: int, out: Outputs, inputs: Inputs) -> None:
        """P1 on all streams; needed while something is held, before or after this cycle."""
        requests_ready, accesses_ready, hits, completions, reads, writes, response = out
        s_hits, s_completions, s_reads, s_writes, s_responses, s_requests, s_accesses = self._streams
        request, access = inputs.request, inputs.register_request
        if hits is not None or s_hits.held is not None:
            s_hits.offer(cycle, hits, inputs.hits_ready)
        if completions is not None or s_completions.held is not None:
            s_completions.offer(cycle, completions, inputs.completions_ready)
        if reads is not None or s_reads.held is not None:
            s_reads.offer(cycle, reads, inputs.reads_ready)
        if writes is not None or s_writes.held is not None:
            s_writes.offer(cycle, writes, inputs.writes_ready)
        if response is not None or s_responses.held is not None:
            s_responses.offer(cycle, response, inputs.register_responses_ready)
        if request is not None or s_requests.held is not None:
            s_requests.offer(cycle, request, requests_ready)
        if access is not None or s_accesses.held is not None:
            s_accesses.offer(cycle, access, accesses_ready)
        self._completion_held = s_completions.held
        self._waiting = s_requests.held
        self._held_else = (
            s_hits.held is not None or s_completions.held is not None or s_reads.held is not None
            or s_writes.held is not None or s_responses.held is not None or s_accesses.held is not None
        )  # fmt: skip
        self._held_any = self._held_else or self._waiting is not None

    def finish(self, cycle: int) -> None:
        """At the end of a drained run: nothing may be open."""
        self.answers.finish(cycle)
        if self.read_ids.outstanding:
            raise ProtocolError("P3", cycle, f"reads {sorted(self.read_ids.outstanding)} are open at the end")
        if self.writes.outstanding:
            raise ProtocolError("P3", cycle, f"writes {list(self.writes.outstanding)} are open at the end")
        if self.staleness.pushed != self.staleness.popped:
            raise ProtocolError(
                "F2", cycle, f"{self.staleness.pushed} hits were looked up, {self.staleness.popped} taken"
            )
