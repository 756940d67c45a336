"""The fault log: recording registers, overflow, and the status bits that follow from them."""

from pymodel.cycle.inputs import Request
from pymodel.spec.faults import FAULT_RECORD
from pymodel.spec.params import IommuParams

__all__ = ["FaultLog"]

_F = FAULT_RECORD["f"].mask


class FaultLog:
    """Fault records (M4). Faults of a cycle are collected by `report` and take effect in `commit`."""

    __slots__ = ("clear", "clear_overflow", "index", "next", "overflow", "pending", "records",
                 "reports")  # fmt: skip

    def __init__(self, params: IommuParams) -> None:
        self.records = [0] * params.fault_records
        self.pending = 0
        """One bit for each record with F=1; PPF is that any is."""
        self.overflow = 0
        """PFO."""
        self.index = 0
        """FRI."""
        self.next = 0
        self.clear = 0
        """Records whose F software clears in this cycle; only bits that were set (R2)."""
        self.clear_overflow = 0
        self.reports: list[tuple[Request, int]] = []
        """(request, reason) of the faults of this cycle that `commit` has not yet recorded."""

    def report(self, request: Request, reason: int) -> None:
        """Note a fault of this cycle; the completion's comes before the lookup's (M4, L6, C3)."""
        self.reports.append((request, reason))

    def commit(self) -> int:
        """End of the cycle: record what was reported, then let software's clears act on older bits (M4, R2).

        Returns how many records were written.
        """
        recorded = 0
        clear, clear_overflow = self.clear, self.clear_overflow
        self.clear = self.clear_overflow = 0
        for request, reason in self.reports:
            recorded += self._record(request, reason)
        self.reports.clear()
        self.pending &= ~clear
        for index in range(len(self.records) if clear else 0):
            if clear >> index & 1:
                self.records[index] &= ~_F
        if clear_overflow:
            self.overflow = 0
        return recorded

    def _record(self, request: Request, reason: int) -> int:
        if self.overflow:
            return 0
        if self.pending >> self.next & 1:
            self.overflow = 1
            return 0
        _, sid, pasid_valid, pasid, iova, write = request
        self.records[self.next] = FAULT_RECORD.pack(
            address=iova >> 12, sid=sid, pasid_present=int(bool(pasid_valid)),
            pasid=pasid if pasid_valid else 0, reason=reason, t=0 if write else 1, f=1,
        )  # fmt: skip
        if not self.pending:
            self.index = self.next
        self.pending |= 1 << self.next
        self.next = (self.next + 1) % len(self.records)
        return 1
