"""The lock-step: one call for each clock cycle that judges what the IOMMU did and decides what it gets next.

Three judges, each of which can be switched off: "cycle" (the packed observation equals the cycle model's,
bit for bit), "legal" (every answer is one that the architecture allows), "protocol" (the numbered rules of
the ports). Nothing here depends on a simulator: a lane calls `cycle(obs)` with the observation of each
cycle and drives the inputs it returns.
"""

from collections.abc import Collection
from typing import Any, Protocol

from cocotb_tests.harness.decode import PortDecoder, difference, field_places
from cocotb_tests.harness.errors import BenchError, EmptyRun, Hang, HarnessError, Mismatch
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.ledger import Ledger
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.patterns import ALWAYS, Consumers, ReadyPattern
from cocotb_tests.harness.scheduler import Translate, Translation
from pymodel.cycle.inputs import Inputs
from pymodel.cycle.iommu import CycleModel
from pymodel.effects import WriteRegister
from pymodel.memory import PhysMem
from pymodel.spec.params import IommuParams

__all__ = ["JUDGES", "LockStep", "Source", "run_model_lane"]

JUDGES = frozenset({"cycle", "legal", "protocol"})
_DRAIN_QUIET = 8  # cycles that a drained bench still runs: late events would show


class Source(Protocol):
    """A device that streams requests without being an agent: cheaper, one method call for each request."""

    done: bool
    """No more requests will come."""

    def next(self, cycle: int) -> Translate | None:
        """The request to offer from this cycle on, or None."""

    def answered(self, translation: Translation) -> None:
        """A request of this source was answered."""


class LockStep(Ledger):
    """A bench around one IOMMU. Add agents (`scheduler.add`) and sources, then let a lane call `cycle`.

    It ends by itself: when `limit` cycles have passed, or all agents and sources have ended, it stops the
    sources, sets `stopping` for agents that run for ever, waits until everything is answered, and `cycle`
    returns None. Then `finish` says what was done. A broken rule raises a `BenchError` at once.
    """

    def __init__(
        self,
        params: IommuParams,
        *,
        seed: int = 0,
        memory: PhysMem | None = None,
        timing: MemoryTiming | None = None,
        judges: Collection[str] = JUDGES,
        log: EventLog | None = None,
        hits: ReadyPattern = ALWAYS,
        completions: ReadyPattern = ALWAYS,
        responses: ReadyPattern = ALWAYS,
        limit: int | None = None,
        hang_limit: int = 50_000,
        answers_expected: bool = True,
        replay: str = "",
    ) -> None:
        """`replay`: the command that repeats this run, shown with every failure."""
        if not set(judges) <= JUDGES:
            raise HarnessError(f"judges must be among {sorted(JUDGES)}, not {sorted(judges)}")
        super().__init__(params, seed, memory, timing, log, "legal" in judges, "protocol" in judges)
        self.replay = replay or f"seed {seed}"
        self._consumers = Consumers(hits, completions, responses, seed)
        self.model: CycleModel | None = CycleModel(params) if "cycle" in judges else None
        self._decoder = None if self.model is not None else PortDecoder(params)
        self._queue_low, self._queue_mask = self._events.queue_low, self._events.queue_mask
        self._events_low = self._events.events_low
        self._valid = sum(
            1 << places[0] for name, places in field_places(params).items() if name.endswith("_valid")
        )
        self.inputs = Inputs()
        self.inputs.reads_ready = self.inputs.writes_ready = True
        self.inputs.hits_ready = self.inputs.completions_ready = self.inputs.register_responses_ready = True
        self.sources: list[Source] = []
        self._turn = 0
        self._request_done = self._access_done = False  # taken in the last cycle, still in `inputs`
        self.limit, self._hang_limit = limit, hang_limit
        self._answers_expected = answers_expected
        self.stopping = False
        """True once the run drains; agents that run for ever look at it and end."""
        self.finished = False
        self._check_at = 0
        self._stopped_at = self._quiet_since = self._moved_at = 0
        self._mark: object = None

    def add_source(self, source: Source) -> None:
        """Let `source` offer requests."""
        self.sources.append(source)

    # --- one cycle -----------------------------------------------------------------------------------------

    def cycle(self, obs: int) -> Inputs | None:
        """Judge the observation of this cycle; return the inputs of this cycle, or None when the run is over.

        The object is the same every time; it is valid until the next call.
        """
        try:
            return self._cycle(obs)
        except BenchError as error:
            error.history = self.history()
            error.replay = self.replay
            raise

    def _cycle(self, obs: int) -> Inputs | None:
        now = self.now
        if not now and self.judge is not None:
            # What memory held while the bench was set up is no history: nothing can have cached it.
            self.memory.observers.append(self._stored)
        model = self.model
        out: Any = model
        if model is None:
            out = self._decoder
            out.load(obs)
        elif obs != model.observe():
            raise Mismatch(now, difference(self.params, model.observe(), obs))
        events = obs >> self._events_low
        if events:
            self._take_events(now - 1, events)
        queue = obs >> self._queue_low & self._queue_mask
        if queue != self._queue:
            self._queue = queue
            self._take_queue(now, obs)
        if now >= self._check_at and self._check_end(now):
            return None
        scheduler = self.scheduler
        if scheduler.due <= now:
            scheduler.run(now)
        requests_ready, accesses_ready = obs & 1, obs >> 1 & 1
        if obs & self._valid:
            reads, writes, response = out.reads, out.writes, out.register_responses
            hits, completions = out.hits, out.completions
        else:
            reads = writes = response = hits = completions = None

        inputs = self.inputs
        if self._request_done:
            self._request_done, inputs.request = False, None
        if self._access_done:
            self._access_done, inputs.register_request = False, None
        request = inputs.request
        if request is None and (scheduler.translates or self.sources):
            request = inputs.request = self._next_request(now)
        access = inputs.register_request
        if access is None and scheduler.accesses:
            access = inputs.register_request = self._next_access()
        if not self._consumers.always:
            inputs.hits_ready, inputs.completions_ready, inputs.register_responses_ready = (
                self._consumers.step()
            )
        port = self.port
        if port.active or reads is not None or writes is not None:
            took = port.step(now, reads, writes)
            inputs.reads_ready, inputs.writes_ready = port.reads_ready, port.writes_ready
            inputs.read_data, inputs.write_ack = port.read_data, port.write_ack
            self._log_memory(now, took, reads, writes)
        protocol = self.protocol
        if protocol is not None:
            protocol.cycle(
                now, (requests_ready, accesses_ready, hits, completions, reads, writes, response), inputs
            )
        if model is not None:
            model.step(inputs)
        self.now = now + 1

        # What was transferred. `inputs` stays as it is; what was taken leaves it in the next cycle.
        if hits is not None and inputs.hits_ready:
            self._answered(now, "hits", hits)
        if completions is not None and inputs.completions_ready:
            self._answered(now, "completions", completions)
        if response is not None and inputs.register_responses_ready:
            self._register_answered(now, response)
        if request is not None and requests_ready:
            self._request_done = True
            self._accepted(now, request)
        if access is not None and accesses_ready:
            self._access_done = True
            self._access_accepted(now)
        return inputs

    # --- what goes in --------------------------------------------------------------------------------------

    def _next_request(self, now: int) -> tuple[int, int, int, int, int, int] | None:
        """The request to offer from this cycle on: agents first, then the sources in turn."""
        if not self._tags:
            return None
        translates = self.scheduler.translates
        if translates:
            self._request_owner, wanted = translates.popleft()
        else:
            sources, count = self.sources, len(self.sources)
            if self.stopping:
                return None
            for step in range(count):
                position = (self._turn + step) % count
                found = sources[position].next(now)
                if found is not None:
                    self._turn = position + 1
                    self._request_owner, wanted = sources[position], found
                    break
            else:
                return None
        pasid = wanted.pasid
        return (
            self._tags.popleft(), wanted.sid, int(pasid is not None), wanted.junk if pasid is None else pasid,
            wanted.iova, int(wanted.write),
        )  # fmt: skip

    def _next_access(self) -> tuple[int, int, int, int]:
        """The register access to offer from this cycle on."""
        self._access = _run, effect = self.scheduler.accesses.popleft()
        lane = effect.offset & 7
        if type(effect) is WriteRegister:
            return 1, effect.offset, effect.value << 8 * lane, (1 << effect.size) - 1 << lane
        return 0, effect.offset, 0, 0

    # --- the end -------------------------------------------------------------------------------------------

    def _check_end(self, now: int) -> bool:
        """Look whether the run is over, drains, or hangs."""
        self._check_at = now + 8
        if self.open:
            oldest = next(iter(self.open.values()))
            if now - oldest.accepted_at > self._hang_limit:
                raise Hang(now, f"cycle {now}: no answer for {self._hang_limit} cycles: {oldest!r}")
        scheduler = self.scheduler
        mark = (scheduler.effects, self.statistics.accepted, self.statistics.answers)
        if mark != self._mark or scheduler.sleeping:
            self._mark, self._moved_at = mark, now
        elif now - self._moved_at > self._hang_limit and scheduler.unfinished:
            waits = "; ".join(scheduler.stuck()[:4])
            raise Hang(now, f"cycle {now}: nothing moved for {self._hang_limit} cycles; agents: {waits}")
        if not self.stopping:
            over = self.limit is not None and now >= self.limit
            ended = not scheduler.unfinished and all(source.done for source in self.sources)
            if over or (ended and (self.limit is None or scheduler.runs or self.sources)):
                self.stopping, self._stopped_at, self._quiet_since = True, now, now
            return False
        busy = (
            self.open or scheduler.unfinished or self.port.busy or self._access or self._responding
            or self.inputs.request
        )  # fmt: skip
        if busy:
            self._quiet_since = now
            if now - self._stopped_at > self._hang_limit:
                waits = "; ".join(scheduler.stuck()[:4]) or "none"
                raise Hang(
                    now,
                    f"cycle {now}: the drain did not end in {self._hang_limit} cycles: "
                    f"{len(self.open)} requests open, "
                    f"memory {'busy' if self.port.busy else 'idle'}, agents: {waits}",
                )
            return False
        self.finished = now - self._quiet_since >= _DRAIN_QUIET
        return self.finished

    def finish(self) -> dict[str, Any]:
        """Final checks after `cycle` returned None; the summary of the run as JSON-able values."""
        statistics = self.statistics
        statistics.cycles = self.now
        statistics.cycles_compared = self.now if self.model is not None else 0
        if not self.finished:
            raise HarnessError("finish() before the run was over")
        if self.protocol is not None:
            try:
                self.protocol.finish(self.now)
            except BenchError as error:
                error.history, error.replay = self.history(), self.replay
                raise
        if not self.now:
            raise EmptyRun(0, "no cycle was run")
        if self._answers_expected and not statistics.answers:
            raise EmptyRun(self.now, f"no request was answered in {self.now} cycles: the run checked nothing")
        summary: dict[str, Any] = {"seed": self.seed, "cycles": self.now, "statistics": statistics.summary()}
        if self.log is not None:
            summary["log_sha256"], summary["log_events"] = self.log.sha256, self.log.count
            self.log.close()
        return summary


def run_model_lane(lockstep: LockStep, cycles: int = 10_000_000) -> dict[str, Any]:
    """Run a bench without a simulator: the cycle model is its own device under test. Returns the summary."""
    model = lockstep.model
    if model is None:
        raise HarnessError("the model lane needs the judge 'cycle'")
    for _ in range(cycles):
        if lockstep.cycle(model.observe()) is None:
            return lockstep.finish()
    raise Hang(lockstep.now, f"the run was not over after {cycles} cycles")
