"""Passive protocol checkers: rules of docs/timing.md that every port has to keep, whatever the caches and
walkers do.

Each family is a small class that is told about valid payloads and transfers and raises `ProtocolError` with
the number of the rule. `ProtocolChecker` feeds them once in a cycle from the decoded outputs and the
inputs; in a cycle without traffic it costs a few comparisons.
"""

from collections import deque

from cocotb_tests.harness.answers import Answers
from cocotb_tests.harness.errors import ProtocolError
from pymodel.cycle.inputs import Inputs
from pymodel.spec.observation import Lookup, QueueState, WriteId
from pymodel.spec.params import IommuParams

__all__ = ["ProtocolChecker", "ReadIds", "Registers", "Staleness", "Stream", "Writes"]


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

_NOTHING: Outputs = (1, 1, None, None, None, None, None)


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
        if number > WriteId.FAULT_EVENT:
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


class Staleness:
    """I8: a wait leaves its state WAIT only when every answer older than the last invalidation has been
    taken."""

    __slots__ = ("_mark", "_state", "completion", "popped", "pushed")

    _ANSWERED = (Lookup.PASS, Lookup.HIT, Lookup.FAULT)

    def __init__(self) -> None:
        self.pushed = self.popped = 0  # hits that entered and left the FIFO
        self._mark = 0  # hits that must have left
        self.completion: object = None  # completion that was offered when an invalidation was applied
        self._state = 0

    def events(self, lookup: int, applied: int, offered: object) -> None:
        """Events of the cycle before: lookup, apply; `offered` is the completion that it left untaken (or
        None)."""
        if lookup in self._ANSWERED:
            self.pushed += 1
        if applied:
            self._mark = self.pushed
            self.completion = offered

    def hit_taken(self) -> None:
        """An answer was taken from `hits`."""
        self.popped += 1

    def completion_taken(self) -> None:
        """An answer was taken from `completions`."""
        self.completion = None

    def state(self, cycle: int, state: int, popped_before: int, completion_before: object) -> None:
        """State of the queue in this cycle, judged by what was taken before the previous cycle began."""
        before, self._state = self._state, state
        if before == QueueState.WAIT and state != QueueState.WAIT:
            if popped_before < self._mark or completion_before is not None:
                raise ProtocolError(
                    "I8", cycle - 1,
                    f"the wait went on with {max(0, self._mark - popped_before)} old hits "
                    f"and {int(completion_before is not None)} old completions not taken",
                )  # fmt: skip


class ProtocolChecker:
    """All families on all ports; call `cycle` once in each cycle, `events` before it when there are any."""

    def __init__(self, params: IommuParams) -> None:
        self.answers = Answers(params)
        self.read_ids = ReadIds(params)
        self.writes = Writes()
        self.registers = Registers()
        self.staleness = Staleness()
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
        self._before: tuple[int, object] = (0, None)
        self._held_any = False
        self._quiet = True  # nothing was held or due after the last cycle

    def events(self, lookup: int, applied: int) -> None:
        """Events of the previous cycle, from this cycle's observation."""
        self.staleness.events(lookup, applied, self._completion_held)

    def queue_state(self, cycle: int, state: int) -> None:
        """State of the queue engine in this cycle; needed in every cycle in which it may have changed."""
        self.staleness.state(cycle, state, *self._before)

    def cycle(self, cycle: int, out: Outputs, inputs: Inputs) -> None:
        """Outputs and inputs of one cycle; transfers follow from both. Call `queue_state` before it."""
        staleness = self.staleness
        self._before = (staleness.popped, staleness.completion)
        if self._quiet and out == _NOTHING and inputs.request is None and inputs.register_request is None:
            self._completion_held = None
        else:
            self._busy_cycle(cycle, out, inputs)
        data = inputs.read_data
        if data is not None:
            self.read_ids.data(cycle, data[0])
        if inputs.write_ack is not None:
            self.writes.ack(cycle, inputs.write_ack)

    def _busy_cycle(self, cycle: int, out: Outputs, inputs: Inputs) -> None:
        requests_ready, accesses_ready, hits, completions, reads, writes, response = out
        request, access = inputs.request, inputs.register_request
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
        registers, staleness = self.registers, self.staleness
        registers.cycle(cycle, accesses_ready, response)
        if hits is not None and inputs.hits_ready:
            self.answers.answered(cycle, "hits", hits)
            staleness.hit_taken()
        if completions is not None and inputs.completions_ready:
            self.answers.answered(cycle, "completions", completions)
            staleness.completion_taken()
        if request is not None and requests_ready:
            self.answers.accepted(cycle, request)
        if reads is not None and inputs.reads_ready:
            self.read_ids.read(cycle, reads[0])
        if writes is not None and inputs.writes_ready:
            self.writes.write(cycle, writes)
        if response is not None and inputs.register_responses_ready:
            registers.taken()
        if access is not None and accesses_ready:
            registers.accepted(cycle, access[0])
        self._quiet = registers.due is None and not self._held_any

    def _stability(self, cycle: int, out: Outputs, inputs: Inputs) -> None:
        """P1 on all streams; needed while something is held, before or after this cycle."""
        requests_ready, accesses_ready, hits, completions, reads, writes, response = out
        s_hits, s_completions, s_reads, s_writes, s_responses, s_requests, s_accesses = self._streams
        s_hits.offer(cycle, hits, inputs.hits_ready)
        s_completions.offer(cycle, completions, inputs.completions_ready)
        s_reads.offer(cycle, reads, inputs.reads_ready)
        s_writes.offer(cycle, writes, inputs.writes_ready)
        s_responses.offer(cycle, response, inputs.register_responses_ready)
        s_requests.offer(cycle, inputs.request, requests_ready)
        s_accesses.offer(cycle, inputs.register_request, accesses_ready)
        self._completion_held = s_completions.held
        self._held_any = any(stream.held is not None for stream in self._streams)

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
