"""Lookup stage: one request per cycle against context cache, IOTLB, walk caches and walk slots
(docs/timing.md F1-L8).
"""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out

from hdl.completion import denied, page_address
from hdl.formats.second_stage import sector_layout
from hdl.layouts import (
    context_layout,
    fault_layout,
    key_layout,
    pending_index,
    port,
    port_layout,
    slot_index,
    start_layout,
)
from hdl.lib.choose import encode, lowest
from hdl.pending import waiting_layout
from pymodel.spec.context import TTM_ABORT, TTM_LEGACY, TTM_SCALABLE
from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST

__all__ = ["Frontend", "pointer_layout"]

_LOOKUP_BITS = 4


def pointer_layout(params: IommuParams) -> data.StructLayout:
    """Lookup result of one paging-structure cache."""
    return data.StructLayout({"hit": 1, "sector": sector_layout(params)})


class Frontend(wiring.Component):
    """Request FIFO, lookup, hit FIFO.

    Members: `requests` in, `hits` out. `enabled` and `mode` (TTM) come from the registers, `blocked` is 1
    while an invalidation is applied. `replay`, `replay_request`, `replay_index`: a pending entry to look up
    before the FIFO. `key`, `did`, `page` address the caches, whose answers come back in the same cycle
    (`context_hit`, `context`, `iotlb_*`, `pointers`, by table level); `use_*` mark them as taken. `join_*`
    are the slots that `walk` could join, `free_slots` and `free_pending` what may be allocated. `start`,
    `wait`, `keep`, `drop_replay`, `fault` say what happens at the end of the cycle.
    Timing: a hit accepted in t is looked up in t+1 and on `hits` in t+2; one request per cycle.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        request = port_layout(params, "requests")
        pages = params.iova_bits - 12
        super().__init__(
            {
                "requests": In(port(params, "requests")),
                "hits": Out(port(params, "hits")),
                "hits_level": Out(2),
                "enabled": In(1),
                "mode": In(2),
                "blocked": In(1),
                "replay": In(1),
                "replay_request": In(request),
                "replay_index": In(pending_index(params)),
                "key": Out(key_layout()),
                "did": Out(16),
                "page": Out(pages),
                "context_hit": In(1),
                "context": In(context_layout(params)),
                "iotlb_hit": In(1),
                "iotlb_level": In(2),
                "iotlb_sector": In(sector_layout(params)),
                "pointers": In(data.ArrayLayout(pointer_layout(params), params.max_levels - 1)),
                "join_context": In(params.walk_slots),
                "join_page": In(params.walk_slots),
                "free_slots": In(params.walk_slots),
                "free_pending": In(params.pending_requests),
                "use_context": Out(1),
                "use_iotlb": Out(1),
                "use_pointer": Out(params.max_levels - 1),
                "walk": Out(start_layout(params)),
                "start": Out(1),
                "start_slot": Out(slot_index(params)),
                "wait": Out(1),
                "wait_index": Out(pending_index(params)),
                "waiting": Out(waiting_layout(params)),
                "keep": Out(1),
                "request": Out(request),
                "drop_replay": Out(1),
                "fault": Out(1),
                "fault_record": Out(fault_layout()),
                "lookup": Out(_LOOKUP_BITS),
                "lookup_slot": Out(slot_index(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Candidate, verdict (L2), resources (L3), effects."""
        m = Module()
        params, request = self._params, self.request
        m.submodules.request_fifo = request_fifo = SyncFIFO(
            width=port_layout(params, "requests").size, depth=2
        )
        m.submodules.hit_fifo = hit_fifo = SyncFIFO(width=port_layout(params, "hits").size, depth=2)
        candidate = Signal()
        m.d.comb += [
            request_fifo.w_en.eq(self.requests.valid),
            request_fifo.w_data.eq(self.requests.payload),
            self.requests.ready.eq(request_fifo.w_rdy),
            self.hits.valid.eq(hit_fifo.r_rdy),
            self.hits.payload.eq(hit_fifo.r_data),
            self.hits_level.eq(hit_fifo.r_level),
            hit_fifo.r_en.eq(self.hits.ready),
            candidate.eq(self.replay | request_fifo.r_rdy),
            request.eq(Mux(self.replay, self.replay_request.as_value(), request_fifo.r_data)),
            self.key.sid.eq(request.sid),
            self.key.pasid_valid.eq(request.pasid_valid),
            self.key.pasid.eq(Mux(request.pasid_valid, request.pasid, 0)),
            self.did.eq(self.context.did),
            self.page.eq(request.iova[12 : params.iova_bits]),
        ]
        self._walk(m)
        verdict = self._verdict(m)

        answers, needs_slot, has_slot, has_entry, goes = Signal(), Signal(), Signal(), Signal(), Signal()
        is_answer = [verdict == kind for kind in (Lookup.PASS, Lookup.HIT, Lookup.FAULT)]
        m.d.comb += [
            answers.eq(Cat(is_answer).any()),
            needs_slot.eq((verdict == Lookup.WALK) | (verdict == Lookup.CONTEXT_WALK)),
            has_slot.eq(self.free_slots.any() | ~needs_slot),
            has_entry.eq(self.free_pending.any() | self.replay),
            goes.eq(candidate & ~self.blocked & Mux(answers, hit_fifo.w_rdy, has_slot & has_entry)),
            self.lookup.eq(Mux(goes, verdict, Mux(candidate, Lookup.STALL, Lookup.NONE))),
            hit_fifo.w_en.eq(goes & answers),
            request_fifo.r_en.eq(goes & ~self.replay),
            self.drop_replay.eq(goes & answers & self.replay),
            self.wait.eq(goes & ~answers),
            self.keep.eq(~self.replay),
            self.wait_index.eq(Mux(self.replay, self.replay_index, encode(lowest(self.free_pending)))),
            self.start.eq(goes & needs_slot),
            self.start_slot.eq(encode(lowest(self.free_slots))),
            self.use_iotlb.eq(goes & (verdict == Lookup.HIT)),
            self.waiting.slot.eq(self.lookup_slot),
        ]
        with m.Switch(verdict):
            with m.Case(Lookup.MERGE):
                m.d.comb += self.lookup_slot.eq(encode(lowest(self.join_page)))
            with m.Case(Lookup.CONTEXT_MERGE):
                m.d.comb += self.lookup_slot.eq(encode(lowest(self.join_context)))
            with m.Case(Lookup.WALK, Lookup.CONTEXT_WALK):
                m.d.comb += self.lookup_slot.eq(self.start_slot)
        with m.If(goes):
            m.d.comb += self.use_context.eq(self._consulted)
            m.d.comb += self.fault.eq((verdict == Lookup.FAULT) & self._recorded)
        with m.If(goes & (verdict == Lookup.WALK)):
            m.d.comb += self.use_pointer.eq(self._pointer)
        m.d.comb += hit_fifo.w_data.eq(self._response)
        return m

    def _walk(self, m: Module) -> None:
        """The walk that the request would start (L8)."""
        params, walk = self._params, self.walk
        usable = Signal(params.max_levels - 1)
        self._pointer = Signal(params.max_levels - 1)
        for level in range(params.max_levels - 1):
            m.d.comb += usable[level].eq(self.pointers[level].hit & (level + 1 < self.context.depth))
        m.d.comb += [
            self._pointer.eq(lowest(usable)),
            walk.context.eq(~self.context_hit),
            walk.key.eq(self.key),
            walk.scalable.eq(self.mode == TTM_SCALABLE),
            walk.did.eq(self.did),
            walk.depth.eq(self.context.depth),
            walk.page.eq(self.page[3:]),
            walk.level.eq(self.context.depth - 1),
            walk.table.eq(self.context.table),
            walk.r.eq(1),
            walk.w.eq(1),
        ]
        for level in range(params.max_levels - 1):
            sector = self.pointers[level].sector
            with m.If(self._pointer[level]):
                m.d.comb += [
                    walk.level.eq(level),
                    walk.table.eq(sector.frame),
                    walk.r.eq(sector.r),
                    walk.w.eq(sector.w),
                ]

    def _beyond_width(self, m: Module, iova: Value) -> Value:
        """L2.7: iova does not fit the tables' depth."""
        beyond = Signal()
        with m.Switch(self.context.depth):
            for depth in self._params.levels:
                with m.Case(depth):
                    m.d.comb += beyond.eq(iova[12 + 9 * depth :].any())
        return beyond

    def _verdict(self, m: Module) -> Signal:
        """L2: the first rule that applies decides."""
        params, request, context = self._params, self.request, self.context
        verdict = Signal(_LOOKUP_BITS)
        self._recorded, self._consulted = Signal(init=1), Signal()
        self._response = Signal(port_layout(params, "hits"))
        response, sector, reason = self._response, self.iotlb_sector, Signal(8)
        scalable = self.mode == TTM_SCALABLE
        bad_mode = self.mode[1] | (scalable if not params.scalable else 0)
        interrupt = ~request.pasid_valid & (request.iova[20:] == INTERRUPT_FIRST >> 20)
        permitted = Mux(request.write, sector.w, sector.r)
        beyond = self._beyond_width(m, request.iova)
        refuse = self.iotlb_hit & ~permitted & (not params.rewalk_on_perm)
        m.d.comb += [self._recorded.eq(1), response.tag.eq(request.tag)]
        m.d.comb += [
            self.waiting.scalable.eq(scalable),
            self.waiting.fpd.eq(context.fpd & self.context_hit),
            self.waiting.pgsnp.eq(context.pgsnp & self.context_hit),
        ]

        with m.If(~self.enabled):
            m.d.comb += verdict.eq(Lookup.PASS)
        with m.Elif(bad_mode):
            m.d.comb += [verdict.eq(Lookup.FAULT), reason.eq(Reason.SM_BAD_MODE)]
            m.d.comb += self._recorded.eq(self.mode != TTM_ABORT)
        with m.Elif((self.mode == TTM_LEGACY) & request.pasid_valid):
            m.d.comb += [verdict.eq(Lookup.FAULT), reason.eq(Reason.SM_PASID_IN_LEGACY)]
        with m.Elif(interrupt & request.write):
            m.d.comb += verdict.eq(Lookup.PASS)
        with m.Elif(interrupt):
            m.d.comb += [verdict.eq(Lookup.FAULT), self._recorded.eq(0)]
            m.d.comb += reason.eq(Mux(scalable, Reason.SM_INTERRUPT_ADDRESS, Reason.INTERRUPT_ADDRESS))
        with m.Elif(~self.context_hit):
            m.d.comb += verdict.eq(Mux(self.join_context.any(), Lookup.CONTEXT_MERGE, Lookup.CONTEXT_WALK))
        with m.Else():
            m.d.comb += [self._consulted.eq(1), self._recorded.eq(~context.fpd)]
            m.d.comb += response.snoop.eq(context.pgsnp)
            with m.If(context.pass_through):
                m.d.comb += verdict.eq(Lookup.PASS)
            with m.Elif(beyond):
                m.d.comb += verdict.eq(Lookup.FAULT)
                m.d.comb += reason.eq(
                    Mux(scalable, Reason.SM_ADDRESS_BEYOND_WIDTH, Reason.ADDRESS_BEYOND_WIDTH)
                )
            with m.Elif(self.iotlb_hit & permitted):
                m.d.comb += verdict.eq(Lookup.HIT)
            with m.Elif(refuse):
                m.d.comb += [verdict.eq(Lookup.FAULT), reason.eq(denied(scalable, request.write))]
            with m.Else():
                m.d.comb += verdict.eq(Mux(self.join_page.any(), Lookup.MERGE, Lookup.WALK))

        with m.Switch(verdict):
            with m.Case(Lookup.PASS):
                m.d.comb += [response.address.eq(request.iova), response.r.eq(1), response.w.eq(1)]
            with m.Case(Lookup.HIT):
                address = page_address(sector.frame, request.iova, self.iotlb_level, params.large_pages)
                m.d.comb += [
                    response.address.eq(address),
                    response.level.eq(self.iotlb_level),
                    response.r.eq(sector.r),
                    response.w.eq(sector.w),
                    response.snoop.eq(sector.snp | context.pgsnp),
                ]
            with m.Default():
                m.d.comb += [response.reason.eq(reason), response.snoop.eq(0)]
        record = self.fault_record
        m.d.comb += [
            record.reason.eq(reason),
            record.sid.eq(request.sid),
            record.pasid_valid.eq(request.pasid_valid),
            record.pasid.eq(self.key.pasid),
            record.page.eq(request.iova[12:]),
            record.read.eq(~request.write),
        ]
        return verdict


