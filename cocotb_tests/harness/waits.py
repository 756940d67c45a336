"""Wait descriptors: what each waits for, writes and leaves behind (docs/timing.md I8, I9, M1)."""

from cocotb_tests.harness.errors import ProtocolError
from pymodel.spec.descriptors import WAIT
from pymodel.spec.observation import Lookup, QueueState, WriteId

__all__ = ["Staleness", "Waits"]

_STATUS_WRITE, _INTERRUPT, _FENCE = (WAIT.mask(name) for name in ("status_write", "interrupt", "fence"))
_ONLY_AFTER = {QueueState.STATUS: QueueState.WAIT, QueueState.FENCE: QueueState.STATUS}


class Staleness:
    """I8: a wait leaves its state WAIT only when every answer older than the last invalidation has been
    taken."""

    __slots__ = ("_completion_at", "_mark", "_popped_at", "_state", "completion", "popped", "pushed")

    _ANSWERED = frozenset((Lookup.PASS, Lookup.HIT, Lookup.FAULT))

    def __init__(self) -> None:
        self.pushed = self.popped = 0  # hits that entered and left the FIFO
        self._mark = 0  # hits that must have left
        self.completion: object = None  # completion that was offered when an invalidation was applied
        self._popped_at = self._completion_at = -1  # cycles in which the last ones were taken
        self._state = 0

    def looked_up(self, kind: int) -> None:
        """What the lookup did in the cycle before."""
        if kind in self._ANSWERED:
            self.pushed += 1

    def applied(self, offered: object) -> None:
        """An invalidation was applied in the cycle before; `offered` is the completion that it left untaken (or
        None)."""
        self._mark = self.pushed
        self.completion = offered

    def hit_taken(self, cycle: int) -> None:
        """An answer was taken from `hits`."""
        self.popped += 1
        self._popped_at = cycle

    def completion_taken(self, cycle: int) -> None:
        """An answer was taken from `completions`."""
        if self.completion is not None:
            self.completion = None
            self._completion_at = cycle

    def state(self, cycle: int, state: int) -> None:
        """State of the queue in this cycle; what was taken in the cycle before does not count yet."""
        before, self._state = self._state, state
        if before == QueueState.WAIT and state != QueueState.WAIT:
            hits = self._mark - self.popped + (self._popped_at == cycle - 1)
            completions = int(self.completion is not None or self._completion_at == cycle - 1)
            if hits > 0 or completions:
                raise ProtocolError(
                    "I8", cycle - 1,
                    f"the wait went on with {max(0, hits)} old hits and {completions} old completions not taken",
                )  # fmt: skip


class Waits:
    """I9: which states a wait goes through, and when; M1: the status write follows its grant and says what the
    descriptor says."""

    __slots__ = ("_acked_at", "_leave_at", "_unacknowledged", "_wait", "due", "line", "since", "state",
                 "watched")  # fmt: skip

    def __init__(self) -> None:
        self.state: int = QueueState.IDLE
        self.since = 0
        """Cycle from which the queue is in this state."""
        self.line = 0
        """The queue's line that was fetched last."""
        self.due: tuple[int, int, int] | None = None
        """The status write that must stand on the port in this cycle."""
        self._wait = 0
        self._unacknowledged = 0
        self._acked_at = -1
        self._leave_at: int | None = None
        """Cycle in which FENCE must be over."""
        self.watched = False
        """Whether the next cycles have to be looked at even if no port does anything: in STATUS, and while FENCE must
        be left."""

    def moved(self, cycle: int, state: int, head: int) -> bool:
        """State and head of the queue in this cycle (in bytes); True if a wait has set ICS.IWC in the cycle before."""
        before = self.state
        if before == state:
            return False
        self.state, self.since = state, cycle
        self.watched = state == QueueState.STATUS
        wait, completes = self._wait, False
        if before == QueueState.WAIT:
            writes = bool(wait & _STATUS_WRITE)
            if writes != (state == QueueState.STATUS):
                self._wrong(cycle, before, state, f"a wait with SW={int(writes)}")
            completes = not writes
        elif before == QueueState.STATUS:
            fence = bool(wait & _FENCE)
            if fence != (state == QueueState.FENCE):
                self._wrong(cycle, before, state, f"a wait with FN={int(fence)}")
            self._unacknowledged += 1
            self.due = (WriteId.STATUS, WAIT.get(wait, "address") << 2, WAIT.get(wait, "data"))
            completes = True
        elif before == QueueState.FENCE:
            self._leave_at = None
            if self._unacknowledged or self._acked_at == cycle - 1:
                raise ProtocolError("I9", cycle - 1, "the fence was left with a status write that is not acknowledged")
        needed = _ONLY_AFTER.get(QueueState(state))
        if needed is not None and before != needed:
            self._wrong(cycle, before, state, "the queue")
        if state == QueueState.WAIT:
            self._wait = self.line >> 8 * (head & 63) & (1 << WAIT.width) - 1
        return completes and bool(wait & _INTERRUPT)

    def _wrong(self, cycle: int, before: int, state: int, who: str) -> None:
        names = f"{QueueState(before).name} to {QueueState(state).name}"
        raise ProtocolError("I9", cycle - 1, f"{who} went from {names}")

    def acked(self, cycle: int) -> None:
        """A status write was acknowledged."""
        self._unacknowledged -= 1
        self._acked_at = cycle
        if self.state == QueueState.FENCE and not self._unacknowledged:
            self._leave_at = cycle + 2
            self.watched = True

    def watch(self, cycle: int, offered: tuple[int, int, int] | None) -> None:
        """The write that stands on the port for the first cycle, or None, while `watched` or a write is `due`."""
        due, self.due = self.due, None
        if due is not None and offered != due:
            raise ProtocolError("M1", cycle, f"the status write {due!r} must be on the port, not {offered!r}")
        if self._leave_at is not None and cycle >= self._leave_at:
            raise ProtocolError("I9", cycle - 1, "the fence was not left although all status writes are acknowledged")

    def not_granted(self, cycle: int, what: str) -> None:
        """The write buffer was free in the cycle before, and `what` happened instead of a status write."""
        if self.state == QueueState.STATUS and self.since < cycle:
            raise ProtocolError("M1", cycle, f"a status write waits for the write buffer, but {what}")
