"""The register file, event messages, and the buffer in front of the memory write port."""

from pymodel.cycle.fault import FaultLog
from pymodel.cycle.inputs import RegisterRequest
from pymodel.cycle.layout import Layout
from pymodel.spec.context import RTADDR
from pymodel.spec.faults import FAULT_RECORD
from pymodel.spec.observation import WriteId
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import (
    EVENT_CONTROL,
    FAULT_RECORD_OFFSET,
    FSTS,
    GCMD,
    ICS,
    IQA,
    IQER,
    QUEUE_ERROR,
    QUEUE_POINTER,
    REGISTERS,
    VERSION,
)

__all__ = ["Event", "Registers"]

_OFFSET = {name: register.offset for name, register in REGISTERS.items()}
_DWORD, _QWORD = (1 << 32) - 1, (1 << 64) - 1
_LOW_ADDRESS = _DWORD & ~3  # FEADDR and IEADDR bits 31:2
_RECORD_F = FAULT_RECORD["f"].lsb - 64


class Event:
    """One event message: control, data and address registers, and the cause that it follows (M2, M3)."""

    __slots__ = ("address", "cause_before", "data", "masked", "pending", "upper")

    def __init__(self) -> None:
        self.masked = 1
        self.pending = self.data = self.address = self.upper = 0
        self.cause_before = 0

    def follow(self, cause: int, loaded: bool) -> None:
        """End of the cycle: IP rises with the cause, falls without it or when loaded (M2, M3)."""
        if loaded or not cause:
            self.pending = 0
        elif not self.cause_before:
            self.pending = 1
        self.cause_before = cause

    @property
    def control(self) -> int:
        """FECTL or IECTL."""
        return EVENT_CONTROL.pack(ip=self.pending, im=self.masked)


class Registers:
    """Register file (R1..R5), event messages and the write buffer (M1..M3).

    `access` reads and decodes by the values at the start of the cycle; `commit_write` writes at its end.
    """

    __slots__ = ("_cap", "_clear_completion", "_clear_error", "_ecap", "_faults", "_iqa_mask",
                 "_write_address_at", "_write_data_at", "_write_id_at", "active_root", "buffer",
                 "completion", "completion_set", "error_code", "events_awake", "fault_event",
                 "head", "invalidation_event", "mode", "queue_address", "queue_enabled",
                 "queue_error", "response", "restart", "root", "root_set", "root_table", "tail",
                 "translation_enabled", "written")  # fmt: skip

    def __init__(self, params: IommuParams, layout: Layout, faults: FaultLog) -> None:
        self._cap, self._ecap = params.cap, params.ecap
        self._iqa_mask = IQA.mask("address", "qs") | (IQA.mask("dw") if params.scalable else 0)
        self._faults = faults
        self.translation_enabled = self.queue_enabled = self.root_set = 0
        self.root_table = 0
        """RTADDR as written."""
        self.active_root = self.root = self.mode = 0
        """Active root pointer: the copy of RTADDR, its address, its TTM (R4)."""
        self.head = self.tail = self.queue_address = 0
        """IQH, IQT, IQA."""
        self.queue_error = self.error_code = 0
        """FSTS.IQE and IQER.IQEI."""
        self.completion = self.completion_set = 0
        """ICS.IWC, and whether hardware sets it in this cycle (R2)."""
        self.fault_event, self.invalidation_event = Event(), Event()
        self.response: int | None = None
        """Data on `register_responses`."""
        self.restart = False
        """The last write changed the address of the queue's next read: IQA, or IQH by enabling the queue."""
        self.events_awake = False
        """Whether `step_events` has something to do."""
        self.buffer = 0
        """Packed write on the port, 0 while empty (M1)."""
        self._clear_completion = self._clear_error = 0
        self.written: tuple[int, int, int] | None = None
        self._write_id_at = layout.within("writes_valid", "writes_id")
        self._write_address_at = layout.within("writes_valid", "writes_address")
        self._write_data_at = layout.within("writes_valid", "writes_data")

    # --- writes and events (M1..M3) ---------------------------------------------------------------------

    def load(self, ident: WriteId, address: int, data: int) -> None:
        """Load the write buffer (M1)."""
        self.buffer = (
            1 | ident << self._write_id_at | address << self._write_address_at | data << self._write_data_at
        )

    @property
    def fault_cause(self) -> int:
        """PFO | PPF | IQE (M3)."""
        faults = self._faults
        return 1 if faults.overflow or faults.pending or self.queue_error else 0

    def events_rest(self) -> bool:
        """Whether the events would change nothing at the end of this cycle and want no message."""
        invalidation, fault = self.invalidation_event, self.fault_event
        return (
            invalidation.cause_before == self.completion and fault.cause_before == self.fault_cause
            and not (invalidation.pending and not (invalidation.masked and self.completion))
            and not (fault.pending and not (fault.masked and self.fault_cause))
        )  # fmt: skip

    def step_events(self, buffer_free: bool) -> None:
        """Load event messages and follow the causes (M1 to M3), by the values at the start of the cycle."""
        invalidation, fault = self.invalidation_event, self.fault_event
        loaded_invalidation = loaded_fault = False
        if buffer_free:
            if invalidation.pending and not invalidation.masked:
                loaded_invalidation = True
                self._load_event(WriteId.INVALIDATION_EVENT, invalidation)
            elif fault.pending and not fault.masked:
                loaded_fault = True
                self._load_event(WriteId.FAULT_EVENT, fault)
        invalidation.follow(self.completion, loaded_invalidation)
        fault.follow(self.fault_cause, loaded_fault)

    def _load_event(self, ident: WriteId, event: Event) -> None:
        self.load(ident, event.upper << 32 | event.address, event.data)

    # --- register access (R1..R5) -----------------------------------------------------------------------

    def access(self, request: RegisterRequest) -> int:
        """Accept an access: its response, by the values of this cycle; `commit_write` writes (R1)."""
        write, address, data, strobe = request
        offset = address & ~7
        if not write:
            return self._read(offset)
        mask = sum(0xFF << 8 * byte for byte in range(8) if strobe >> byte & 1)
        self.written = (offset, data & mask, mask)
        self._decode_clears(offset, data & mask)
        return 0

    def _decode_clears(self, offset: int, data: int) -> None:
        """RW1C bits that were set at the start of the cycle and are written with 1 (R2)."""
        high = data >> 32
        if offset == _OFFSET["FSTS"] & ~7:
            self._faults.clear_overflow = FSTS.get(high, "pfo") & self._faults.overflow
            self._clear_error = FSTS.get(high, "iqe") & self.queue_error
        elif offset == _OFFSET["ICS"] & ~7:
            self._clear_completion = ICS.get(high, "iwc")
        elif offset >= FAULT_RECORD_OFFSET and offset & 8:
            index = offset - FAULT_RECORD_OFFSET >> 4
            self._faults.clear = (data >> _RECORD_F & 1) << index & self._faults.pending

    def _read(self, offset: int) -> int:
        if offset >= FAULT_RECORD_OFFSET:
            index = offset - FAULT_RECORD_OFFSET >> 4
            records = self._faults.records
            return records[index] >> 8 * (offset & 8) & _QWORD if index < len(records) else 0
        low, high = self._read_dword(offset), self._read_dword(offset + 4)
        return low & _QWORD | high << 32

    def _read_dword(self, offset: int) -> int:
        """Value of the register at `offset`; 64-bit registers are returned whole at their own offset."""
        if offset == _OFFSET["GSTS"]:
            return GCMD.pack(te=self.translation_enabled, srtp=self.root_set, qie=self.queue_enabled)
        if offset == _OFFSET["FSTS"]:
            faults = self._faults
            ppf = int(faults.pending != 0)
            return FSTS.pack(pfo=faults.overflow, ppf=ppf, iqe=self.queue_error, fri=faults.index)
        events = {"FE": self.fault_event, "IE": self.invalidation_event}
        values = {
            "VER": VERSION, "CAP": self._cap, "ECAP": self._ecap, "RTADDR": self.root_table, "IQH": self.head,
            "IQT": self.tail, "IQA": self.queue_address, "ICS": ICS.pack(iwc=self.completion),
            "IQER": IQER.pack(iqei=self.error_code),
        }  # fmt: skip
        for prefix, event in events.items():
            values[f"{prefix}CTL"] = event.control
            values[f"{prefix}DATA"] = event.data
            values[f"{prefix}ADDR"] = event.address
            values[f"{prefix}UADDR"] = event.upper
        for name, value in values.items():
            if _OFFSET[name] == offset:
                return value
        return 0

    def commit_write(self) -> None:
        """End of the cycle of an accepted write; bits that hardware set in it stay set (R1, R2)."""
        completion_set, self.completion_set = self.completion_set, 0
        if self.written is None:
            return
        offset, data, mask = self.written
        self.written = None
        if self._clear_error:
            self.queue_error = self.error_code = self._clear_error = 0
        if self._clear_completion:
            self._clear_completion = 0
            if not completion_set:
                self.completion = 0
        if offset == _OFFSET["RTADDR"]:
            self.root_table = _merge(self.root_table, data, mask, RTADDR.mask("ttm", "address"))
        elif offset == _OFFSET["IQT"]:
            self.tail = _merge(self.tail, data, mask, QUEUE_POINTER.mask("offset"))
        elif offset == _OFFSET["IQA"]:
            self.queue_address = _merge(self.queue_address, data, mask, self._iqa_mask)
            self.restart = True
        else:
            self._write_dword(offset, data & _DWORD, mask & _DWORD)
            self._write_dword(offset + 4, data >> 32, mask >> 32)

    def _write_dword(self, offset: int, data: int, mask: int) -> None:
        """A write to one of the 32-bit registers (R3, R5)."""
        if offset == _OFFSET["GCMD"]:
            if mask >> 24:
                self._command(data)
            return
        for prefix, event in (("FE", self.fault_event), ("IE", self.invalidation_event)):
            if offset == _OFFSET[f"{prefix}CTL"]:
                control = _merge(event.control, data, mask, EVENT_CONTROL.mask("im"))
                event.masked = EVENT_CONTROL.get(control, "im")
            elif offset == _OFFSET[f"{prefix}DATA"]:
                event.data = _merge(event.data, data, mask, _DWORD)
            elif offset == _OFFSET[f"{prefix}ADDR"]:
                event.address = _merge(event.address, data, mask, _LOW_ADDRESS)
            elif offset == _OFFSET[f"{prefix}UADDR"]:
                event.upper = _merge(event.upper, data, mask, _DWORD)

    def _command(self, data: int) -> None:
        """GCMD (R3, R4)."""
        self.translation_enabled = GCMD.get(data, "te")
        enable = GCMD.get(data, "qie")
        if enable and not self.queue_enabled:
            self.head = 0
            self.restart = True
        self.queue_enabled = enable
        if GCMD.get(data, "srtp"):
            self.active_root = self.root_table
            self.root = self.active_root & RTADDR["address"].mask
            self.mode = RTADDR.get(self.active_root, "ttm")
            self.root_set = 1

    def fail_queue(self, error: str) -> None:
        """Queue error: IQE and IQER at the end of the cycle (I4)."""
        self.queue_error = 1
        self.error_code = QUEUE_ERROR[error]


def _merge(old: int, data: int, mask: int, writable: int) -> int:
    """The bytes selected by `mask` replaced by `data`, in the bits that can be written."""
    mask &= writable
    return old & ~mask | data & mask
