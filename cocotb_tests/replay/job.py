"""The replay as a job: an agent that does what a recorded driver did, and compares every answer.

Stores go into memory, register writes to the register port, DMAs as requests, one for each page they touched.
Many requests are outstanding, but all of them are answered before a store or register write that follows in
the recording.
"""

from collections import Counter, deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

from cocotb_tests.harness.errors import BenchError
from cocotb_tests.harness.job import JobContext
from cocotb_tests.harness.lockstep import LockStep
from cocotb_tests.harness.memory_port import MemoryTiming
from cocotb_tests.harness.scheduler import Drain, Translate, Translation
from cocotb_tests.inputs import vtd_events as ev
from cocotb_tests.inputs.vtd_trace import Doorbell, played, read_trace
from cocotb_tests.replay.faults import FaultLog, same_reason
from pymodel.effects import Load, ReadRegister, Store, WaitFor, WriteRegister
from pymodel.memory import PhysMem
from pymodel.spec.context import RTADDR, TTM_SCALABLE
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import CAP, GCMD, REGISTERS

__all__ = ["MISMATCHES_SHOWN", "Player", "ReplayLockStep", "replay"]

MISMATCHES_SHOWN = 50
_PARTS = [
    (register.offset, register.offset + register.size, name) for name, register in REGISTERS.items()
]  # [first byte, after the last, name)
_MESSAGE_BASE = 0xFEE0_0000
Steps = Generator[Any, Any, None]


def _register(offset: int, size: int) -> str | None:
    """Name of the register of this IOMMU that an access hits; None where there is none."""
    return next((name for low, high, name in _PARTS if low <= offset and offset + size <= high), None)


class Player:
    """Plays one recording; `agent` is what the scheduler runs. Collects counts and mismatches."""

    def __init__(self, path: Path, params: IommuParams, memory: PhysMem, limit: int | None) -> None:
        self._path, self._params, self._memory, self._limit = path, params, memory, limit
        self.counts: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        """Register writes that have no register here, by name and offset."""
        self.mismatches: list[dict[str, Any]] = []
        self.mismatch_count = 0
        self.phases: list[dict[str, Any]] = []
        self.instant = False
        """True while stores cost no time: memory that was written before it became a table."""
        self._open: deque[tuple[ev.Translated | ev.Message, ev.Dma | None, Translation]] = deque()
        self._dma: ev.Dma | None = None
        self._rtaddr = 0
        self._active_rtaddr = 0
        self._enabled = False
        self._records = 0
        self._record_base = 0
        self._log = FaultLog(params)
        self._done = False

    def gap(self) -> int:
        """Cycles between two effects."""
        return 0 if self.instant else 1

    # --- the program ----------------------------------------------------------------------------------------

    def agent(self) -> Steps:
        """Everything, up to the end of the recording or the limit of DMAs."""
        for event in played(self._path, read_trace(self._path)):
            if isinstance(event, Doorbell):
                yield from self._doorbell(event)
            else:
                yield from self._play(event)
            if self._done or self.mismatch_count >= MISMATCHES_SHOWN:
                break
        yield from self._settle()
        yield from self._check_faults("at the end", None)

    def _play(self, event: ev.Event) -> Steps:
        match event:
            case ev.Translated():
                yield from self._translated(event)
            case ev.Dma():
                if self._limit is not None and self.counts["dmas"] >= self._limit:
                    self._done = True
                    return
                self.counts["dmas"] += 1
                self._dma = event
            case ev.StoreEvent():
                yield from self._settle()
                self.counts["stores"] += 1
                yield Store(event.pa, event.val)
            case ev.RegisterWrite():
                yield from self._settle()
                yield from self._register_write(event)
            case ev.Message():
                self.counts["messages"] += 1
                translation = yield Translate(event.bdf, event.addr, True)
                self._expect(event, None, translation)
            case ev.Page():
                yield from self._settle()
                yield from self._page(event)
            case ev.Fault():
                self.counts["faults"] += 1
            case ev.FaultRecord():
                yield from self._settle()
                yield from self._fault_record(event)
            case ev.Header():
                self._record_base = CAP.get(event.cap, "fro") * 16
                self._records = CAP.get(event.cap, "nfr") + 1
            case ev.Phase():
                self.phases.append({"line": event.t + 1, "name": event.name, "dmas": self.counts["dmas"]})
            case _:
                pass  # drop, snapshot, note, end: nothing that the unit sees

    def _page(self, event: ev.Page) -> Steps:
        self.counts["pages"] += 1
        self.instant = True
        for number, word in enumerate(ev.page_words(event.words)):
            if self._memory.load(event.pa + 8 * number) != word:
                yield Store(event.pa + 8 * number, word)
        self.instant = False
        yield Load(event.pa)  # and one cycle

    def _register_write(self, event: ev.RegisterWrite) -> Steps:
        first, last = self._record_base, self._record_base + 16 * self._records
        if first <= event.off < last:
            yield from self._clear_record(event, *divmod(event.off - first, 16))
            return
        name = _register(event.off, event.size)
        if name is None:
            self.ignored[f"{event.name} {event.off:#x}"] += 1
            return
        self.counts["register_writes"] += 1
        yield WriteRegister(event.off, event.val, event.size)
        self._follow(name, event)

    def _follow(self, name: str, event: ev.RegisterWrite) -> None:
        """Keep in mind what the answers depend on."""
        if name == "RTADDR":
            shift = 8 * (event.off & 4)
            mask = (1 << 8 * event.size) - 1 << shift
            self._rtaddr = self._rtaddr & ~mask | event.val << shift & mask
        elif name == "GCMD":
            if GCMD.get(event.val, "srtp"):
                self._active_rtaddr = self._rtaddr
            self._enabled = bool(GCMD.get(event.val, "te"))

    @property
    def _scalable(self) -> bool:
        return RTADDR.get(self._active_rtaddr, "ttm") == TTM_SCALABLE

    # --- the queue ------------------------------------------------------------------------------------------

    def _doorbell(self, bell: Doorbell) -> Steps:
        """Write descriptors and tail, go on with what happened meanwhile, wait as Linux does."""
        yield from self._settle()
        for address, word in bell.words():
            yield Store(address, word)
        waits = [one for one in bell.descriptors if isinstance(one, ev.Wait)]
        for wait in waits:
            if wait.sw:
                yield from self._set_status(wait, 0 if wait.data == 1 else 1)  # in use
        self.counts["register_writes"] += 1
        yield WriteRegister(bell.write.off, bell.write.val, bell.write.size)
        for event in bell.meanwhile:
            yield from self._play(event)
        for wait in waits:
            if wait.sw:
                yield WaitFor(wait.addr, *_status_word(wait))
            else:
                while (yield ReadRegister(REGISTERS["IQH"].offset, 8)) != bell.write.val:
                    pass
        self.counts["waits"] += len(waits)
        self.counts["invalidations"] += len(bell.descriptors) - len(waits)

    def _set_status(self, wait: ev.Wait, value: int) -> Steps:
        word = wait.addr & -8
        old = yield Load(word)
        shift = 8 * (wait.addr & 4)
        yield Store(word, old & ~(0xFFFF_FFFF << shift) | value << shift)

    # --- answers --------------------------------------------------------------------------------------------

    def _translated(self, event: ev.Translated) -> Steps:
        if event.rpt:
            self.counts["repeated"] += 1
            return
        self.counts["requests"] += 1
        self.counts["recorded_hits"] += event.hit
        translation = yield Translate(event.bdf, event.iova, event.rw == "w")
        self._expect(event, self._dma, translation)

    def _expect(
        self, event: ev.Translated | ev.Message, dma: ev.Dma | None, translation: Translation
    ) -> None:
        self._open.append((event, dma, translation))
        while self._open and self._open[0][2].done:
            self._compare(*self._open.popleft())

    def _settle(self) -> Steps:
        """All answers are there, and compared."""
        if not self._open:
            return
        if any(not entry[2].done for entry in self._open):
            yield Drain()
        while self._open:
            self._compare(*self._open.popleft())

    def _compare(self, event: ev.Translated | ev.Message, dma: ev.Dma | None, got: Translation) -> None:
        self.counts["compared"] += 1
        if got.reason:
            self._log.expected(got.reason, got.sid, got.iova, bool(got.write), _recordable(got.reason))
        if isinstance(event, ev.Message):
            wanted: tuple[int, ...] = (0, event.addr, 0, 3)
        elif event.stale:
            self.counts["stale"] += 1
            return
        elif event.fault is not None:
            if same_reason(event.fault, got.reason, self._scalable):
                return
            wanted = (event.fault, 0, 0, 0)
        elif event.pte is None:
            wanted = (0, event.iova, 0, 3)
        else:
            assert event.pa is not None
            assert event.mask is not None
            assert event.perm is not None
            level = (event.mask.bit_length() - 12) // 9
            wanted = (0, event.pa & ~event.mask | event.iova & event.mask, level, event.perm)
        have = (got.reason, got.address, got.level, got.r | got.w << 1)
        if have != wanted:
            self._mismatch(
                event.t + 1,
                dma,
                _answer(*wanted),
                _answer(*have),
                f"translation of {got.iova:#x}",
                got.answered_at,
            )

    def _mismatch(
        self, line: int | None, dma: ev.Dma | None, expected: str, got: str, what: str, cycle: Any
    ) -> None:
        self.mismatch_count += 1
        if len(self.mismatches) < MISMATCHES_SHOWN:
            access = ""
            if dma is not None:
                access = f"bdf {dma.bdf:#x} {dma.rw} iova {dma.iova:#x} len {dma.len:#x} (line {dma.t + 1})"
            self.mismatches.append(
                {"line": line, "dma": access, "what": what, "expected": expected, "got": got, "cycle": cycle}
            )

    # --- the fault log --------------------------------------------------------------------------------------

    def _fault_record(self, event: ev.FaultRecord) -> Steps:
        """The recorded unit filled a record: ours holds the same fault."""
        self.counts["fault_records"] += 1
        for text in (yield from self._log.compare(event.lo | event.hi << 64, self._scalable)):
            self._mismatch(
                event.t + 1, None, text[1], text[2], f"fault record {event.index}: {text[0]}", None
            )

    def _check_faults(self, when: str, line: int | None) -> Steps:
        """Every refused request since the log was cleared stands in it, as far as it has room."""
        for text in (yield from self._log.check()):
            self._mismatch(line, None, text[1], text[2], f"fault log {when}: {text[0]}", None)
        self.counts["fault_records_checked"] = self._log.checked

    def _clear_record(self, event: ev.RegisterWrite, index: int, byte: int) -> Steps:
        """The driver clears a record: check ours and clear all that are set, as its handler does here."""
        self.counts["mapped_register_writes"] += 1
        if byte == 12 and event.val >> 31:
            yield from self._check_faults(f"when record {index} is cleared", event.t + 1)
            yield from self._log.clear()


class ReplayLockStep(LockStep):
    """A lock-step whose summary carries what the player found."""

    player: Player

    def finish(self) -> dict[str, Any]:
        """The summary of the run, with `replay`."""
        player = self.player
        if player.mismatch_count != len(player.mismatches) and len(player.mismatches) < MISMATCHES_SHOWN:
            raise BenchError(self.now, "mismatches were lost")
        return {
            **super().finish(),
            "replay": {
                "counts": dict(player.counts),
                "ignored": dict(player.ignored),
                "mismatch_count": player.mismatch_count,
                "mismatches": player.mismatches,
                "phases": player.phases,
            },
        }


def replay(
    context: JobContext, *, path: str, limit: int | None = None, latency: int = 20, jitter: int = 0
) -> ReplayLockStep:
    """The job: recording `path`, at most `limit` DMAs, memory of `latency` plus up to `jitter` cycles."""
    timing = MemoryTiming(latency=latency, jitter=jitter, reorder=jitter > 0)
    bench = ReplayLockStep(
        context.params,
        seed=context.seed,
        judges=context.judges,
        log=context.log,
        replay=context.replay,
        timing=timing,
        answers_expected=False,
    )
    bench.player = Player(Path(path), context.params, bench.memory, limit)
    bench.scheduler.add("driver", bench.player.agent(), gap=bench.player.gap)
    return bench


def _status_word(wait: ev.Wait) -> tuple[int, int]:
    """Mask and value for `WaitFor` of the status dword."""
    return 0xFFFF_FFFF, wait.data


def _answer(reason: int, address: int, level: int, permission: int) -> str:
    if reason:
        return f"fault {reason:#x} ({Reason(reason).name})" if reason in _REASONS else f"fault {reason:#x}"
    rights = ("r" if permission & 1 else "-") + ("w" if permission & 2 else "-")
    return f"{address:#x} {('4 KiB', '2 MiB', '1 GiB')[level]} {rights}"


_REASONS = frozenset(int(reason) for reason in Reason)


def _recordable(reason: int) -> bool:
    """Reads of the interrupt range are refused without a record (rule L2)."""
    return reason not in (Reason.INTERRUPT_ADDRESS, Reason.SM_INTERRUPT_ADDRESS)
