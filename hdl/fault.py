"""Fault recording registers (docs/timing.md M4, R2)."""

from amaranth.hdl import Array, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.formats.layout import view
from hdl.layouts import fault_layout
from hdl.lib.choose import index_width
from pymodel.spec.faults import FAULT_RECORD
from pymodel.spec.params import IommuParams

__all__ = ["FaultLog"]


class FaultLog(wiring.Component):
    """NFR fault records, filled in turn; never overwrites a record that software has not cleared.

    Members: `first` (with `first_record`) and `second` (with `second_record`) record faults at the end of the
    cycle, the first before the second. `read_index` selects `read_data`; `clear` clears F of that record,
    `clear_overflow` clears PFO. `overflow` (PFO), `pending` (PPF), `index` (FRI). `recorded`: how many faults
    are written in this cycle.
    Timing: two faults per cycle, seen in the next cycle.
    """

    def __init__(self, params: IommuParams) -> None:
        self._records = params.fault_records
        index = index_width(params.fault_records)
        super().__init__(
            {
                "first": In(1),
                "first_record": In(fault_layout()),
                "second": In(1),
                "second_record": In(fault_layout()),
                "read_index": In(index),
                "read_data": Out(FAULT_RECORD.width),
                "clear": In(1),
                "clear_overflow": In(1),
                "overflow": Out(1),
                "pending": Out(1),
                "index": Out(8),
                "recorded": Out(2),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Two recording steps in a row, then what software clears."""
        m = Module()
        count = self._records
        valid = Signal(count)
        records = [Signal(fault_layout(), name=f"record_{number}") for number in range(count)]
        following, overflow, oldest = Signal(index_width(count)), Signal(), Signal(8)

        with m.If(self.clear):
            for number in range(count):
                with m.If(self.read_index == number):
                    m.d.sync += valid[number].eq(0)
        with m.If(self.clear_overflow):
            m.d.sync += overflow.eq(0)

        position, full, is_pending = following, overflow, valid.any()
        occupied = valid
        written = []
        for name, strobe, record in (
            ("first", self.first, self.first_record),
            ("second", self.second, self.second_record),
        ):
            taken = Signal(name=f"{name}_taken")
            blocked = Signal(name=f"{name}_blocked")
            free = ~occupied.bit_select(position, 1)
            m.d.comb += [taken.eq(strobe & ~full & free), blocked.eq(strobe & ~full & ~free)]
            with m.If(blocked):
                m.d.sync += overflow.eq(1)
            for number in range(count):
                with m.If(taken & (position == number)):
                    m.d.sync += [valid[number].eq(1), records[number].eq(record)]
            with m.If(taken & ~is_pending):
                m.d.sync += oldest.eq(position)
            after = Signal.like(following, name=f"after_{name}")
            m.d.comb += after.eq(Mux(taken, Mux(position == count - 1, 0, position + 1), position))
            after_occupied = Signal.like(valid, name=f"occupied_after_{name}")
            m.d.comb += after_occupied.eq(occupied | (taken << position))
            position, occupied = after, after_occupied
            full, is_pending = full | blocked, is_pending | taken
            written.append(taken)
        m.d.sync += following.eq(position)

        shown = Signal(fault_layout())
        m.d.comb += [
            shown.eq(Array(records)[self.read_index] if count > 1 else records[0]),
            self.overflow.eq(overflow),
            self.pending.eq(valid.any()),
            self.index.eq(oldest),
            self.recorded.eq(written[0] + written[1]),
        ]
        out = view(FAULT_RECORD, self.read_data)
        m.d.comb += [
            out.address.eq(shown.page),
            out.sid.eq(shown.sid),
            out.pasid_present.eq(shown.pasid_valid),
            out.reason.eq(shown.reason),
            out.pasid.eq(shown.pasid),
            out.t.eq(shown.read),
            out.f.eq(valid.bit_select(self.read_index, 1)),
        ]
        return m
