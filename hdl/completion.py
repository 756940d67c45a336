"""Judging a request against the walk that it waited for (docs/timing.md C2, L5)."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.layouts import port_layout
from hdl.pending import waiting_layout
from hdl.walker import result_layout, slot_layout
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST

__all__ = ["Completion", "denied", "page_address"]


def page_address(frame: Value, iova: Value, level: Value, large_pages: int) -> Value:
    """Address of `iova` in the page of `level` (0..large_pages) whose frame number is `frame`."""
    addresses = [Cat(iova[: 12 + 9 * size], frame[9 * size :]) for size in range(large_pages + 1)]
    result: Value = addresses[0]
    for size, address in enumerate(addresses[1:], start=1):
        result = Mux(level == size, address, result)
    return result


def denied(scalable: Value, write: Value) -> Value:
    """Reason of a request without the permission."""
    legacy = Mux(write, Reason.WRITE_DENIED, Reason.READ_DENIED)
    return Mux(scalable, Mux(write, Reason.SM_WRITE_DENIED, Reason.SM_READ_DENIED), legacy)


class Completion(wiring.Component):
    """Combinational: `request` and `waiting` of a pending entry, its `slot` and the slot's `result` give the
    `response` and whether its fault is to be recorded (`record`).
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        super().__init__(
            {
                "request": In(port_layout(params, "requests")),
                "waiting": In(waiting_layout(params)),
                "slot": In(slot_layout(params)),
                "result": In(result_layout(params)),
                "response": Out(port_layout(params, "completions")),
                "record": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The list of C2, in its order."""
        m = Module()
        params, slot, request = self._params, self.slot, self.request
        scalable, write = self.waiting.scalable, request.write
        selected = Signal(3)
        with m.Switch(slot.level):
            for level in range(params.max_levels):
                with m.Case(level):
                    m.d.comb += selected.eq(request.iova[12 + 9 * level : 15 + 9 * level])
        entry = Array(self.result[number] for number in range(8))[selected]
        sector = Signal.like(self.result[0].sector, name="sector")
        address = Signal(params.haw)
        reason = Signal(8)
        m.d.comb += [
            sector.eq(entry.sector),
            address.eq(page_address(sector.frame, request.iova, slot.level, params.large_pages)),
        ]

        def lacks(source: Value) -> Value:
            return ~Mux(write, source.w, source.r)

        no_permission = denied(scalable, write)
        with m.If(slot.context):
            m.d.comb += reason.eq(slot.reason)
        with m.Elif(lacks(slot)):
            m.d.comb += reason.eq(no_permission)
        with m.Elif(slot.error):
            first = slot.level == slot.depth - 1
            legacy = Mux(first, Reason.CONTEXT_INVALID, Reason.TABLE_ACCESS)
            published = Mux(first, Reason.SM_TABLE_ROOT_ACCESS, Reason.SM_TABLE_ACCESS)
            m.d.comb += reason.eq(Mux(scalable, published, legacy))
        with m.Elif(lacks(sector)):
            m.d.comb += reason.eq(Mux(scalable & ~entry.present, Reason.SM_ENTRY_NOT_PRESENT, no_permission))
        with m.Elif(entry.reserved):
            m.d.comb += reason.eq(Mux(scalable, Reason.SM_ENTRY_RESERVED, Reason.ENTRY_RESERVED))
        with m.Elif(address[20:] == INTERRUPT_FIRST >> 20):
            m.d.comb += reason.eq(Mux(scalable, Reason.SM_INTERRUPT_ADDRESS, Reason.INTERRUPT_ADDRESS))

        m.d.comb += [self.response.tag.eq(request.tag), self.response.reason.eq(reason)]
        with m.If(reason == Reason.NONE):
            m.d.comb += [
                self.response.address.eq(address),
                self.response.level.eq(slot.level),
                self.response.r.eq(sector.r),
                self.response.w.eq(sector.w),
                self.response.snoop.eq(sector.snp | self.waiting.pgsnp),
            ]
        m.d.comb += self.record.eq(reason.any() & ~Mux(slot.context, slot.fpd, self.waiting.fpd))
        return m
