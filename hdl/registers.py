"""Register file and event messages (docs/timing.md M2, M3, R1-R5)."""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.invalidation import queue_layout
from hdl.layouts import port
from hdl.lib.choose import index_width
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import (
    EVENT_CONTROL,
    FAULT_RECORD_OFFSET,
    FSTS,
    GCMD,
    IQA,
    QUEUE_POINTER,
    REGISTERS,
    VERSION,
)

__all__ = ["EventMessage", "Registers", "message_layout"]


def message_layout() -> data.StructLayout:
    """A message-signalled interrupt."""
    return data.StructLayout({"address": 64, "data": 32})


@dataclass
class EventMessage:
    """Registers of one event: masked, pending, and the message."""

    masked: Signal
    pending: Signal
    message: data.View


class Registers(wiring.Component):
    """The register map of `pymodel.spec.registers`, 64 bits wide with byte strobes.

    Members: `register_requests`, `register_responses`: the access port. `enabled` (TES), `root` (active root
    pointer), `queue`, `restart` (QIE rises), and for each event `*_wanted`, `*_message`, `*_sent`. `head`,
    `fail`, `fail_code`, `interrupt` come from the queue engine, `fault_*` from the fault log; `clear_fault`,
    `clear_overflow`, `fault_index` go there.
    Timing: an access accepted in r is answered in r+1; writes are seen in r+1; one access every other cycle.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        super().__init__(
            {
                "register_requests": In(port(params, "register_requests")),
                "register_responses": Out(port(params, "register_responses")),
                "enabled": Out(1),
                "root": Out(64),
                "queue": Out(queue_layout()),
                "restart": Out(1),
                "head": In(15),
                "fail": In(1),
                "fail_code": In(4),
                "interrupt": In(1),
                "fault_overflow": In(1),
                "fault_pending": In(1),
                "fault_oldest": In(8),
                "fault_index": Out(index_width(params.fault_records)),
                "fault_data": In(128),
                "clear_fault": Out(1),
                "clear_overflow": Out(1),
                "fault_event_wanted": Out(1),
                "fault_event_message": Out(message_layout()),
                "fault_event_sent": In(1),
                "completion_event_wanted": Out(1),
                "completion_event_message": Out(message_layout()),
                "completion_event_sent": In(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Storage, then writes, then what hardware sets (which wins)."""
        m = Module()
        request, response = self.register_requests, self.register_responses
        payload = request.payload
        access = Signal()
        m.d.comb += [request.ready.eq(~response.valid), access.eq(request.valid & request.ready)]
        self._write = Signal()
        m.d.comb += self._write.eq(access & payload.write)

        translation, root_set = Signal(), Signal()
        rtaddr, queue_address, queue_tail = Signal(64), Signal(64), Signal(15)
        queue_enabled, error, error_code, complete = Signal(), Signal(), Signal(4), Signal()
        fault_event = self._event("fault")
        completion_event = self._event("completion")
        status = Cat(
            self.fault_overflow, self.fault_pending, Const(0, 2), error, Const(0, 3), self.fault_oldest
        )
        values: dict[str, Value] = {
            "VER": Const(VERSION, 32),
            "CAP": Const(self._params.cap, 64),
            "ECAP": Const(self._params.ecap, 64),
            "GSTS": self._gsts({"qie": queue_enabled, "srtp": root_set, "te": translation}),
            "RTADDR": rtaddr,
            "FSTS": status,
            "FECTL": Cat(Const(0, 30), fault_event.pending, fault_event.masked),
            "FEDATA": fault_event.message.data,
            "FEADDR": fault_event.message.address[:32],
            "FEUADDR": fault_event.message.address[32:],
            "IQH": Cat(Const(0, 4), self.head),
            "IQT": Cat(Const(0, 4), queue_tail),
            "IQA": queue_address,
            "ICS": complete,
            "IECTL": Cat(Const(0, 30), completion_event.pending, completion_event.masked),
            "IEDATA": completion_event.message.data,
            "IEADDR": completion_event.message.address[:32],
            "IEUADDR": completion_event.message.address[32:],
            "IQER": error_code,
        }
        self._read(m, access, values)

        self._store(m, "RTADDR", rtaddr, keep=~0x3FF)
        iqa_keep = IQA.mask("qs", "address") | (IQA.mask("dw") if self._params.scalable else 0)
        self._store(m, "IQA", queue_address, keep=iqa_keep)
        shifted = Signal(64)
        m.d.comb += shifted.eq(queue_tail << QUEUE_POINTER["offset"].lsb)
        tail = self._merged("IQT", shifted)
        with m.If(self._written("IQT")):
            m.d.sync += queue_tail.eq(tail[4:19])
        for prefix, event in (("FE", fault_event), ("IE", completion_event)):
            self._store(m, f"{prefix}DATA", event.message.data)
            self._store(m, f"{prefix}ADDR", event.message.address[:32], keep=~3)
            self._store(m, f"{prefix}UADDR", event.message.address[32:])
            with m.If(self._strobed(f"{prefix}CTL", 3)):
                m.d.sync += event.masked.eq(self._lane(f"{prefix}CTL")[EVENT_CONTROL["im"].lsb])

        with m.If(self._strobed("GCMD", 3)):
            value = self._lane("GCMD")
            m.d.comb += self.restart.eq(value[GCMD["qie"].lsb] & ~queue_enabled)
            m.d.sync += [
                translation.eq(value[GCMD["te"].lsb]),
                queue_enabled.eq(value[GCMD["qie"].lsb]),
            ]
            with m.If(value[GCMD["srtp"].lsb]):
                m.d.sync += [self.root.eq(rtaddr), root_set.eq(1)]
        with m.If(self._strobed("FSTS", 0)):
            value = self._lane("FSTS")
            m.d.comb += self.clear_overflow.eq(value[FSTS["pfo"].lsb])
            with m.If(value[FSTS["iqe"].lsb]):
                m.d.sync += [error.eq(0), error_code.eq(0)]
        with m.If(self._strobed("ICS", 0) & self._lane("ICS")[0]):
            m.d.sync += complete.eq(0)

        with m.If(self.fail):
            m.d.sync += [error.eq(1), error_code.eq(self.fail_code)]
        with m.If(self.interrupt):
            m.d.sync += complete.eq(1)
        self._raise(m, fault_event, self.fault_overflow | self.fault_pending | error, self.fault_event_sent)
        self._raise(m, completion_event, complete, self.completion_event_sent)
        m.d.comb += [
            self.enabled.eq(translation),
            self.queue.enabled.eq(queue_enabled),
            self.queue.error.eq(error),
            self.queue.frame.eq(queue_address[12:]),
            self.queue.size.eq(queue_address[:3]),
            self.queue.wide.eq(queue_address[11]),
            self.queue.tail.eq(queue_tail),
            self.fault_event_wanted.eq(fault_event.pending & ~fault_event.masked),
            self.fault_event_message.eq(fault_event.message),
            self.completion_event_wanted.eq(completion_event.pending & ~completion_event.masked),
            self.completion_event_message.eq(completion_event.message),
        ]
        return m

    @staticmethod
    def _event(name: str) -> EventMessage:
        return EventMessage(
            Signal(init=1, name=f"{name}_event_masked"),
            Signal(name=f"{name}_event_pending"),
            Signal(message_layout(), name=f"{name}_event_registers"),
        )

    @staticmethod
    def _gsts(bits: dict[str, Signal]) -> Value:
        """GSTS: each status at the bit of its command."""
        return Cat(
            next((bits[field.name] for field in GCMD if field.lsb == position), Const(0, 1)) for position in range(32)
        )

    def _raise(self, m: Module, event: EventMessage, cause: Value, sent: Value) -> None:
        """IP follows its cause's rising edge (M3); sending clears it."""
        was = Signal()
        m.d.sync += was.eq(cause)
        with m.If(cause & ~was):
            m.d.sync += event.pending.eq(1)
        with m.If(~cause | sent):
            m.d.sync += event.pending.eq(0)

    def _read(self, m: Module, access: Value, values: dict[str, Value]) -> None:
        """Answer every access; writes answer 0."""
        response, payload = self.register_responses, self.register_requests.payload
        word = Signal(64)
        by_address: dict[int, list[tuple[int, Value]]] = {}
        for name, value in values.items():
            offset = REGISTERS[name].offset
            by_address.setdefault(offset & ~7, []).append((offset & 7, value))
        with m.Switch(payload.address[3:]):
            for address, parts in by_address.items():
                with m.Case(address >> 3):
                    m.d.comb += [word[8 * lane : 8 * lane + len(value)].eq(value) for lane, value in parts]
            with m.Default():
                with m.If(self._is_fault_record):
                    m.d.comb += word.eq(self.fault_data.word_select(payload.address[3], 64))
        with m.If(access):
            m.d.sync += [
                response.valid.eq(1),
                response.payload.data.eq(Mux(payload.write, 0, word)),
            ]
        with m.Elif(response.ready):
            m.d.sync += response.valid.eq(0)
        top_byte = payload.strobe[7] & payload.data[63]
        m.d.comb += [
            self.fault_index.eq((payload.address - FAULT_RECORD_OFFSET)[4:]),
            self.clear_fault.eq(self._write & self._is_fault_record & payload.address[3] & top_byte),
        ]

    @property
    def _is_fault_record(self) -> Value:
        address = self.register_requests.payload.address
        end = FAULT_RECORD_OFFSET + 16 * self._params.fault_records
        return (address >= FAULT_RECORD_OFFSET) & (address < end)

    def _written(self, name: str) -> Value:
        """A write to the aligned 8 bytes in which the register lies."""
        return self._write & (self.register_requests.payload.address[3:] == REGISTERS[name].offset >> 3)

    def _strobed(self, name: str, byte: int) -> Value:
        """A write that strobes the given byte of the register."""
        return self._written(name) & self.register_requests.payload.strobe[(REGISTERS[name].offset & 7) + byte]

    def _lane(self, name: str) -> Value:
        """Write data in the register's place."""
        register = REGISTERS[name]
        low = 8 * (register.offset & 7)
        return self.register_requests.payload.data[low : low + 8 * register.size]

    def _merged(self, name: str, old: Value) -> Value:
        """The register's value with the strobed bytes replaced."""
        register, payload = REGISTERS[name], self.register_requests.payload
        lane = self._lane(name)
        return Cat(
            Mux(payload.strobe[(register.offset & 7) + byte], lane[8 * byte : 8 * byte + 8], old[8 * byte : 8 *
            byte + 8])
            for byte in range(register.size)
        )

    def _store(self, m: Module, name: str, target: Value, keep: int = -1) -> None:
        """Plain storage of the bits in `keep`."""
        with m.If(self._written(name)):
            width = 8 * REGISTERS[name].size
            m.d.sync += target.eq(self._merged(name, target) & Const(keep & ((1 << width) - 1), width))
