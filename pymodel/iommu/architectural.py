"""Everything that a lock-step bench needs of judge 1, in one object."""

from collections import deque

from pymodel.iommu.faults import FaultJudge
from pymodel.iommu.legal import Judge, Violation
from pymodel.iommu.queue import Ignored, InvalidationQueue, Wait
from pymodel.iommu.types import Outcome, Request, TableMemory
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import FAULT_RECORD_OFFSET, FSTS, GCMD, REGISTERS

__all__ = ["ArchitecturalIommu"]

_PAIRS = ("RTADDR", "IQT", "IQA")


class ArchitecturalIommu:
    """The architectural IOMMU beside a real one: told what software did, asked whether answers are legal.

    Time is a cycle number that never decreases from call to call (`ValueError`). Stores reach it as memory
    observer::

        iommu = ArchitecturalIommu(params, memory)
        memory.observers.append(iommu.stored)
        ...
        iommu.advance(cycle)  # once in a cycle, before its stores

    Judge an answer in the cycle in which it is taken. Within a cycle a store must be told before the register write
    that releases the invalidation for it, as software does it; `faults` names its own order. Call `settle` now and
    then: it says what is wrong with the fault log and keeps memory bounded.
    """

    def __init__(self, params: IommuParams, memory: TableMemory) -> None:
        self.params = params
        self.memory = memory
        self.judge = Judge(params, memory)
        self.queue = InvalidationQueue(params, memory)
        self.faults = FaultJudge(params)
        self.stored = self.judge.stored
        """Memory observer: (address, old, new) of an aligned word, in the cycle of the last `advance`."""
        self.active_root = 0
        """The root pointer in use (RTADDR as it was at GCMD.SRTP)."""
        self.translation_enabled = False
        self._registers = dict.fromkeys(_PAIRS, 0)
        self._waits: deque[tuple[int, Wait]] = deque()
        """(ticket of the last invalidation ahead, wait) not yet seen to complete."""
        self._ticket = 0

    @property
    def time(self) -> int:
        """The current cycle."""
        return self.judge.clock.time

    @property
    def waits_pending(self) -> int:
        """Wait descriptors that software released and that were not seen to complete."""
        return len(self._waits)

    def advance(self, time: int) -> None:
        """Events from now on happen in cycle `time`."""
        self.judge.advance(time)

    # --- software

    def register_write(self, time: int, offset: int, value: int, size: int) -> None:
        """A register write of `size` (4 or 8) bytes was accepted in cycle `time`.

        `ValueError` for another size; offsets outside the map have no effect.
        """
        if size not in (4, 8) or offset % 4:
            raise ValueError(f"register writes have 4 or 8 bytes, 4-aligned, not {size} at {offset:#x}")
        self.judge.advance(time)
        for part in range(0, size, 4):
            self._dword(time, offset + part, (value >> (8 * part)) & 0xFFFF_FFFF)
        start, end = offset, offset + size
        tail = REGISTERS["IQT"].offset
        if start < tail + 8 and end > tail:
            self.queue.write_iqt(self._registers["IQT"])
            self._poll(time)

    def _dword(self, time: int, offset: int, value: int) -> None:
        if offset >= FAULT_RECORD_OFFSET:
            index, place = divmod(offset - FAULT_RECORD_OFFSET, 16)
            if place == 12 and value >> 31 and index < self.params.fault_records:
                self.faults.cleared(time, index)
            return
        for name in _PAIRS:
            base = REGISTERS[name].offset
            if offset in (base, base + 4):
                shift = 8 * (offset - base)
                old = self._registers[name] & ~(0xFFFF_FFFF << shift)
                self._registers[name] = old | value << shift
                if name == "IQA":
                    self.queue.write_iqa(self._registers[name])
        if offset == REGISTERS["GCMD"].offset:
            self._command(time, value)
        elif offset == REGISTERS["FSTS"].offset:
            if FSTS.get(value, "iqe"):
                self.queue.clear_error()
                self._poll(time)
            if FSTS.get(value, "pfo"):
                self.faults.overflow_cleared(time)

    def _command(self, time: int, value: int) -> None:
        if GCMD.get(value, "srtp"):
            self.active_root = self._registers["RTADDR"]
            self.judge.set_root(time, self.active_root)
        self.translation_enabled = bool(GCMD.get(value, "te"))
        self.judge.enable(time, self.translation_enabled)
        self.queue.enable(bool(GCMD.get(value, "qie")))
        self._poll(time)

    def _poll(self, time: int) -> None:
        for descriptor in self.queue.poll():
            if isinstance(descriptor, Wait):
                self._waits.append((self._ticket, descriptor))
            elif not isinstance(descriptor, Ignored):
                self._ticket = self.judge.submitted(time, descriptor)

    # --- completions

    def wait_completed(self, time: int, address: int, data: int) -> str | None:
        """A status write was seen in cycle `time`: everything ahead of its wait is complete for later cycles.

        A sentence if no wait that is due asks for this write, or an earlier one was left out; else None.
        """
        self.judge.advance(time)
        for position, (ticket, wait) in enumerate(self._waits):
            if wait.status_write and wait.address == address and wait.data == data:
                skipped = [other for _, other in list(self._waits)[:position] if other.status_write]
                for _ in range(position + 1):
                    self._waits.popleft()
                self.judge.completed(time, ticket)
                if skipped and not self.params.inv_reorder:
                    return (
                        f"cycle {time}: expected the status write of an earlier wait "
                        f"({skipped[0].data:#x} to {skipped[0].address:#x}), got {data:#x} to {address:#x}"
                    )
                return None
        due = next((wait for _, wait in self._waits if wait.status_write), None)
        wanted = "none" if due is None else f"{due.data:#x} to {due.address:#x}"
        return f"cycle {time}: status write of {data:#x} to {address:#x}; expected {wanted}"

    def all_completed(self, time: int) -> None:
        """The caller knows by other means that every released invalidation is complete."""
        self.judge.advance(time)
        self._waits.clear()
        self.judge.completed(time)

    # --- verdicts

    def legal(self, request: Request, accepted_at: int, answered_at: int) -> frozenset[Outcome]:
        """All outcomes that are right for an access accepted and answered in these cycles."""
        return self.judge.legal(request, accepted_at, answered_at)

    def check(
        self, request: Request, accepted_at: int, answered_at: int, outcome: Outcome
    ) -> Violation | None:
        """None, or what is wrong with the answer; legal refusals are handed to `faults`."""
        violation = self.judge.check(request, accepted_at, answered_at, outcome)
        if violation is None and outcome.reason:
            recordable = self.judge.recordable(request, accepted_at, answered_at, outcome.reason)
            self.faults.refused(request, outcome.reason, recordable, accepted_at, answered_at)
        return violation

    def settle(self, time: int, oldest: int) -> list[str]:
        """What is wrong about all that is over: every event before cycle `time` was told, and no request that was
        accepted before cycle `oldest` waits for its answer. Forgets what cannot matter any more."""
        self.judge.prune(oldest)
        return self.faults.settle(time, oldest)

    def finish(self, time: int, oldest: int) -> list[str]:
        """What is left to complain about where a run ends, or before a reset in cycle `time`; the same times."""
        return self.faults.finish(time, oldest)
