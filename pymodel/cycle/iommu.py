"""The cycle-exact model of the whole IOMMU: wires the blocks together, one `step` a clock edge."""

from pymodel.cycle.context import ContextCache
from pymodel.cycle.fault import FaultLog
from pymodel.cycle.frontend import FIFO_DEPTH, Frontend
from pymodel.cycle.inputs import Inputs
from pymodel.cycle.invalidation import InvalidationQueue
from pymodel.cycle.iotlb import Iotlb
from pymodel.cycle.layout import Layout, ResponseShifts
from pymodel.cycle.registers import Registers
from pymodel.cycle.walk_cache import WalkCache
from pymodel.cycle.walker import Walker
from pymodel.spec.observation import Lookup, QueueState, WriteId, fetch_id
from pymodel.spec.params import IommuParams

__all__ = ["CycleModel"]

_MASK_FIELDS = ("slots_busy", "slots_killed", "pending_used")
_CONTROL_FIELDS = ("queue_state", "queue_head", "translation_enabled", "queue_enabled", "queue_error",
                   "fault_overflow", "fault_pending")  # fmt: skip
_BUILT_FOR = {"np_cache": False, "inv_reorder": False, "drain_always": True}
_FETCH = QueueState.FETCH.value
_APPLY = QueueState.APPLY.value
_STALL = Lookup.STALL.value
_STATUS = QueueState.STATUS.value
_KEEPS_STATE = Lookup.FAULT.value  # lookups up to this one, not replayed, change neither slots nor entries
_STATUS_ID = WriteId.STATUS.value


class CycleModel:
    """Predicts every output and event of the IOMMU in every cycle from its inputs alone (docs/timing.md).

    Outputs are functions of state (P2): read them, or `observe`, before `step` lets the cycle end. Raises
    `ValueError` for knobs that neither RTL nor model are built for.
    """

    __slots__ = ("_all_pending", "_all_slots", "_apply_at", "_completions_at", "_control_shifts",
                 "_control_stale", "_control_word", "_event", "_faults", "_fetch", "_frontend",
                 "_hit_places", "_hits_at", "_invalidations", "_killed_at", "_layout", "_lookup_at",
                 "_mask_shifts", "_params", "_quiet", "_reads_at", "_recorded_at", "_registers",
                 "_response_at", "_stalled", "_status", "_status_at", "_status_stale", "_walker", "_word",
                 "_word_stale", "_writes_at")  # fmt: skip

    def __init__(self, params: IommuParams) -> None:
        for name, value in _BUILT_FOR.items():
            if getattr(params, name) is not value:
                raise ValueError(f"{name}={getattr(params, name)}: the cycle model is built for {value}")
        self._params = params
        self._layout = layout = Layout(params)
        at = layout.at
        self._hits_at, self._completions_at = at["hits_valid"], at["completions_valid"]
        self._hit_places = layout.places["hits"]  # in most cycles there is a hit
        self._reads_at, self._writes_at = at["reads_valid"], at["writes_valid"]
        self._response_at = at["register_responses_valid"]
        self._status_at, self._lookup_at = at["queue_state"], at["lookup"]
        self._apply_at, self._killed_at = layout.within("lookup", "apply"), layout.within("lookup", "killed")
        self._recorded_at = layout.within("lookup", "faults_recorded")
        self._mask_shifts = [layout.within("queue_state", name) for name in _MASK_FIELDS]
        self._control_shifts = [layout.within("queue_state", name) for name in _CONTROL_FIELDS]
        self._all_slots = (1 << params.walk_slots) - 1
        self._all_pending = (1 << params.pending_requests) - 1
        self._fetch = fetch_id(params)
        self.reset()

    def reset(self) -> None:
        """Back to the state after reset (P4)."""
        params, layout = self._params, self._layout
        contexts = ContextCache(params.context_entries)
        caches = (contexts, Iotlb(params, ResponseShifts(layout)), WalkCache(params))
        self._faults = FaultLog(params)
        self._registers = Registers(params, layout, self._faults)
        self._walker = Walker(params, layout, caches)
        self._frontend = Frontend(params, layout, (self._registers, self._faults, self._walker), caches)
        self._invalidations = InvalidationQueue(params, self._registers, self._walker, caches)
        self._event = 0
        self._stalled = 0
        self._word = 0
        self._word_stale = True
        self._status = self._control_word = 0
        self._status_stale = self._control_stale = True
        self._quiet = True

    # --- outputs of the current cycle -------------------------------------------------------------------

    @property
    def requests_ready(self) -> bool:
        """F1."""
        return len(self._frontend.requests) < FIFO_DEPTH

    @property
    def hits(self) -> tuple[int, ...] | None:
        """Oldest answer of the hit FIFO, or None (F2)."""
        hits = self._frontend.hits
        return tuple([hits[0] >> low & mask for low, mask in self._hit_places]) if hits else None

    @property
    def completions(self) -> tuple[int, ...] | None:
        """The answer offered by a pending entry, or None (C1)."""
        return self._layout.payload("completions", self._frontend.offered_word)

    @property
    def reads(self) -> tuple[int, ...] | None:
        """(id, line), or None (W2)."""
        return self._layout.payload("reads", self._walker.offered_word)

    @property
    def writes(self) -> tuple[int, ...] | None:
        """(id, address, data), or None (M1)."""
        return self._layout.payload("writes", self._registers.buffer)

    @property
    def register_requests_ready(self) -> bool:
        """R1."""
        return self._registers.response is None

    @property
    def register_responses(self) -> int | None:
        """Data of the waiting response, or None (R1)."""
        return self._registers.response

    def observe(self) -> int:
        """The packed observation of the current cycle, in the layout of `pymodel.spec.observation`."""
        if self._word_stale:
            self._word_stale = False
            self._word = self._pack()
        return self._word

    def _pack(self) -> int:
        frontend, registers = self._frontend, self._registers
        word = self._event << self._lookup_at
        if self._status_stale:
            self._status_stale = False
            self._status = self._pack_status()
        word |= self._status
        ready = 1 if len(frontend.requests) < FIFO_DEPTH else 0
        if registers.response is None:
            word |= ready | 2
        else:
            word |= ready | (registers.response << 1 | 1) << self._response_at
        if frontend.hits:
            word |= frontend.hits[0] << self._hits_at
        if frontend.offered_word:
            word |= frontend.offered_word << self._completions_at
        if self._walker.offered_word:
            word |= self._walker.offered_word << self._reads_at
        if registers.buffer:
            word |= registers.buffer << self._writes_at
        return word

    @property
    def quiet(self) -> bool:
        """From this cycle on nothing changes, events included, until the IOMMU takes an input.

        `ready` of a consumer is none. The lookup may stall all the time (L3).
        """
        return self._quiet and self._event == self._stalled

    def fields(self) -> dict[str, int]:
        """The observation of the current cycle by field name."""
        return self._layout.unpack(self.observe())

    def _pack_status(self) -> int:
        """The state part of the observation: queue, slots, entries, enables, fault status (O1)."""
        walker = self._walker
        if self._control_stale:
            self._control_stale = False
            self._control_word = self._pack_control()
        busy_at, killed_at, pending_at = self._mask_shifts
        word = (self._all_slots & ~walker.free) << busy_at | walker.killed << killed_at
        word |= (self._all_pending & ~self._frontend.free) << pending_at | self._control_word
        return word << self._status_at

    def _pack_control(self) -> int:
        """The part of the state that only `_control` changes."""
        registers, faults = self._registers, self._faults
        values = (
            self._invalidations.state, registers.head >> 4, registers.translation_enabled,
            registers.queue_enabled, registers.queue_error, faults.overflow, int(faults.pending != 0),
        )  # fmt: skip
        word = 0
        for shift, value in zip(self._control_shifts, values, strict=True):
            word |= value << shift
        return word

    # --- one clock edge ---------------------------------------------------------------------------------

    def step(self, inputs: Inputs) -> None:
        """Let the current cycle end. Every block judges the state at the start of the cycle."""
        frontend = self._frontend
        requests = frontend.requests
        if self._quiet:
            if (inputs.read_data is None and inputs.register_request is None and inputs.write_ack is None
                    and (inputs.request is None or len(requests) >= FIFO_DEPTH)):  # fmt: skip
                if self._event != self._stalled:
                    self._event = self._stalled
                    self._word_stale = True
                return
            self._quiet = False
        self._word_stale = True
        walker, registers, queue, hits = self._walker, self._registers, self._invalidations, frontend.hits
        # P1: the transfers of this cycle. Reads of registers see the values of this cycle (R1).
        accepted = inputs.request if len(requests) < FIFO_DEPTH else None
        hit_taken = inputs.hits_ready and len(hits) > 0
        answer_taken = inputs.completions_ready and frontend.offered >= 0
        if registers.response is None:
            if inputs.register_request is not None:
                registers.response = registers.access(inputs.register_request)
        elif inputs.register_responses_ready:
            registers.response = None
        # Completion, arrival, lookup or apply.
        applying = queue.state == _APPLY
        killing = queue.killing() if applying else 0
        if answer_taken:
            frontend.take_completion()
            self._status_stale = True
        refused = 0
        if frontend.unbelieved >= 0:
            refused = frontend.retry()
            self._status_stale = True
        event = 0
        fetched = arrived = None
        if inputs.read_data is not None:
            ident, error, data = inputs.read_data
            if ident == self._fetch:
                fetched = (error, data)
                event = walker.arrival(ident)
            else:
                arrived = ident
                walker.arrive(ident, error, data, killing)
                event = walker.event
        if applying:
            event |= self._apply(killing)
            self._stalled = 0
        elif self._stalled and not (answer_taken or refused):
            event |= _STALL  # as in the cycle before, since which nothing changed that a lookup looks at
        else:
            frontend.lookup()
            looked_up = frontend.event
            event |= looked_up
            if looked_up > _KEEPS_STATE:
                self._status_stale = True
            elif looked_up == _STALL:
                self._stalled = _STALL
        if arrived is not None:
            answered, replayed, on_time = walker.settle()
            frontend.answer |= answered
            frontend.replay |= replayed
            frontend.late &= ~on_time
            self._status_stale = True
            if frontend.retried or not walker.issue >> arrived & 1:
                self._stalled = 0  # a walk that goes on matters to retried requests alone (L2.9)
        if refused:
            frontend.replay |= refused
        if hit_taken:
            del hits[0]
        if hit_taken or answer_taken or refused:
            self._stalled = 0
        if accepted is not None:
            requests.append(accepted)
        # Queue, writes, registers, faults.
        if (registers.events_awake or not queue.asleep or fetched is not None or registers.written
                or inputs.write_ack is not None or self._faults.reports or registers.buffer):  # fmt: skip
            event |= self._control(inputs, fetched)
            self._stalled = 0
        if applying:
            queue.note_stale(len(hits), frontend.offered >= 0)
        elif queue.stale or queue.stale_completion:
            queue.drain(hit_taken, answer_taken)
            queue.asleep = False
        # Offers of the next cycle.
        if inputs.reads_ready and walker.offered >= 0:
            walker.accept()
        if walker.offered < 0:
            if queue.state == _FETCH:
                walker.offer_fetch(queue.read_address)
            elif walker.issue:
                walker.offer()
        if frontend.answer and frontend.offered < 0:
            frontend.offer()
        self._event = event
        if not (hits or frontend.answer or walker.offered >= 0) and (
            self._stalled or not (requests or frontend.replay)
        ):
            asleep = queue.asleep and not registers.events_awake
            self._quiet = asleep and not registers.buffer and registers.response is None

    def _apply(self, killing: int) -> int:
        """Apply an invalidation and kill walks (I6, I7); the lookup stalls (L1). Returns the events."""
        frontend, queue = self._frontend, self._invalidations
        self._status_stale = True
        frontend.stall()
        queue.apply()
        left = killing
        while left:
            bit = left & -left
            frontend.kill(bit.bit_length() - 1)
            left ^= bit
        return frontend.event | queue.applying << self._apply_at | killing << self._killed_at

    def _control(self, inputs: Inputs, fetched: tuple[int, int] | None) -> int:
        """The rest of the cycle: write buffer, events, queue, register write, faults (I1..I9, M1..M4, R2)."""
        registers, queue, faults, walker = self._registers, self._invalidations, self._faults, self._walker
        self._status_stale = self._control_stale = True
        if inputs.writes_ready:
            registers.buffer = 0
        buffer_free = not registers.buffer
        if registers.events_awake:
            registers.step_events(buffer_free and queue.state != _STATUS)
        queue.step(fetched, inputs.reads_ready and walker.offered == self._fetch, buffer_free)
        if inputs.write_ack == _STATUS_ID:
            queue.unacknowledged -= 1
        registers.commit_write()
        recorded = faults.commit()
        if registers.restart:
            registers.restart = False
            if walker.offered == self._fetch:
                walker.offer_fetch(queue.read_address)
        registers.events_awake = not registers.events_rest()
        queue.asleep = queue.rests()
        return recorded << self._recorded_at
