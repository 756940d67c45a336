"""Walk slots: context walks and page walks, W in flight (docs/timing.md W1-W10, I6, I7)."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, enum, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.formats.context import ContextDecoder, ContextStage
from hdl.formats.second_stage import EntryDecoder, sector_layout
from hdl.layouts import apply_layout, context_layout, key_layout, port, slot_index, start_layout, strobe_port
from hdl.lib.choose import encode, offer_next
from pymodel.spec.observation import fetch_id
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import ENTRIES_PER_LINE

__all__ = ["SlotState", "Walker", "result_layout", "slot_layout"]


class SlotState(enum.Enum, shape=2):
    """State of a walk slot (W1)."""

    FREE = 0
    ISSUE = 1
    WAIT = 2
    DONE = 3


def result_layout(params: IommuParams) -> data.ArrayLayout:
    """The decoded line that a page walk ended with."""
    entry = data.StructLayout({"sector": sector_layout(params), "present": 1, "reserved": 1})
    return data.ArrayLayout(entry, ENTRIES_PER_LINE)


def slot_layout(params: IommuParams) -> data.StructLayout:
    """A walk slot. `level` and `depth` belong to page walks; `stage`, `key`, `pasid`, `fpd`, `reason` to
    context walks.
    """
    return data.StructLayout(
        {
            "state": SlotState,
            "killed": 1,
            "context": 1,
            "key": key_layout(),
            "scalable": 1,
            "stage": ContextStage,
            "pasid": 20,
            "fpd": 1,
            "reason": 8,
            "did": 16,
            "depth": 3,
            "page": params.iova_bits - 15,
            "level": 3,
            "table": params.haw - 12,
            "r": 1,
            "w": 1,
            "error": 1,
        }
    )


class Walker(wiring.Component):
    """W walk slots with one read port.

    Members:
    - `start` allocates slot `start_slot` (must be free) at the end of the cycle, for a walk described by
      `start_walk`.
    - `free`: slots that are FREE. `live_context`, `live_page`: slots that the walk described by `start_walk`
      could join; only those in ISSUE while `retried`. `waiting`: slots whose read is outstanding. `advanced`:
      slots that go on to their next read now.
    - `reads`, `read_data`: the memory ports. `fetch`, `fetch_line`: the queue engine's read, which goes
      first; `fetch_accepted` is 1 in the cycle in which it is taken.
    - `ended`: slots whose walk ends now; with `replay` their requests are to be looked up again, else
      answered.
    - `release` (one-hot) frees a DONE slot. `offered` (one-hot): the slot of the answer offered on
      `completions` and not taken in this cycle. `killed`: slots that `apply` kills now.
    - `slots` and `result` (of slot `result_slot`) are for judging answers.
    - `iotlb_fill`, `psc_fill`, `context_fill` write caches at the end of the cycle.
    Timing: a walk of n reads returns its last line n(L+1) cycles after `start`, and its slot is DONE in the
    cycle after that.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        slots, index = params.walk_slots, slot_index(params)
        sectors = data.ArrayLayout(sector_layout(params), ENTRIES_PER_LINE)
        super().__init__(
            {
                "active_root": In(params.haw - 12),
                "start": In(1),
                "start_slot": In(index),
                "start_walk": In(start_layout(params)),
                "free": Out(slots),
                "live_context": Out(slots),
                "live_page": Out(slots),
                "retried": In(1),
                "waiting": Out(slots),
                "advanced": Out(slots),
                "reads": Out(port(params, "reads")),
                "read_data": In(strobe_port(params, "read_data")),
                "fetch": In(1),
                "fetch_line": In(params.haw - 6),
                "fetch_accepted": Out(1),
                "ended": Out(slots),
                "replay": Out(1),
                "release": In(slots),
                "offered": In(slots),
                "apply": In(apply_layout(params)),
                "killed": Out(slots),
                "slots": Out(data.ArrayLayout(slot_layout(params), slots)),
                "result_slot": In(index),
                "result": Out(result_layout(params)),
                "arrival": Out(1),
                "arrival_dropped": Out(1),
                "fill_did": Out(16),
                "fill_page": Out(params.iova_bits - 15),
                "fill_level": Out(2),
                "fill_valid": Out(ENTRIES_PER_LINE),
                "fill_sectors": Out(sectors),
                "iotlb_fill": Out(1),
                "psc_fill": Out(1),
                "context_fill": Out(1),
                "fill_key": Out(key_layout()),
                "fill_pasid": Out(20),
                "fill_context": Out(context_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Read arbitration, arrivals, kills, allocation; later statements win at the end of a cycle."""
        m = Module()
        slots = [Signal(slot_layout(self._params), name=f"slot_{number}") for number in range(self._params.walk_slots)]
        for number, slot in enumerate(slots):
            m.d.comb += [
                self.slots[number].eq(slot),
                self.free[number].eq(slot.state == SlotState.FREE),
                self.waiting[number].eq(slot.state == SlotState.WAIT),
            ]
            with m.If(self.release[number]):
                m.d.sync += [slot.state.eq(SlotState.FREE), slot.killed.eq(0)]
        offered = self._issue(m, slots)
        self._arrive(m, slots)
        self._kill(m, slots, offered)
        self._match(m, slots)
        self._allocate(m, slots)
        return m

    def _read_line(self, m: Module, slot: data.View) -> Value:
        """Line that holds the entry which the slot wants (W3)."""
        params = self._params
        sid, table = slot.key.sid, slot.table
        line = Signal(params.haw - 6)
        with m.If(slot.context):
            with m.Switch(slot.stage):
                with m.Case(ContextStage.ROOT):
                    m.d.comb += line.eq(Cat(sid[10:16], table))
                with m.Case(ContextStage.CONTEXT):
                    m.d.comb += line.eq(Cat(Mux(slot.scalable, sid[1:7], sid[2:8]), table))
                with m.Case(ContextStage.DIRECTORY):
                    m.d.comb += line.eq(Cat(Const(0, 6), table) + slot.pasid[9:])
                with m.Case(ContextStage.PASID):
                    m.d.comb += line.eq(Cat(slot.pasid[:6], table))
        with m.Else():
            with m.Switch(slot.level):
                for level in range(params.max_levels):
                    with m.Case(level):
                        m.d.comb += line.eq(Cat(slot.page[9 * level : 9 * level + 6], table))
        return line

    def _issue(self, m: Module, slots: list[data.View]) -> Value:
        """Offer one read (W2); returns the one-hot mask of the slot whose read is offered."""
        params, count = self._params, len(slots)
        wanting, granted, chosen = Signal(count), Signal(count), Signal(count)
        pointer, held, held_fetch = Signal(slot_index(params)), Signal(count), Signal()
        m.d.comb += [wanting[number].eq(slot.state == SlotState.ISSUE) for number, slot in enumerate(slots)]
        m.d.comb += [
            granted.eq(offer_next(m, wanting, pointer)),
            chosen.eq(Mux(held_fetch, 0, Mux(held.any(), held, Mux(self.fetch, 0, granted)))),
        ]
        index = Signal(slot_index(params))
        slot = Signal(slot_layout(params), name="read_slot")
        m.d.comb += [
            index.eq(encode(chosen)),
            slot.eq(Array(slots)[index] if count > 1 else slots[0]),
            self.reads.valid.eq(self.fetch | wanting.any()),
        ]
        line = self._read_line(m, slot)
        with m.If(self.reads.valid):
            with m.If(chosen.any()):
                m.d.comb += [self.reads.payload.id.eq(index), self.reads.payload.line.eq(line)]
            with m.Else():
                m.d.comb += [
                    self.reads.payload.id.eq(fetch_id(params)),
                    self.reads.payload.line.eq(self.fetch_line),
                ]
        accepted = Signal()
        m.d.comb += [
            accepted.eq(self.reads.valid & self.reads.ready),
            self.fetch_accepted.eq(accepted & ~chosen.any()),
        ]
        m.d.sync += [
            held.eq(Mux(self.reads.valid & ~self.reads.ready, chosen, 0)),
            held_fetch.eq(self.reads.valid & ~self.reads.ready & ~chosen.any()),
        ]
        with m.If(accepted & chosen.any()):
            m.d.sync += pointer.eq(Mux(index == count - 1, 0, index + 1))
            for number, candidate in enumerate(slots):
                with m.If(chosen[number]):
                    m.d.sync += candidate.state.eq(SlotState.WAIT)
        return chosen

    def _arrive(self, m: Module, slots: list[data.View]) -> None:
        """Judge the line that memory returns (W4-W10)."""
        params, count = self._params, len(slots)
        payload = self.read_data.payload
        number_of = Signal(slot_index(params))
        slot = Signal(slot_layout(params), name="arrival_slot")
        for_slot, dropped, live = Signal(), Signal(), Signal()
        m.d.comb += [
            number_of.eq(payload.id),
            slot.eq(Array(slots)[number_of] if count > 1 else slots[0]),
            for_slot.eq(self.read_data.valid & (payload.id != fetch_id(params))),
            dropped.eq(for_slot & (slot.killed | self.killed.bit_select(number_of, 1))),
            live.eq(for_slot & ~dropped),
            self.arrival.eq(self.read_data.valid),
            self.arrival_dropped.eq(dropped),
        ]

        m.submodules.context_decoder = context = ContextDecoder(params)
        m.d.comb += [
            context.line.eq(payload.data),
            context.error.eq(payload.error),
            context.stage.eq(slot.stage),
            context.key.eq(slot.key),
            context.scalable.eq(slot.scalable),
            context.pasid.eq(slot.pasid),
            context.fpd.eq(slot.fpd),
            self.fill_key.eq(slot.key),
            self.fill_pasid.eq(context.pasid_out),
            self.fill_context.eq(context.context),
        ]

        decoders = []
        for position in range(ENTRIES_PER_LINE):
            decoder = EntryDecoder(params)
            m.submodules[f"entry_{position}"] = decoder
            m.d.comb += [
                decoder.entry.eq(payload.data[64 * position : 64 * position + 64]),
                decoder.level.eq(slot.level),
                decoder.r.eq(slot.r),
                decoder.w.eq(slot.w),
            ]
            decoders.append(decoder)
        wanted = Signal(range(ENTRIES_PER_LINE))
        with m.Switch(slot.level):
            for level in range(1, params.max_levels):
                with m.Case(level):
                    m.d.comb += wanted.eq(slot.page[9 * level - 3 : 9 * level])
        last = Array(decoder.good_pointer for decoder in decoders)
        goes_on, ends_well, fillable = Signal(), Signal(), Signal()
        fill_pointers = Cat(decoder.good_pointer for decoder in decoders)
        fill_leaves = Cat(decoder.good_leaf for decoder in decoders)
        usable_leaf = Array(
            decoder.leaf & ~decoder.reserved & decoder.present & (decoder.sector.r | decoder.sector.w)
            for decoder in decoders
        )
        m.d.comb += [
            goes_on.eq(~payload.error & last[wanted]),
            ends_well.eq(~payload.error & ((slot.level == 0) | usable_leaf[wanted])),
            fillable.eq(live & ~slot.context),
            self.fill_did.eq(slot.did),
            self.fill_page.eq(slot.page),
            self.fill_level.eq(Mux(goes_on, slot.level - 1, slot.level)),
            self.fill_valid.eq(Mux(goes_on, fill_pointers, fill_leaves)),
            self.psc_fill.eq(fillable & goes_on),
            self.iotlb_fill.eq(fillable & ends_well & fill_leaves.any()),
            self.context_fill.eq(live & slot.context & context.done),
            self.replay.eq(self.context_fill),
        ]
        m.d.comb += [self.fill_sectors[number].eq(decoder.sector) for number, decoder in enumerate(decoders)]
        self._store_result(m, decoders, number_of, live & ~slot.context & ~goes_on)

        next_table = Array(decoder.sector.frame for decoder in decoders)[wanted]
        next_r = Array(decoder.sector.r for decoder in decoders)[wanted]
        next_w = Array(decoder.sector.w for decoder in decoders)[wanted]
        after_context = Mux(slot.scalable, ContextStage.DIRECTORY, ContextStage.CONTEXT)
        for number, target in enumerate(slots):
            with m.If(for_slot & (number_of == number)):
                with m.If(dropped):
                    m.d.sync += [target.state.eq(SlotState.FREE), target.killed.eq(0)]
                with m.Elif(slot.context):
                    m.d.sync += [target.fpd.eq(context.fpd_out), target.pasid.eq(context.pasid_out)]
                    m.d.sync += [target.table.eq(context.table), target.reason.eq(context.reason)]
                    with m.If(context.reason.any()):
                        m.d.sync += target.state.eq(SlotState.DONE)
                        m.d.comb += self.ended[number].eq(1)
                    with m.Elif(context.done):
                        m.d.sync += target.state.eq(SlotState.FREE)
                        m.d.comb += self.ended[number].eq(1)
                    with m.Else():
                        m.d.comb += self.advanced[number].eq(1)
                        m.d.sync += target.state.eq(SlotState.ISSUE)
                        with m.Switch(slot.stage):
                            with m.Case(ContextStage.ROOT):
                                m.d.sync += target.stage.eq(ContextStage.CONTEXT)
                            with m.Case(ContextStage.CONTEXT):
                                m.d.sync += target.stage.eq(after_context)
                            with m.Default():
                                m.d.sync += target.stage.eq(ContextStage.PASID)
                with m.Elif(goes_on):
                    m.d.comb += self.advanced[number].eq(1)
                    m.d.sync += [
                        target.state.eq(SlotState.ISSUE),
                        target.level.eq(slot.level - 1),
                        target.table.eq(next_table),
                        target.r.eq(next_r),
                        target.w.eq(next_w),
                    ]
                with m.Else():
                    m.d.sync += [target.state.eq(SlotState.DONE), target.error.eq(payload.error)]
                    m.d.comb += self.ended[number].eq(1)

    def _store_result(self, m: Module, decoders: list[EntryDecoder], slot: Value, enable: Value) -> None:
        """Keep the decoded line for the answers (C2)."""
        layout = result_layout(self._params)
        m.submodules.results = results = Memory(shape=layout, depth=self._params.walk_slots, init=[])
        write, read = results.write_port(), results.read_port(domain="comb")
        m.d.comb += [write.en.eq(enable), write.addr.eq(slot), read.addr.eq(self.result_slot)]
        m.d.comb += self.result.eq(read.data)
        for number, decoder in enumerate(decoders):
            m.d.comb += [
                write.data[number].sector.eq(decoder.sector),
                write.data[number].present.eq(decoder.present),
                write.data[number].reserved.eq(decoder.reserved),
            ]

    def _kill(self, m: Module, slots: list[data.View], offered_read: Value) -> None:
        """Restart what an invalidation covers (I6, I7)."""
        params, apply = self._params, self.apply
        if not params.walk_drain:
            return
        pages = params.iova_bits - 12
        beyond = (apply.page[pages:] & apply.care[pages:]).any()
        for number, slot in enumerate(slots):
            region = Signal(pages - 3, name=f"region_{number}")
            with m.Switch(slot.level):
                for level in range(params.max_levels):
                    with m.Case(level):
                        line = Const(((1 << pages - 3) - 1) & ~((1 << 9 * level) - 1), pages - 3)
                        table = Const(((1 << pages - 3) - 1) & ~((1 << 9 * level + 6) - 1), pages - 3)
                        m.d.comb += region.eq(Mux(apply.keep_pointers, line, table))
            same_did = slot.did == apply.did
            overlaps = ((slot.page ^ apply.page[3:pages]) & apply.care[3:pages] & region) == 0
            by_iotlb = ~slot.context & (
                apply.everything | (same_did & (apply.by_did | (apply.by_page & overlaps & ~beyond)))
            )
            covered = apply.context | (apply.iotlb & by_iotlb)
            kill = (slot.state != SlotState.FREE) & ~slot.killed & covered
            m.d.comb += self.killed[number].eq(kill)
            with m.If(kill):
                with m.Switch(slot.state):
                    with m.Case(SlotState.ISSUE):
                        with m.If(~offered_read[number]):
                            m.d.sync += slot.state.eq(SlotState.FREE)
                        with m.Else():
                            m.d.sync += slot.killed.eq(1)
                    with m.Case(SlotState.WAIT):
                        arrives = self.read_data.valid & (self.read_data.payload.id == number)
                        m.d.sync += slot.killed.eq(~arrives)
                    with m.Case(SlotState.DONE):
                        with m.If(self.offered[number]):
                            m.d.sync += slot.killed.eq(1)
                        with m.Else():
                            m.d.sync += slot.state.eq(SlotState.FREE)

    def _match(self, m: Module, slots: list[data.View]) -> None:
        """Which slots the walk to start could join (L2.5, L2.9)."""
        walk = self.start_walk
        for number, slot in enumerate(slots):
            joinable = (slot.state == SlotState.ISSUE) | ((slot.state == SlotState.WAIT) & ~self.retried)
            live = joinable & ~slot.killed
            same_key = slot.key.as_value() == walk.key.as_value()
            same_page = (slot.did == walk.did) & (slot.page == walk.page)
            m.d.comb += [
                self.live_context[number].eq(live & slot.context & same_key),
                self.live_page[number].eq(live & ~slot.context & same_page),
            ]

    def _allocate(self, m: Module, slots: list[data.View]) -> None:
        """Start a walk (L8, W1)."""
        walk = self.start_walk
        for number, slot in enumerate(slots):
            with m.If(self.start & (self.start_slot == number)):
                m.d.sync += [
                    slot.state.eq(SlotState.ISSUE),
                    slot.killed.eq(0),
                    slot.context.eq(walk.context),
                    slot.key.eq(walk.key),
                    slot.scalable.eq(walk.scalable),
                    slot.stage.eq(ContextStage.ROOT),
                    slot.pasid.eq(walk.key.pasid),
                    slot.fpd.eq(0),
                    slot.reason.eq(0),
                    slot.did.eq(walk.did),
                    slot.depth.eq(walk.depth),
                    slot.page.eq(walk.page),
                    slot.level.eq(Mux(walk.context, 0, walk.level)),
                    slot.table.eq(Mux(walk.context, self.active_root, walk.table)),
                    slot.r.eq(walk.r),
                    slot.w.eq(walk.w),
                    slot.error.eq(0),
                ]

