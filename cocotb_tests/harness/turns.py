"""Fairness: reads of walk slots and answers of pending entries take turns (docs/timing.md W2, C1).

What wants its turn is followed from the events of the observation, as far as they tell: a slot wants to read from its
allocation, or from the fill of the pointer that it goes on with, until its read is accepted or it is killed; an entry
wants to answer from the end of its page walk. Of context walks the events do not tell where they stand: those are left
out, so that the checkers miss something there and never blame wrongly. Who takes turns is overtaken at most once by
each other one: a slot waits for at most W - 1 reads of others and one fetch, an entry for P - 1 other answers.
"""

from collections import deque

from cocotb_tests.harness.errors import ProtocolError
from pymodel.spec.observation import Lookup, fetch_id
from pymodel.spec.params import IommuParams

__all__ = ["Fairness", "Turns"]

_ANSWERED = frozenset((Lookup.PASS, Lookup.HIT, Lookup.FAULT))
_STARTS = frozenset((Lookup.WALK, Lookup.CONTEXT_WALK))


class Turns:
    """Of those that want, the first one at or after a pointer is served; then the pointer stands behind it."""

    __slots__ = ("_count", "_rule", "_what", "pointer", "wanting")

    def __init__(self, rule: str, what: str, count: int) -> None:
        self._rule, self._what, self._count = rule, what, count
        self.pointer: int | None = 0
        """None where it is not known."""
        self.wanting = 0
        """Those that certainly wanted their turn when the cycle began, one bit each."""

    def offered(self, cycle: int, number: int) -> None:
        """`number` was chosen in this cycle."""
        pointer = self.pointer
        if pointer is None:
            return
        passed = (1 << number) - (1 << pointer)
        if passed < 0:  # from the pointer to the end, and from the start on
            passed += (1 << self._count) - 1
        passed &= self.wanting
        if passed:
            first = passed >> pointer << pointer or passed
            waits = (first & -first).bit_length() - 1
            raise ProtocolError(
                self._rule, cycle, f"it is the turn of {self._what} {waits} (pointer {pointer}), not of {number}"
            )

    def taken(self, number: int) -> None:
        """`number` was served in this cycle."""
        self.wanting &= ~(1 << number)
        self.pointer = (number + 1) % self._count


class Fairness:
    """W2 and C1 from the events of the observation and the transfers of `requests`, `reads` and `completions`.

    Call the methods for events first, in the order in which they stand here; they tell of the cycle before.
    """

    __slots__ = (
        "_answer_taken_at", "_context", "_entries", "_fetch", "_late", "_members", "_pointer_holds", "_queue",
        "answers", "reads",
    )  # fmt: skip

    def __init__(self, params: IommuParams) -> None:
        self.reads = Turns("W2", "slot", params.walk_slots)
        self.answers = Turns("C1", "pending entry", params.pending_requests)
        self.answers.pointer = None
        self._fetch = fetch_id(params)
        self._members = [0] * params.walk_slots  # entries that joined, by slot
        self._context = 0  # slots that walk context structures
        self._queue: deque[int] = deque()  # tags that were accepted and not looked up
        self._entries: dict[int, int] = {}  # tag -> pending entry
        self._late = 0  # entries that may be late (L9): all that are, and some that joined a slot in ISSUE
        self._answer_taken_at = -1
        self._pointer_holds = False  # no entry may have been late since an answer was taken

    # --- events of the cycle before ---------------------------------------------------------------------------

    def looked_up(self, cycle: int, kind: int, replay: int, entry: int, slot: int) -> None:
        """A lookup that was neither NONE nor STALL."""
        if not replay:
            if not self._queue:
                raise ProtocolError("L1", cycle, "a request was looked up, but none had been accepted")
            tag = self._queue.popleft()
        bit = 1 << entry
        if kind in _ANSWERED:
            if replay:
                self._late &= ~bit
            return
        if not replay:
            self._entries[tag] = entry
        if kind in _STARTS:
            self._members[slot] = bit
            self.reads.wanting |= 1 << slot
            self._context &= ~(1 << slot)
            self._context |= (kind == Lookup.CONTEXT_WALK) << slot
            self._late &= ~bit
        else:
            self._members[slot] |= bit
            self._late |= bit
            self._pointer_holds = False

    def arrived(self, number: int, dropped: int, goes_on: bool, context_filled: bool) -> None:
        """Data for read id `number`; `goes_on`: pointers were filled."""
        if number == self._fetch:
            return
        if dropped or context_filled:  # the entries are looked up again
            self._members[number] = 0
        elif goes_on:
            self.reads.wanting |= 1 << number
            self._late &= ~self._members[number]
        elif not self._context >> number & 1:
            self.answers.wanting |= self._members[number]

    def killed(self, slots: int) -> None:
        """Walks were killed: their entries are looked up again, but for one whose answer is offered."""
        self.reads.wanting &= ~slots
        while slots:
            bit = slots & -slots
            slots ^= bit
            number = bit.bit_length() - 1
            self.answers.wanting &= ~self._members[number]
            self._members[number] = 0

    # --- transfers ----------------------------------------------------------------------------------------------

    def accepted(self, tag: int) -> None:
        """A request was accepted."""
        self._queue.append(tag)

    def read_offered(self, cycle: int, number: int, fetching: bool) -> None:
        """A read stands on the port for the first cycle; `fetching`: the queue engine wants to read."""
        if number >= self._fetch:
            return
        if fetching:
            raise ProtocolError("W2", cycle, f"slot {number} reads although the queue engine wants to, and goes first")
        self.reads.offered(cycle, number)

    def read_taken(self, number: int) -> None:
        """A read was accepted."""
        if number < self._fetch:
            self.reads.taken(number)

    def no_read(self, cycle: int, fetching: bool) -> None:
        """Nothing is offered on `reads`."""
        if fetching or self.reads.wanting:
            who = "the queue engine" if fetching else f"slots {self.reads.wanting:#b}"
            raise ProtocolError("W2", cycle, f"{who} must read, but no read is offered")

    def answer_offered(self, cycle: int, tag: int) -> None:
        """An answer stands on `completions` for the first cycle."""
        entry = self._entries.get(tag)
        # After a cycle without an offer the pointer may have passed entries whose refusal was not believed (C5).
        if entry is not None and (self._pointer_holds or self._answer_taken_at == cycle - 1):
            self.answers.offered(cycle, entry)

    def answer_taken(self, cycle: int, tag: int) -> None:
        """An answer was taken from `completions`."""
        entry = self._entries.get(tag)
        if entry is not None:
            self.answers.taken(entry)
            self._late &= ~(1 << entry)
            self._pointer_holds = not self._late
            self._answer_taken_at = cycle

    def no_answer(self, cycle: int) -> None:
        """Nothing is offered on `completions` although entries want to answer: one was late, and is refused (C5)."""
        if not self._late:
            wanting = self.answers.wanting
            raise ProtocolError("C1", cycle, f"pending entries {wanting:#b} must answer, but no answer is offered")
        self.answers.wanting &= ~self._late
