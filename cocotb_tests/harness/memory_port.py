"""The memory behind `reads` and `writes`: latency, jitter, reordering, stalls, errors; rules P3 and M1.

All times are cycles. A read that is accepted in cycle a returns in a + latency (+ jitter); the value is that
of one moment between acceptance and return, as real memories may do either. Everything random comes from one
seeded `random.Random` and is drawn in an order that depends on the traffic alone: both simulators see the
same memory.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from typing import Protocol

__all__ = ["Memory", "MemoryPort", "MemoryTiming", "Sample"]

_NEVER = float("inf")
_ERROR_DATA = (1 << 512) - 1  # nobody may look at the data of a failed read


class Memory(Protocol):
    """What the port needs of `pymodel.memory.PhysMem`."""

    def read_line(self, address: int) -> int: ...

    def write_dword(self, address: int, value: int) -> None: ...

    def readable(self, address: int) -> bool: ...


class Sample(Enum):
    """When a read takes its value."""

    AT_ACCEPT = "accept"
    AT_RETURN = "return"
    RANDOM = "random"
    """At a random cycle between the two, both included."""


@dataclass(frozen=True)
class MemoryTiming:
    """How the memory behaves; raises `ValueError` naming the field."""

    latency: int = 20
    """Cycles from the acceptance of a read to its data, at least 1."""
    jitter: int = 0
    """Up to this many cycles more, at random."""
    reorder: bool = False
    """Data may return in another order than that of the reads."""
    stall_percent: int = 0
    """Chance that `reads.ready` is 0 in a cycle; the same for `writes.ready`."""
    write_latency: int = 4
    """Cycles from the acceptance of a write to its ack, at least 1; the memory changes somewhere in
    between."""
    sample: Sample = Sample.AT_RETURN
    """When a read takes its value."""

    def __post_init__(self) -> None:
        if self.latency < 1 or self.write_latency < 1:
            raise ValueError(f"latencies must be at least 1, not {self.latency} and {self.write_latency}")
        if self.jitter < 0:
            raise ValueError(f"jitter must not be negative, not {self.jitter}")
        if not 0 <= self.stall_percent <= 95:
            raise ValueError(f"stall_percent must be in 0..95, not {self.stall_percent}")


class _Read:
    __slots__ = ("address", "due", "error", "number", "value")

    def __init__(self, number: int, address: int, due: int) -> None:
        self.number, self.address, self.due = number, address, due
        self.error = False
        self.value: int | None = None


class MemoryPort:
    """Serves the read and write streams, one call of `step` for each cycle.

    After `step`: `reads_ready`, `writes_ready`, `read_data` (id, error, data) or None, `write_ack` (id) or
    None are the inputs of the IOMMU in this cycle. `written` is called as (cycle, id, address, data) when a
    write changes memory.
    """

    __slots__ = (
        "_due",
        "_fifo",
        "_memory",
        "_reads",
        "_rng",
        "_samples",
        "_serial",
        "_writes",
        "due",
        "errors",
        "line_reads",
        "read_data",
        "reads_ready",
        "timing",
        "write_ack",
        "writes_ready",
        "written",
    )

    def __init__(
        self,
        memory: Memory,
        timing: MemoryTiming,
        seed: int,
        written: Callable[[int, int, int, int], None] | None = None,
    ) -> None:
        self._memory, self._rng = memory, random.Random(f"memory {seed}")
        self.timing = timing
        self.written = written
        self.reads_ready = self.writes_ready = True
        self.read_data: tuple[int, int, int] | None = None
        self.write_ack: int | None = None
        self.line_reads = self.errors = 0
        self._fifo: deque[_Read] = deque()  # in order of acceptance
        self._due: list[tuple[int, int, _Read]] = []  # with reorder: by cycle
        self._reads: list[_Read] = []  # with reorder: ready to return
        self._samples: list[tuple[int, int, _Read]] = []
        self._writes: deque[list[int]] = deque()  # [apply at, ack at, id, address, data, applied]
        self._serial = 0
        self.due: float = 0 if timing.stall_percent else _NEVER
        """First cycle in which `step` has to be called also without an offer."""

    @property
    def busy(self) -> bool:
        """True while a read or a write is not finished."""
        return bool(self._fifo or self._due or self._reads or self._writes)

    def step(
        self, cycle: int, reads: tuple[int, int] | None, writes: tuple[int, int, int] | None
    ) -> tuple[bool, bool]:
        """Serve one cycle with what the IOMMU offers; return whether the read and the write were accepted."""
        timing = self.timing
        if timing.stall_percent:
            chance = timing.stall_percent / 100
            self.reads_ready = self._rng.random() >= chance
            self.writes_ready = self._rng.random() >= chance
        if self._fifo or self._due or self._reads:
            self._return_read(cycle)
        else:
            self.read_data = None
        if self._writes or self.write_ack is not None:
            self._return_write(cycle)
        took_read = took_write = False
        if reads is not None and self.reads_ready:
            took_read = True
            self._accept_read(cycle, reads)
        if writes is not None and self.writes_ready:
            took_write = True
            ack = cycle + timing.write_latency
            if self._writes:
                ack = max(ack, self._writes[-1][1] + 1)
            apply = cycle + self._rng.randint(1, timing.write_latency)
            if self._writes:
                apply = max(apply, self._writes[-1][0])
            self._writes.append([apply, ack, *writes, 0])
        if timing.stall_percent or self._reads or self.read_data is not None or self.write_ack is not None:
            self.due = 0
        else:
            self.due = self._next()
        return took_read, took_write

    def _next(self) -> float:
        """First cycle in which a read returns or takes its value, or a write changes memory or is acknowledged."""
        due: float = self._fifo[0].due if self._fifo else _NEVER
        if self._due:
            due = min(due, self._due[0][0])
        if self._samples:
            due = min(due, self._samples[0][0])
        for write in self._writes:
            if not write[5]:
                due = min(due, write[0])
                break
        return min(due, self._writes[0][1]) if self._writes else due

    def reset(self, cycle: int) -> None:
        """The IOMMU is reset in `cycle` (P5): reads that were accepted are never answered; writes that were accepted
        change memory, and are never acknowledged."""
        for write in self._writes:
            write[0] = min(write[0], cycle)
        self._return_write(cycle)
        for pending in (self._fifo, self._due, self._reads, self._samples, self._writes):
            pending.clear()
        self.read_data = self.write_ack = None
        self.reads_ready = self.writes_ready = True
        self.due = 0 if self.timing.stall_percent else _NEVER

    def _accept_read(self, cycle: int, reads: tuple[int, int]) -> None:
        number, line = reads
        timing, rng = self.timing, self._rng
        self.line_reads += 1
        due = cycle + timing.latency
        if timing.jitter:
            due += rng.randint(0, timing.jitter)
        read = _Read(number, line << 6, due)
        sample = timing.sample
        if sample is Sample.AT_ACCEPT:
            self._take(read)
        elif sample is Sample.RANDOM:
            at = rng.randint(cycle, due)
            if at == cycle:
                self._take(read)
            elif at < due:
                self._serial += 1
                heappush(self._samples, (at, self._serial, read))
        if timing.reorder:
            self._serial += 1
            heappush(self._due, (due, self._serial, read))
        else:
            self._fifo.append(read)

    def _take(self, read: _Read) -> None:
        memory = self._memory
        if memory.readable(read.address):
            read.value = memory.read_line(read.address)
        else:
            read.error, read.value = True, _ERROR_DATA

    def _return_read(self, cycle: int) -> None:
        samples = self._samples
        while samples and samples[0][0] <= cycle:
            read = heappop(samples)[2]
            if read.value is None:
                self._take(read)
        self.read_data = None
        if self.timing.reorder:
            due, ready = self._due, self._reads
            while due and due[0][0] <= cycle:
                ready.append(heappop(due)[2])
            if not ready:
                return
            read = ready.pop(self._rng.randrange(len(ready))) if len(ready) > 1 else ready.pop()
        else:
            if not self._fifo or self._fifo[0].due > cycle:
                return
            read = self._fifo.popleft()
        if read.value is None:
            self._take(read)
        self.errors += read.error
        value = read.value
        assert value is not None
        self.read_data = (read.number, int(read.error), value)

    def _return_write(self, cycle: int) -> None:
        self.write_ack = None
        for write in self._writes:
            if write[0] > cycle:
                break
            if not write[5]:
                write[5] = 1
                _, _, number, address, data, _ = write
                if self._memory.readable(address):  # event messages usually go elsewhere
                    self._memory.write_dword(address, data)
                if self.written is not None:
                    self.written(cycle, number, address, data)
        if self._writes and self._writes[0][1] <= cycle:
            self.write_ack = self._writes.popleft()[2]
