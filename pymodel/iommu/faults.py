"""The fault log against the refusals: each recorded that has to be, none that must not (facts B1, B5).

Three sources are held against each other: the answers that refuse, how many records the log took in which cycle with
FSTS.PFO and PPF as they change, and what software reads in FSTS and in the records. A fault is recorded after its
request was accepted and not later than the cycle in which its answer is taken (docs/timing.md L6, C3, M4).
"""

from collections import deque
from dataclasses import dataclass

from pymodel.iommu.types import Request
from pymodel.spec.faults import FAULT_RECORD, Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FAULT_RECORD_OFFSET, FSTS, REGISTERS

__all__ = ["FaultJudge"]

_FSTS = REGISTERS["FSTS"].offset
_FSTS_CHECKED = FSTS.mask("pfo", "ppf", "fri")
_RECORD_BYTES = 16
_WHOLE = (1 << FAULT_RECORD.width) - 1
_F = FAULT_RECORD.mask("f")


@dataclass(slots=True, eq=False)
class _Refusal:
    request: Request
    record: int
    """What the log has to hold, 128 bits."""
    accepted_at: int
    refused_at: int
    must: bool
    """It has to be in the log."""
    explains: bool = False
    """Some record was explained by it."""
    found: bool = False
    """Its own record was found."""

    def covers(self, time: int) -> bool:
        """Whether its fault may have been recorded, or dropped, in cycle `time`."""
        return self.accepted_at < time <= self.refused_at


@dataclass(slots=True, eq=False)
class _Written:
    """A record that was written; `known` are the bits that software has read."""

    time: int
    index: int
    known: int = 0
    value: int = 0
    cleared: bool = False


@dataclass(slots=True)
class _Reading:
    """A register read on its way: what it has to return where `mask` has ones, and the record that it shows."""

    offset: int
    mask: int = 0
    value: int = 0
    record: _Written | None = None
    low: int = 0
    """Lowest bit of the record that it returns."""
    bits: int = 0


@dataclass(slots=True)
class _Drop:
    """PFO rose at the end of cycle `time`: a fault found no room, after the `written` ones of that cycle."""

    time: int
    written: int
    refusals: int = 0
    """Those whose fault it, or one of the written ones, may be."""


@dataclass(slots=True)
class _Overflow:
    """PFO: faults may have been dropped from cycle `since` to cycle `until`, both included."""

    since: int
    until: int | None = None


class FaultJudge:
    """Told about refusals, records and accesses in the order of the cycles; complaints are sentences.

    Within a cycle: `written` and `status` (which tell of the cycle before), then answers, then accesses. Every record
    needs a refusal of its own with the same contents whose time covers it, and every refusal that must be recorded a
    record, unless PFO was set at some moment between its acceptance and its answer. A record that software clears
    without having read all of it may be any that agrees with what it read.

    Bounded: what is kept are the records that software has not cleared, those behind the oldest of them, and the
    refusals whose time covers one of these.
    """

    def __init__(self, params: IommuParams) -> None:
        self._valid = [False] * params.fault_records
        self._next = 0
        self._first = 0
        """FSTS.FRI."""
        self.overflow = False
        """FSTS.PFO at the start of the cycle."""
        self._overflows: deque[_Overflow] = deque()
        self._pending = False
        """FSTS.PPF as it was told last."""
        self._last_written = (-1, 0)
        """(cycle, count) of the records written last."""
        self._drops: list[_Drop] = []
        """Rises of PFO that may not be explained yet."""
        self._clears: list[tuple[int, int]] = []
        """(cycle, index): clears of F that take effect at the end of their cycle."""
        self._overflow_clear: int | None = None
        self._shown: list[_Written | None] = [None] * params.fault_records
        self._written: deque[_Written] = deque()
        self._fresh: deque[_Refusal] = deque()
        """Refusals whose cycles are not over."""
        self._held: list[_Refusal] = []
        """Refusals that cover a record in `_written`."""
        self._reading: _Reading | None = None

    @property
    def kept(self) -> int:
        """Refusals and records that are kept at present."""
        return len(self._fresh) + len(self._held) + len(self._written)

    # --- refusals -------------------------------------------------------------------------------------------

    def refused(
        self, request: Request, reason: Reason, recordable: frozenset[bool], accepted_at: int, refused_at: int
    ) -> None:
        """A request was refused; `recordable` is `Judge.recordable`'s answer."""
        if True not in recordable:
            return
        record = FAULT_RECORD.pack(
            address=request.iova >> 12, sid=request.sid, pasid_present=int(request.pasid is not None),
            pasid=request.pasid or 0, reason=reason, t=int(not request.write), f=1,
        )  # fmt: skip
        self._fresh.append(_Refusal(request, record, accepted_at, refused_at, False not in recordable))

    # --- what the log shows -----------------------------------------------------------------------------------

    def written(self, time: int, count: int) -> str | None:
        """`count` records were written in cycle `time` (M4)."""
        self._apply_clears(time)
        complaint = None
        if self.overflow:
            complaint = f"cycle {time}: a fault was recorded although FSTS.PFO is set"
        if not any(self._valid):
            self._first = self._next
        self._last_written = time, count
        for _ in range(count):
            index = self._next
            if self._valid[index] and complaint is None:
                complaint = f"cycle {time}: fault record {index} was overwritten before software cleared it"
            self._valid[index] = True
            record = self._shown[index] = _Written(time, index)
            self._written.append(record)
            self._next = (index + 1) % len(self._valid)
        return complaint

    def status(self, time: int, overflow: int, pending: int) -> str | None:
        """PFO and PPF at the start of cycle `time`, told when one of them has changed."""
        self._apply_clears(time - 1)
        full = self._valid[self._next]
        self._apply_clears(time)
        if overflow and not self.overflow:
            self._overflows.append(_Overflow(time - 1))
            written_at, count = self._last_written
            self._drops.append(_Drop(time - 1, count if written_at == time - 1 else 0))
            self.overflow = True
            if not full:
                return f"cycle {time - 1}: fault overflow although record {self._next} was free"
        elif self.overflow and not overflow:
            self.overflow = False
            self._overflows[-1].until = time - 1
            if self._overflow_clear != time - 1:
                return f"cycle {time}: FSTS.PFO fell although software did not clear it"
            self._overflow_clear = None
        self._pending = bool(pending)
        return self._wrong_pending(time)

    def _wrong_pending(self, time: int) -> str | None:
        """PPF is 1 exactly while some record is valid."""
        wanted, self._pending, told = any(self._valid), any(self._valid), self._pending
        return None if wanted == told else f"cycle {time}: FSTS.PPF must be {int(wanted)}, not {int(told)}"

    def _apply_clears(self, time: int) -> None:
        """Clears before cycle `time` have taken effect."""
        while self._clears and self._clears[0][0] < time:
            _, index = self._clears.pop(0)
            record, self._shown[index] = self._shown[index], None
            self._valid[index] = False
            if record is not None:
                record.cleared = True

    # --- software ---------------------------------------------------------------------------------------------

    def cleared(self, time: int, index: int) -> None:
        """Software writes 1 to F of a record; nothing happens to one that is not valid at the start of the cycle."""
        self._apply_clears(time)
        if self._valid[index]:
            self._clears.append((time, index))

    def overflow_cleared(self, time: int) -> None:
        """Software writes 1 to FSTS.PFO."""
        if self.overflow:
            self._overflow_clear = time

    def read(self, time: int, offset: int, size: int) -> None:
        """A register read of `size` bytes was accepted in cycle `time`: note what it has to return."""
        self._apply_clears(time)
        self._reading = None
        if offset <= _FSTS < offset + size:
            shift = 8 * (_FSTS - offset)
            value = FSTS.pack(pfo=self.overflow, ppf=any(self._valid), fri=self._first)
            self._reading = _Reading(offset, _FSTS_CHECKED << shift, value << shift)
        index, place = divmod(offset - FAULT_RECORD_OFFSET, _RECORD_BYTES)
        if 0 <= index < len(self._valid):
            low, bits = 8 * place, (1 << 8 * size) - 1
            wanted = _F if self._valid[index] else 0
            self._reading = _Reading(offset, _F >> low & bits, wanted >> low & bits, self._shown[index], low, bits)

    def read_answered(self, time: int, value: int) -> str | None:
        """The read that was accepted last is answered with `value`."""
        reading, self._reading = self._reading, None
        if reading is None:
            return None
        if (value ^ reading.value) & reading.mask:
            what = "FSTS (PFO, PPF, FRI)"
            if reading.offset >= FAULT_RECORD_OFFSET:
                what = f"F of fault record {(reading.offset - FAULT_RECORD_OFFSET) // _RECORD_BYTES}"
            return f"cycle {time}: {what} must read {reading.value:#x} under {reading.mask:#x}, not {value:#x}"
        record = reading.record
        if record is None:
            return None
        bits, part = reading.bits << reading.low, value << reading.low
        if (record.value ^ part) & record.known & bits:
            return f"cycle {time}: fault record {record.index} changed while its F was set"
        record.known |= bits
        record.value |= part & bits
        return None

    # --- verdicts ---------------------------------------------------------------------------------------------

    def settle(self, time: int, oldest: int) -> list[str]:
        """Complaints about all that is over: the cycles before `time` were told, and no request that was accepted
        before cycle `oldest` waits for its answer."""
        complaints: list[str] = []
        self._apply_clears(time)
        unseen = self._wrong_pending(time)  # PPF did not move when it had to
        if unseen is not None:
            complaints.append(unseen)
        if self._overflow_clear is not None and self._overflow_clear < time - 1:
            complaints.append(f"cycle {time}: FSTS.PFO stays set although software cleared it")
            self._overflow_clear = None
        fresh = self._fresh
        while fresh and fresh[0].refused_at < time:
            refusal = fresh.popleft()
            for drop in self._drops:
                drop.refusals += refusal.covers(drop.time)
            if refusal.must and self._excused(refusal):
                refusal.must = False
            self._held.append(refusal)
            self._retire(complaints, len(self._held) - 1)
        if not fresh:
            while self._overflows and (self._overflows[0].until or time) < min(oldest, time):
                self._overflows.popleft()
        while self._drops and self._drops[0].time < oldest:
            drop = self._drops.pop(0)
            if drop.refusals <= drop.written:
                complaints.append(f"cycle {drop.time}: fault overflow, but no refused request wanted a record")
        explained = False
        written = self._written
        while written and written[0].time < oldest and (written[0].cleared or written[0].known == _WHOLE):
            self._explain(written.popleft(), complaints)
            explained = True
        if explained:
            self._retire(complaints, 0)
        return complaints

    def finish(self, time: int, oldest: int) -> list[str]:
        """All complaints that are left where a run ends, or before a reset in cycle `time`: software reads no more of
        the log. `time` and `oldest` as in `settle`; requests from `oldest` on are never answered."""
        for record in self._written:
            record.cleared = True
        return self.settle(time, oldest)

    def _excused(self, refusal: _Refusal) -> bool:
        """Whether the log may have dropped it: PFO was set, or rose, while its fault may have happened."""
        return any(
            one.since <= refusal.refused_at and (one.until is None or one.until > refusal.accepted_at)
            for one in self._overflows
        )

    def _retire(self, complaints: list[str], start: int) -> None:
        """Forget the held refusals from position `start` on that cover no record any more."""
        kept = self._held[:start]
        for refusal in self._held[start:]:
            if any(refusal.covers(record.time) for record in self._written):
                kept.append(refusal)
            elif refusal.must and not refusal.found:
                reason = Reason(FAULT_RECORD.get(refusal.record, "reason"))
                complaints.append(
                    f"cycle {refusal.refused_at}: {refusal.request} was refused with {reason.name}; "
                    "expected a fault record, got none although the log had room"
                )
        self._held = kept

    def _explain(self, record: _Written, complaints: list[str]) -> None:
        """Find the refusal of a record, and the record of a refusal: two matchings, both in the order of the records
        to the refusal that ends first, which is the choice that never spoils another one."""
        agreeing = sorted(
            (
                one for one in (*self._held, *self._fresh)
                if one.covers(record.time) and not (one.record ^ record.value) & record.known
            ),
            key=lambda one: one.refused_at,
        )  # fmt: skip
        free = next((one for one in agreeing if not one.explains), None)
        if free is None:
            shown = ", ".join(
                f"{name} {value:#x}" for name, value in FAULT_RECORD.unpack(record.value).items() if name != "f"
            )
            complaints.append(f"cycle {record.time}: a fault record that no refused request explains: {shown}")
            return
        if record.known != _WHOLE:  # it may be the record of each of them
            for one in agreeing:
                one.found = True
            return
        free.explains = True
        missing = next((one for one in agreeing if one.must and not one.found), None)
        if missing is not None:
            missing.found = True
