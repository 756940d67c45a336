"""The fault log against the refusals: each recorded that has to be, none that must not (facts B1, A4)."""

from collections import deque
from dataclasses import dataclass

from pymodel.iommu.types import Request
from pymodel.spec.faults import FAULT_RECORD, Reason
from pymodel.spec.params import IommuParams

__all__ = ["FaultJudge"]


@dataclass(slots=True)
class _Refusal:
    request: Request
    reason: Reason
    accepted_at: int
    refused_at: int
    must: bool


class FaultJudge:
    """Fed with refused requests and with records as they are written or read out, in any order in time.

    A refusal and its record find each other by source, PASID, reason, page and direction. Refusals that came
    while the log had no room (next record still valid, or overflow not cleared) may be missing. A record that
    nobody asked for is reported once its refusal has not come by `settle` or `finish`.
    """

    def __init__(self, params: IommuParams) -> None:
        self._valid = [False] * params.fault_records
        self._next = 0
        self.overflow = False
        """FSTS.PFO as this judge sees it: set by `overflowed`, cleared by `overflow_cleared`."""
        self._no_room_at = -1
        """Latest cycle in which the log may have had no room."""
        self._refusals: deque[_Refusal] = deque()
        self._records: list[tuple[int, int]] = []
        """(cycle, record) that no refusal explains yet."""

    def refused(
        self, request: Request, reason: Reason, recordable: frozenset[bool], accepted_at: int, refused_at: int
    ) -> None:
        """A request was refused; `recordable` is `Judge.recordable`'s answer."""
        if True not in recordable:
            return
        refusal = _Refusal(request, reason, accepted_at, refused_at, False not in recordable)
        for index, (_, record) in enumerate(self._records):
            if self._explains(refusal, record):
                del self._records[index]
                return
        self._refusals.append(refusal)

    def recorded(self, time: int, index: int, record: int) -> str | None:
        """A 128-bit record was written to (or read from) fault record `index` in cycle `time`.

        Returns a sentence if it went to a record that was still valid.
        """
        complaint = None
        if self._valid[index]:
            complaint = f"cycle {time}: fault record {index} was overwritten before software cleared it"
        self._valid[index] = True
        self._next = (index + 1) % len(self._valid)
        if self._valid[self._next]:
            self._no_room_at = max(self._no_room_at, time)
        for position, refusal in enumerate(self._refusals):
            if self._explains(refusal, record):
                del self._refusals[position]
                return complaint
        self._records.append((time, record))
        return complaint

    def cleared(self, time: int, index: int) -> None:
        """Software cleared F of a record."""
        self._full(time)
        self._valid[index] = False

    def overflowed(self, time: int) -> str | None:
        """FSTS.PFO was seen set; a sentence if the log had room all the time."""
        self._full(time)
        first = not self.overflow
        self.overflow = True
        had_room = self._no_room_at < 0
        self._no_room_at = max(self._no_room_at, time)
        return f"cycle {time}: fault overflow although the log had room" if first and had_room else None

    def overflow_cleared(self, time: int) -> None:
        """Software cleared FSTS.PFO."""
        self._full(time)
        self.overflow = False

    def _full(self, time: int) -> None:
        if self.overflow or self._valid[self._next]:
            self._no_room_at = max(self._no_room_at, time)

    def settle(self, time: int, patience: int = 64) -> list[str]:
        """Complaints about what is older than `patience` cycles; those are then forgotten."""
        self._full(time)
        complaints: list[str] = []
        late = time - patience
        while self._refusals and self._refusals[0].refused_at <= late:
            refusal = self._refusals.popleft()
            if refusal.must and self._no_room_at < refusal.accepted_at:
                complaints.append(
                    f"cycle {refusal.refused_at}: {refusal.request} was refused with {refusal.reason.name}; "
                    "expected a fault record, got none although the log had room"
                )
        kept: list[tuple[int, int]] = []
        for written, record in self._records:
            if written > late:
                kept.append((written, record))
                continue
            shown = ", ".join(
                f"{name} {value:#x}" for name, value in FAULT_RECORD.unpack(record).items() if name != "f"
            )
            complaints.append(f"cycle {written}: a fault record that no refused request explains: {shown}")
        self._records = kept
        return complaints

    def finish(self, time: int) -> list[str]:
        """All complaints that are left at the end."""
        return self.settle(time, patience=0)

    @staticmethod
    def _explains(refusal: _Refusal, record: int) -> bool:
        fields = FAULT_RECORD.unpack(record)
        request = refusal.request
        return (
            fields["reason"] == refusal.reason
            and fields["sid"] == request.sid
            and fields["address"] == request.iova >> 12
            and fields["t"] == (not request.write)
            and fields["pasid_present"] == (request.pasid is not None)
            and fields["pasid"] == (request.pasid or 0)
            and fields["at"] == 0
            and fields["f"] == 1
        )
