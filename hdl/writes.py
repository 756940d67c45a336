"""Write buffer: status writes and event messages share one memory write port (docs/timing.md M1)."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.layouts import port
from hdl.registers import message_layout
from pymodel.spec.observation import WriteId
from pymodel.spec.params import IommuParams

__all__ = ["WriteBuffer"]


class WriteBuffer(wiring.Component):
    """One write, held until memory takes it.

    Members: three sources in the order of priority, `status`, `completion_event`, `fault_event`: `*_wanted`
    with a message, `*_granted` in the cycle in which it is loaded.
    Timing: loaded in c, on `writes` in c+1; one write per cycle.
    """

    def __init__(self, params: IommuParams) -> None:
        members = {"writes": Out(port(params, "writes"))}
        for source in self.SOURCES:
            members |= {
                f"{source}_wanted": In(1),
                f"{source}_message": In(message_layout()),
                f"{source}_granted": Out(1),
            }
        super().__init__(members)

    SOURCES = {
        "status": WriteId.STATUS,
        "completion_event": WriteId.INVALIDATION_EVENT,
        "fault_event": WriteId.FAULT_EVENT,
    }

    def elaborate(self, platform: object) -> Module:
        """Load when empty or just emptied."""
        m = Module()
        writes, free = self.writes, Signal()
        m.d.comb += free.eq(~writes.valid | writes.ready)
        with m.If(writes.ready):
            m.d.sync += writes.valid.eq(0)
        for position, (source, identifier) in enumerate(self.SOURCES.items()):
            wanted, message = getattr(self, f"{source}_wanted"), getattr(self, f"{source}_message")
            with m.If(free & wanted) if position == 0 else m.Elif(free & wanted):
                m.d.comb += getattr(self, f"{source}_granted").eq(1)
                m.d.sync += [
                    writes.valid.eq(1),
                    writes.payload.id.eq(identifier),
                    writes.payload.address.eq(message.address),
                    writes.payload.data.eq(message.data),
                ]
        return m
