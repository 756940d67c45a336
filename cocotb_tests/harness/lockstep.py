"""The lock-step: one call for each clock cycle that judges what the IOMMU did and decides what it gets next.

Three judges, each of which can be switched off: "cycle" (the packed observation equals the cycle model's,
bit for bit), "legal" (every answer is one that the architecture allows), "protocol" (the numbered rules of
the ports). Nothing here depends on a simulator: a lane calls `cycle(obs)` with the observation of each
cycle and drives the inputs it returns.
"""

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from cocotb_tests.harness.decode import PortDecoder, difference, field_places
from cocotb_tests.harness.errors import BenchError, EmptyRun, Hang, HarnessError, Mismatch, ProtocolError
from cocotb_tests.harness.eventlog import EventLog
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.offers import Offers
from cocotb_tests.harness.patterns import ALWAYS, Consumers, ReadyPattern
from pymodel.cycle.inputs import Inputs
from pymodel.cycle.iommu import CycleModel
from pymodel.memory import PhysMem
from pymodel.spec.observation import Lookup
from pymodel.spec.params import IommuParams

__all__ = ["JUDGES", "LockStep", "run_model_lane"]

JUDGES = frozenset({"cycle", "legal", "protocol"})
_DRAIN_QUIET = 8  # cycles that a drained bench still runs: late events would show
_LONGEST_REST = 10_000  # cycles; an interrupt is seen after at most that many


class LockStep(Offers):
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
        self._events_low = self._events.events_low
        places = field_places(params)
        valid = {name: 1 << low for name, (low, _) in places.items() if name.endswith("_valid")}
        self._valid = sum(valid.values())
        self._hits_valid, self._completions_valid = valid["hits_valid"], valid["completions_valid"]
        self._reads_valid, self._writes_valid = valid["reads_valid"], valid["writes_valid"]
        self._responses_valid = valid["register_responses_valid"]
        self.inputs = _ready_inputs()
        self.sources = []
        self._request_done = self._access_done = False  # taken in the last cycle, still in `inputs`
        self.limit, self._hang_limit = limit, hang_limit
        self._answers_expected = answers_expected
        self.stopping = False
        self.finished = False
        self._check_at: float = 0
        self._resets: deque[tuple[int, int, Callable[[], None]]] = deque()
        self._reset_at: float = float("inf")
        self._idle = 1 << places["requests_ready"][0] | 1 << places["register_requests_ready"][0]
        self._calm_until = self._calm_obs = 0
        self._stopped_at = self._quiet_since = self._moved_at = 0
        self._mark: object = None

    # --- one cycle -----------------------------------------------------------------------------------------

    def cycle(self, obs: int) -> Inputs | None:
        """Judge the observation of this cycle; return the inputs of this cycle, or None when the run is over.

        What is returned is valid until the next call.
        """
        if self.now < self._calm_until and obs == self._calm_obs:
            self.skip(1)
            return self.inputs
        try:
            return self._cycle(obs)
        except BenchError as error:
            self._explain(error)
            raise

    def _explain(self, error: BenchError) -> None:
        """Add what led to an error, and how to repeat it."""
        error.history, error.replay = self.history(), self.replay

    def _cycle(self, obs: int) -> Inputs | None:
        now = self.now
        if not now:
            self._begin(now, obs)
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
        status = obs & self._status_mask
        if status != self._status:
            self._take_status(now, status)
        if now >= self._check_at:
            if self._check_end(now):
                return None
            if now >= self._reset_at and self._reset(now, obs):
                return self.inputs
        scheduler = self.scheduler
        if scheduler.due <= now:
            scheduler.run(now)
        requests_ready, accesses_ready = obs & 1, obs >> 1 & 1
        reads = writes = response = hits = completions = None
        valid = obs & self._valid
        if valid:
            if valid & self._hits_valid:
                hits = out.hits
            if valid & self._completions_valid:
                completions = out.completions
            if valid & self._reads_valid:
                reads = out.reads
            if valid & self._writes_valid:
                writes = out.writes
            if valid & self._responses_valid:
                response = out.register_responses

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
        if port.due <= now or reads is not None or writes is not None:
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
        if model is not None and model.quiet:
            self._calm_obs, self._calm_until = obs, self._calm(model, obs)
        return inputs

    # --- reset ---------------------------------------------------------------------------------------------

    def reset_at(self, cycle: int, boot: Callable[[], None], cycles: int = 1) -> None:
        """Reset the IOMMU in `cycle` and the following ones, `cycles` in all; later than the resets asked for before.

        Agents and sources end where they stand, open requests are never answered, the memory port forgets (P5). Then
        `boot` prepares memory and adds new agents and sources. A run that drains is not reset any more.
        """
        if cycles < 1 or cycle <= self.now or (self._resets and cycle <= sum(self._resets[-1][:2])):
            raise HarnessError(f"a reset of {cycles} cycles in {cycle} must come after what was asked for before")
        self._resets.append((cycle, cycles, boot))
        self._calm_until = 0
        self._reset_at = self._resets[0][0]
        self._check_at = min(self._check_at, self._reset_at)

    def _expect_idle(self, now: int, obs: int) -> None:
        """P4: what every cycle looks like that follows one of reset."""
        if self.protocol is not None and obs != self._idle:
            places = ", ".join(name for name, _, _ in difference(self.params, self._idle, obs))
            raise ProtocolError("P4", now, f"after reset all but the two ready outputs must be 0; wrong: {places}")

    def _begin(self, now: int, obs: int) -> None:
        """The first cycle without reset. What memory held before is no history: nothing can have cached it."""
        self._expect_idle(now, obs)
        if self.judge is not None:
            self.memory.observers.append(self._stored)

    def _reset(self, now: int, obs: int) -> bool:
        """A cycle in which a reset begins, lasts or has ended; False if it has ended."""
        start, cycles, boot = self._resets[0]
        inputs, observers = self.inputs, self.memory.observers
        if self.stopping and not inputs.reset:
            self._reset_at = float("inf")
            return False
        if now == start:
            self._settle(now, over=True)
            self.emit((now, "reset", len(self.open), cycles))
            self.statistics.resets += 1
            self.statistics.lost += len(self.open)
            if self.judge is not None:
                observers.remove(self._stored)
            self.port.reset(now)
            self.scheduler.clear(now)
            self.sources.clear()
            self._start()
            self._request_done = self._access_done = False
            self.inputs = inputs = Inputs(reset=True)
            boot()
        elif now == start + cycles:
            self._resets.popleft()
            self._reset_at = self._resets[0][0] if self._resets else float("inf")
            self.inputs = _ready_inputs()
            self._begin(now, obs)
            return False
        else:
            self._expect_idle(now, obs)
        if self.model is not None:
            self.model.reset()
        self.now = self._check_at = now + 1
        return True

    # --- cycles in which nothing can happen ----------------------------------------------------------------

    @property
    def rest(self) -> int:
        """How many of the next cycles need no call of `cycle`, as long as the observation stays that of the last one.

        A lane that sees by itself that it stays calls `skip` instead: every cycle is compared still.
        """
        left = self._calm_until - self.now
        return left if left > 0 else 0

    def _calm(self, model: CycleModel, obs: int) -> int:
        """First cycle after this one in which something may happen if the observation stays `obs`.

        Up to then the inputs stay as they are, the model predicts this very observation, and no agent, source, memory
        access or reset is due: cycles would be counted and no more.
        """
        inputs, scheduler = self.inputs, self.scheduler
        if (
            inputs.read_data is not None or inputs.write_ack is not None or inputs.register_request is not None
            or scheduler.accesses or not self._consumers.always
        ):  # fmt: skip
            return 0
        if inputs.request is None:
            if scheduler.translates or not (self.stopping or all(source.done for source in self.sources)):
                return 0
        elif obs & 1:  # the request was taken
            return 0
        if model.observe() != obs or (self.protocol is not None and not self.protocol.quiet):
            return 0
        until = min(scheduler.due, self.port.due, self._reset_at)
        if self.stopping or not scheduler.unfinished:
            until = min(until, self._check_at)  # the check in that cycle may end the run
        elif self.limit is not None:
            until = min(until, max(self.limit, self._check_at))
        return int(min(until, self.now + _LONGEST_REST))

    def skip(self, cycles: int) -> None:
        """`cycles` of the cycles of `rest` have passed with an unchanged observation."""
        self.now += cycles
        if self._calm_obs >> self._events_low:  # a lookup that stalls all the time
            self.statistics.lookups[Lookup.STALL] += cycles
        try:
            while self._check_at < self.now:
                self._check_end(int(self._check_at))
        except BenchError as error:
            self._explain(error)
            raise

    # --- the end -------------------------------------------------------------------------------------------

    def _check_end(self, now: int) -> bool:
        """Look whether the run is over, drains, or hangs."""
        self._check_at = min(now + 8, self._reset_at)
        self._settle(now)
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
        try:
            if self.protocol is not None:
                self.protocol.finish(self.now)
            self._settle(self.now, over=True)
        except BenchError as error:
            self._explain(error)
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


def _ready_inputs() -> Inputs:
    """Nothing is offered, everything would be taken."""
    return Inputs(
        hits_ready=True, completions_ready=True, reads_ready=True, writes_ready=True, register_responses_ready=True
    )


def run_model_lane(lockstep: LockStep, cycles: int = 10_000_000) -> dict[str, Any]:
    """Run a bench without a simulator: the cycle model is its own device under test. Returns the summary."""
    model = lockstep.model
    if model is None:
        raise HarnessError("the model lane needs the judge 'cycle'")
    for _ in range(cycles):
        if lockstep.cycle(model.observe()) is None:
            return lockstep.finish()
    raise Hang(lockstep.now, f"the run was not over after {cycles} cycles")
