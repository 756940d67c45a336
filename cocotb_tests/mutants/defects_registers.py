"""Defects of the RTL: fault log, events, registers, the write port."""

from cocotb_tests.mutants.defect import Defect, judges

__all__ = ["DEFECTS"]

_TOP, _LOG, _REGISTERS, _WRITES = "hdl/iommu.py", "hdl/fault.py", "hdl/registers.py", "hdl/writes.py"
_END, _FRONT = "hdl/completion.py", "hdl/frontend.py"

DEFECTS = (
    Defect(
        "fault_twice", _TOP,
        "faults.second.eq(frontend.fault)",
        "faults.second.eq(frontend.fault | faults.first)",
        "A fault of a walk is recorded twice.",
        "faults", judges("clb"),
    ),
    Defect(
        "fault_not_recorded", _TOP,
        "faults.first.eq(taken & completion.record)",
        "faults.first.eq(taken & completion.record & ~request.write)",
        "Refused writes are not recorded.",
        "faults", judges("clb"),
    ),
    Defect(
        "second_fault_lost", _TOP,
        "faults.second.eq(frontend.fault)",
        "faults.second.eq(frontend.fault & ~faults.first)",
        "Of two faults in one cycle the second is lost.",
        "faults", judges("clb"),
    ),
    Defect(
        "fault_direction", _FRONT,
        "record.read.eq(~request.write)",
        "record.read.eq(request.write)",
        "A fault of a lookup is recorded with the wrong direction.",
        "faults", judges("clb"),
    ),
    Defect(
        "walk_fpd_ignored", _END,
        "reason.any() & ~Mux(slot.context, slot.fpd, self.waiting.fpd)",
        "reason.any() & ~(slot.context & slot.fpd)",
        "FPD is ignored for faults of page walks.",
        "faults", judges("clb"),
    ),
    Defect(
        "lookup_fpd_ignored", _FRONT,
        "m.d.comb += [self._consulted.eq(1), self._recorded.eq(~context.fpd)]",
        "m.d.comb += [self._consulted.eq(1), self._recorded.eq(1)]",
        "FPD is ignored for faults of lookups.",
        "faults", judges("clb"),
    ),
    Defect(
        "record_overwritten", _LOG,
        "m.d.comb += [taken.eq(strobe & ~full & free), blocked.eq(strobe & ~full & ~free)]",
        "m.d.comb += [taken.eq(strobe & ~full), blocked.eq(strobe & ~full & ~free)]",
        "The fault that overflows the log overwrites a record.",
        "faults", judges("clb"),
    ),
    Defect(
        "overflow_not_seen", _LOG,
        "with m.If(blocked):",
        "with m.If(blocked & ~valid.all()):",
        "A full log drops faults without PFO.",
        "faults", judges("clb"),
    ),
    Defect(
        "recorded_in_overflow", _LOG,
        "m.d.comb += [taken.eq(strobe & ~full & free), blocked.eq(strobe & ~full & ~free)]",
        "m.d.comb += [taken.eq(strobe & free), blocked.eq(strobe & ~full & ~free)]",
        "A fault is recorded although PFO is set.",
        "faults", judges("clb"),
    ),
    Defect(
        "overflow_early", _LOG,
        "free = ~occupied.bit_select(position, 1)",
        "free = ~occupied.any()",
        "The log overflows while records are free.",
        "faults", judges("clb"),
    ),
    Defect(
        "overflow_when_full", _LOG,
        "with m.If(blocked):",
        "with m.If(blocked | occupied.all()):",
        "PFO is set without a fault as soon as the log is full.",
        "faults", judges("clb"),
    ),
    Defect(
        "overflow_cleared_with_record", _LOG,
        "with m.If(self.clear_overflow):",
        "with m.If(self.clear_overflow | self.clear):",
        "Clearing a record clears PFO too.",
        "faults", judges("clb"),
    ),
    Defect(
        "overflow_stays", _LOG,
        "with m.If(self.clear_overflow):",
        "with m.If(self.clear_overflow & valid.any()):",
        "PFO cannot be cleared once all records are.",
        "faults", judges("clb"),
    ),
    Defect(
        "pending_of_first", _LOG,
        "self.pending.eq(valid.any())",
        "self.pending.eq(valid[0])",
        "PPF looks at the first record only.",
        "faults", judges("clb"),
    ),
    Defect(
        "dropped_fault_written", _LOG,
        "with m.If(taken & (position == number)):\n"
        "                    m.d.sync += [valid[number].eq(1), records[number].eq(record)]",
        "with m.If(strobe & (position == number)):\n"
        "                    m.d.sync += [valid[number].eq(1), records[number].eq(record)]",
        "A fault that is dropped changes the record that it would have taken.",
        "faults", judges("clb"),
    ),
    Defect(
        "valid_of_any", _LOG,
        "out.f.eq(valid.bit_select(self.read_index, 1))",
        "out.f.eq(valid.any())",
        "F reads 1 in every record while one is valid.",
        "faults", judges("clb"),
    ),
    Defect(
        "first_record_index", _LOG,
        "with m.If(taken & ~is_pending):",
        "with m.If(taken):",
        "FRI names the newest record instead of the first.",
        "faults", judges("clb"),
    ),
    Defect(
        "set_lost_to_clear", _REGISTERS,
        "with m.If(self.interrupt):",
        'with m.If(self.interrupt & ~self._strobed("ICS", 0)):',
        "IWC is lost when software clears it in the cycle in which it is set.",
        "events", judges("cp"),
    ),
    Defect(
        "error_lost_to_clear", _REGISTERS,
        "with m.If(self.fail):",
        'with m.If(self.fail & ~self._strobed("FSTS", 0)):',
        "IQE is lost when software clears it in the cycle in which it is set.",
        "events", judges("c"),
    ),
    Defect(
        "sent_while_masked", _REGISTERS,
        "self.completion_event_wanted.eq(completion_event.pending & ~completion_event.masked)",
        "self.completion_event_wanted.eq(completion_event.pending)",
        "The completion message is sent while it is masked.",
        "events", judges("cpb"),
    ),
    Defect(
        "unmasked_after_reset", _REGISTERS,
        'Signal(init=1, name=f"{name}_event_masked")',
        'Signal(init=0, name=f"{name}_event_masked")',
        "Event messages are not masked after reset.",
        "faults", judges("cp"),
    ),
    Defect(
        "message_lost", _REGISTERS,
        "with m.If(cause & ~was):",
        "with m.If(cause & ~was & ~event.masked):",
        "An event that comes while its message is masked is forgotten.",
        "events", judges("cpb"),
    ),
    Defect(
        "message_twice", _REGISTERS,
        "with m.If(~cause | sent):",
        "with m.If(~cause):",
        "A message stays pending when it was sent, and is sent again.",
        "events", judges("cp"),
    ),
    Defect(
        "message_of_other", _REGISTERS,
        "self.fault_event_message.eq(fault_event.message)",
        "self.fault_event_message.eq(completion_event.message)",
        "The fault message is that of the completion event.",
        "events", judges("cpb"),
    ),
    Defect(
        "message_as_status", _WRITES,
        "writes.payload.id.eq(identifier)",
        "writes.payload.id.eq(WriteId.STATUS)",
        "Event messages carry the id of status writes.",
        "events", judges("clp"),
    ),
    Defect(
        "message_before_status", _WRITES,
        '"status": WriteId.STATUS,\n        "completion_event": WriteId.INVALIDATION_EVENT,\n',
        '"completion_event": WriteId.INVALIDATION_EVENT,\n        "status": WriteId.STATUS,\n',
        "Event messages go before status writes.",
        "waits, stalls", judges("cp"),
    ),
    Defect(
        "write_answered_with_data", _REGISTERS,
        "response.payload.data.eq(Mux(payload.write, 0, word))",
        "response.payload.data.eq(word)",
        "A register write is answered with the register's old value.",
        "events", judges("cp"),
    ),
    Defect(
        "write_replaced", _WRITES,
        "m.d.comb += free.eq(~writes.valid | writes.ready)",
        "m.d.comb += free.eq(~writes.valid | writes.ready | self.status_wanted)",
        "A status write replaces another write that memory has not taken.",
        "waits, stalls", judges("clpb"),
    ),
    Defect(
        "reset_incomplete", _REGISTERS,
        "translation, root_set = Signal(), Signal()",
        "translation, root_set = Signal(reset_less=True), Signal()",
        "Translation stays on over a reset.",
        "resets", judges("cpb"),
    ),
)  # fmt: skip
"""In the order of what they break."""
