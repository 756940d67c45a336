"""Fault records during a replay: what they must hold, read back through the register port."""

from collections import Counter
from collections.abc import Generator
from typing import Any

from pymodel.effects import ReadRegister, WriteRegister
from pymodel.spec.faults import FAULT_RECORD, SCALABLE_OF_LEGACY, Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FAULT_RECORD_OFFSET, FSTS, REGISTERS

__all__ = ["FaultLog", "same_reason"]

Difference = tuple[str, str, str]
"""Field, expected, got."""
_F = 1 << 31
_COMPARED = ("reason", "sid", "address", "t")


def same_reason(recorded: int, reason: int, scalable: bool) -> bool:
    """Whether `reason` is what the recorded unit reported; in scalable mode it reports the legacy numbers."""
    if recorded == reason:
        return True
    if not scalable or recorded not in [int(known) for known in Reason]:
        return False
    return reason in SCALABLE_OF_LEGACY.get(Reason(recorded), ())


class FaultLog:
    """The fault recording registers, read and cleared as a driver does it."""

    def __init__(self, params: IommuParams) -> None:
        self._count = params.fault_records
        self._expected: list[tuple[int, int, int, int]] = []  # reason, sid, page, t
        self._first = True  # no recorded record was compared since the log was cleared
        self.checked = 0
        """Records that were read back and agreed."""

    def expected(self, reason: int, sid: int, iova: int, write: bool, recorded: bool) -> None:
        """A request was refused."""
        if recorded:
            self._expected.append((reason, sid, iova >> 12, int(not write)))

    def read(self, index: int) -> Generator[Any, Any, int]:
        """One record, 128 bits."""
        offset = FAULT_RECORD_OFFSET + 16 * index
        low = yield ReadRegister(offset, 8)
        high = yield ReadRegister(offset + 8, 8)
        return int(low | high << 64)

    def compare(self, recorded: int, scalable: bool) -> Generator[Any, Any, list[Difference]]:
        """Differences between a record of the recorded unit and ours.

        The first one since the log was cleared is the record that FSTS.FRI names; a later one may be any, for
        the recorded unit folds further faults of one source into one.
        """
        status = yield ReadRegister(REGISTERS["FSTS"].offset, 4)
        start = FSTS.get(status, "fri")
        for step in range(1 if self._first else self._count):
            record = yield from self.read((start + step) % self._count)
            if not FAULT_RECORD.get(record, "f"):
                found = [("f", "a valid record", "none")]
            else:
                found = _differences(record, recorded, scalable)
            if not found:
                break
        if found and not self._first:
            found = [("record", "among the valid ones", "none that agrees")]
        self._first = False
        self.checked += not found
        return found

    def check(self) -> Generator[Any, Any, list[Difference]]:
        """Differences between the log and the refused requests since it was cleared."""
        records = []
        for index in range(self._count):
            record = yield from self.read(index)
            if FAULT_RECORD.get(record, "f"):
                records.append(tuple(FAULT_RECORD.get(record, name) for name in _COMPARED))
        found: list[Difference] = []
        wanted = min(len(self._expected), self._count)
        if len(records) != wanted:
            found.append(("number of records", str(wanted), str(len(records))))
        unknown = Counter(records) - Counter(self._expected)
        for entry in unknown:
            found.append(("a record", "a fault that was answered", " ".join(hex(value) for value in entry)))
        self.checked += len(records) - unknown.total()
        return found

    def clear(self) -> Generator[Any, Any, None]:
        """Clear every record, and forget what stood in them."""
        for index in range(self._count):
            offset = FAULT_RECORD_OFFSET + 16 * index + 12
            if (yield ReadRegister(offset, 4)) & _F:
                yield WriteRegister(offset, _F, 4)
        if FSTS.get((yield ReadRegister(REGISTERS["FSTS"].offset, 4)), "pfo"):
            yield WriteRegister(REGISTERS["FSTS"].offset, FSTS.mask("pfo"), 4)
        self._expected.clear()
        self._first = True


def _differences(record: int, recorded: int, scalable: bool) -> list[Difference]:
    found = []
    for name in _COMPARED:
        want, have = FAULT_RECORD.get(recorded, name), FAULT_RECORD.get(record, name)
        if want != have and not (name == "reason" and same_reason(want, have, scalable)):
            found.append((name, hex(want), hex(have)))
    return found
