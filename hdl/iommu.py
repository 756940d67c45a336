"""The IOMMU with native ports (docs/timing.md)."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hdl.completion import Completion
from hdl.context import ContextCache
from hdl.fault import FaultLog
from hdl.frontend import Frontend
from hdl.invalidation import InvalidationQueue
from hdl.iotlb import Iotlb
from hdl.layouts import port, strobe_port
from hdl.observe import Observer
from hdl.pending import Pending
from hdl.registers import Registers
from hdl.walk_cache import WalkCache
from hdl.walker import Walker
from hdl.writes import WriteBuffer
from pymodel.spec.context import RTADDR, TTM_SCALABLE
from pymodel.spec.observation import WriteId, fetch_id, observation
from pymodel.spec.params import IommuParams

__all__ = ["Iommu"]


class Iommu(wiring.Component):
    """Second-stage IOMMU with queued invalidation; one clock domain `sync`, synchronous reset.

    Members are the native ports of `pymodel.spec.observation.payloads`: `requests` in, `hits` (answered by
    lookup) and `completions` (answered by walks) out, matched by tag; `reads`/`read_data` and
    `writes`/`write_acks` to memory; `register_requests`/`register_responses`; and `obs`, the packed
    observation, which may be left open.
    Timing: hits one per cycle, two cycles after acceptance; a walk of n reads n(L+1)+2 cycles; see the rules
    of docs/timing.md.
    Raises `ValueError` for knobs that it is not built for: K3, K8 off, K11.
    """

    def __init__(self, params: IommuParams) -> None:
        for name, built in (("np_cache", False), ("drain_always", True), ("inv_reorder", False)):
            if getattr(params, name) is not built:
                raise ValueError(f"{name} must be {built} for the RTL, not {getattr(params, name)}")
        self.params = params
        super().__init__(
            {
                "requests": In(port(params, "requests")),
                "hits": Out(port(params, "hits")),
                "completions": Out(port(params, "completions")),
                "reads": Out(port(params, "reads")),
                "read_data": In(strobe_port(params, "read_data")),
                "writes": Out(port(params, "writes")),
                "write_acks": In(strobe_port(params, "write_acks")),
                "register_requests": In(port(params, "register_requests")),
                "register_responses": Out(port(params, "register_responses")),
                "obs": Out(sum(width for _, width in observation(params))),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Wires the blocks; what each does is in its own file."""
        m = Module()
        params = self.params
        m.submodules.frontend = frontend = Frontend(params)
        m.submodules.context_cache = context_cache = ContextCache(params)
        m.submodules.iotlb = iotlb = Iotlb(params)
        pointers = [WalkCache(params, level) for level in range(params.max_levels - 1)]
        for level, cache in enumerate(pointers):
            m.submodules[f"walk_cache_{level}"] = cache
        m.submodules.walker = walker = Walker(params)
        m.submodules.pending_requests = pending = Pending(params)
        m.submodules.completion = completion = Completion(params)
        m.submodules.invalidation = queue = InvalidationQueue(params)
        m.submodules.registers = registers = Registers(params)
        m.submodules.fault_log = faults = FaultLog(params)
        m.submodules.write_buffer = write_buffer = WriteBuffer(params)
        m.submodules.observer = observer = Observer(params)

        wiring.connect(m, wiring.flipped(self.requests), frontend.requests)
        wiring.connect(m, frontend.hits, wiring.flipped(self.hits))
        wiring.connect(m, walker.reads, wiring.flipped(self.reads))
        wiring.connect(m, write_buffer.writes, wiring.flipped(self.writes))
        wiring.connect(m, wiring.flipped(self.register_requests), registers.register_requests)
        wiring.connect(m, registers.register_responses, wiring.flipped(self.register_responses))
        m.d.comb += [
            walker.read_data.valid.eq(self.read_data.valid),
            walker.read_data.payload.eq(self.read_data.payload),
        ]

        mode = Signal(2)
        m.d.comb += mode.eq(registers.root[RTADDR["ttm"].lsb : RTADDR["ttm"].lsb + 2])
        apply = queue.apply
        applying = apply.context | apply.iotlb
        m.d.comb += [block.apply.eq(apply) for block in (context_cache, iotlb, walker, *pointers)]

        m.d.comb += [
            frontend.enabled.eq(registers.enabled),
            frontend.mode.eq(mode),
            frontend.blocked.eq(applying),
            frontend.replay.eq(pending.replay),
            frontend.replay_request.eq(pending.replay_request),
            frontend.replay_index.eq(pending.replay_index),
            context_cache.key.eq(frontend.key),
            context_cache.use.eq(frontend.use_context),
            frontend.context_hit.eq(context_cache.hit),
            frontend.context.eq(context_cache.context),
            iotlb.did.eq(frontend.did),
            iotlb.page.eq(frontend.page),
            iotlb.use.eq(frontend.use_iotlb),
            frontend.iotlb_hit.eq(iotlb.hit),
            frontend.iotlb_level.eq(iotlb.level),
            frontend.iotlb_sector.eq(iotlb.sector),
            frontend.join_context.eq(walker.live_context),
            frontend.join_page.eq(walker.live_page),
            frontend.free_slots.eq(walker.free | pending.released),
            frontend.free_pending.eq(pending.available),
        ]
        for level, cache in enumerate(pointers):
            m.d.comb += [
                cache.did.eq(frontend.did),
                cache.page.eq(frontend.page),
                cache.use.eq(frontend.use_pointer[level]),
                frontend.pointers[level].hit.eq(cache.hit),
                frontend.pointers[level].sector.eq(cache.sector),
                cache.fill.eq(walker.psc_fill & (walker.fill_level == level)),
                cache.fill_did.eq(walker.fill_did),
                cache.fill_page.eq(walker.fill_page),
                cache.fill_valid.eq(walker.fill_valid),
                cache.fill_sectors.eq(walker.fill_sectors),
            ]
        m.d.comb += [
            iotlb.fill.eq(walker.iotlb_fill),
            iotlb.fill_did.eq(walker.fill_did),
            iotlb.fill_page.eq(walker.fill_page),
            iotlb.fill_level.eq(walker.fill_level),
            iotlb.fill_valid.eq(walker.fill_valid),
            iotlb.fill_sectors.eq(walker.fill_sectors),
            context_cache.fill.eq(walker.context_fill),
            context_cache.fill_key.eq(walker.fill_key),
            context_cache.fill_pasid.eq(walker.fill_pasid),
            context_cache.fill_context.eq(walker.fill_context),
        ]

        m.d.comb += [
            walker.active_root.eq(registers.root[12 : params.haw]),
            walker.start.eq(frontend.start),
            walker.start_slot.eq(frontend.start_slot),
            walker.start_walk.eq(frontend.walk),
            walker.fetch.eq(queue.fetch),
            walker.fetch_line.eq(queue.fetch_line),
            walker.release.eq(pending.released),
            walker.offered.eq(pending.offered),
            walker.result_slot.eq(pending.answer_waiting.slot),
            pending.wait.eq(frontend.wait),
            pending.wait_index.eq(frontend.wait_index),
            pending.waiting.eq(frontend.waiting),
            pending.keep.eq(frontend.keep),
            pending.request.eq(frontend.request),
            pending.drop_replay.eq(frontend.drop_replay),
            pending.ended.eq(walker.ended),
            pending.ended_replay.eq(walker.replay),
            pending.killed.eq(walker.killed),
            pending.outstanding.eq(walker.waiting),
            pending.advanced.eq(walker.advanced),
            walker.retried.eq(pending.replay & pending.replay_retried),
        ]

        answered = Array(walker.slots[number] for number in range(params.walk_slots))
        taken = Signal()
        m.d.comb += [
            taken.eq(self.completions.valid & self.completions.ready),
            pending.taken.eq(taken),
            pending.refused.eq(completion.response.reason.any()),
            completion.request.eq(pending.answer_request),
            completion.waiting.eq(pending.answer_waiting),
            completion.slot.eq(answered[pending.answer_waiting.slot] if params.walk_slots > 1 else walker.slots[0]),
            completion.result.eq(walker.result),
            self.completions.valid.eq(pending.answer),
            self.completions.payload.eq(Mux(pending.answer, completion.response.as_value(), 0)),
        ]

        request = pending.answer_request
        m.d.comb += [
            faults.first.eq(taken & completion.record),
            faults.first_record.reason.eq(completion.response.reason),
            faults.first_record.sid.eq(request.sid),
            faults.first_record.pasid_valid.eq(request.pasid_valid),
            faults.first_record.pasid.eq(Mux(request.pasid_valid, request.pasid, 0)),
            faults.first_record.page.eq(request.iova[12:]),
            faults.first_record.read.eq(~request.write),
            faults.second.eq(frontend.fault),
            faults.second_record.eq(frontend.fault_record),
            faults.read_index.eq(registers.fault_index),
            faults.clear.eq(registers.clear_fault),
            faults.clear_overflow.eq(registers.clear_overflow),
            registers.fault_overflow.eq(faults.overflow),
            registers.fault_pending.eq(faults.pending),
            registers.fault_oldest.eq(faults.index),
            registers.fault_data.eq(faults.read_data),
        ]

        data = self.read_data.payload
        m.d.comb += [
            queue.queue.eq(registers.queue),
            queue.restart.eq(registers.restart),
            queue.scalable_mode.eq(mode == TTM_SCALABLE),
            queue.fetch_accepted.eq(walker.fetch_accepted),
            queue.data_valid.eq(self.read_data.valid & (data.id == fetch_id(params))),
            queue.data_error.eq(data.error),
            queue.data.eq(data.data),
            queue.hits_level.eq(frontend.hits_level),
            queue.hit_taken.eq(self.hits.valid & self.hits.ready),
            queue.completion_held.eq(self.completions.valid & ~self.completions.ready),
            queue.completion_taken.eq(taken),
            queue.status_granted.eq(write_buffer.status_granted),
            queue.status_acked.eq(self.write_acks.valid & (self.write_acks.payload.id == WriteId.STATUS)),
            registers.head.eq(queue.head),
            registers.fail.eq(queue.fail),
            registers.fail_code.eq(queue.fail_code),
            registers.interrupt.eq(queue.interrupt),
            write_buffer.status_wanted.eq(queue.status),
            write_buffer.status_message.address.eq(queue.status_address),
            write_buffer.status_message.data.eq(queue.status_data),
            write_buffer.completion_event_wanted.eq(registers.completion_event_wanted),
            write_buffer.completion_event_message.eq(registers.completion_event_message),
            registers.completion_event_sent.eq(write_buffer.completion_event_granted),
            write_buffer.fault_event_wanted.eq(registers.fault_event_wanted),
            write_buffer.fault_event_message.eq(registers.fault_event_message),
            registers.fault_event_sent.eq(write_buffer.fault_event_granted),
        ]

        pointer_evicted = Array(cache.evicted for cache in pointers)[walker.fill_level]
        pointer_index = Array(cache.fill_index for cache in pointers)[walker.fill_level]
        answers = observer.outputs
        m.d.comb += [
            answers.requests_ready.eq(self.requests.ready),
            answers.register_requests_ready.eq(self.register_requests.ready),
            answers.queue_state.eq(queue.state),
            answers.queue_head.eq(queue.head),
            answers.slots_busy.eq(~walker.free),
            answers.slots_killed.eq(Cat(walker.slots[number].killed for number in range(params.walk_slots))),
            answers.pending_used.eq(pending.used),
            answers.translation_enabled.eq(registers.enabled),
            answers.queue_enabled.eq(registers.queue.enabled),
            answers.queue_error.eq(registers.queue.error),
            answers.fault_overflow.eq(faults.overflow),
            answers.fault_pending.eq(faults.pending),
        ]
        for name in ("hits", "completions", "reads", "writes", "register_responses"):
            stream = getattr(self, name)
            m.d.comb += getattr(answers, f"{name}_valid").eq(stream.valid)
            with m.If(stream.valid):
                m.d.comb += [
                    getattr(answers, f"{name}_{field}").eq(stream.payload[field]) for field, _ in stream.payload.shape()
                ]
        events = observer.events
        started = frontend.lookup
        m.d.comb += [
            events.lookup.eq(started),
            events.arrival.eq(walker.arrival),
            events.arrival_dropped.eq(walker.arrival_dropped),
            events.iotlb_fill.eq(walker.iotlb_fill),
            events.psc_fill.eq(walker.psc_fill),
            events.context_fill.eq(walker.context_fill),
            events.apply.eq(Mux(apply.context, 1, Mux(apply.iotlb, 2, 0))),
            events.killed.eq(walker.killed),
            events.faults_recorded.eq(faults.recorded),
        ]
        with m.If(frontend.wait | frontend.drop_replay):
            m.d.comb += [
                events.lookup_replay.eq(pending.replay),
                events.lookup_pending.eq(frontend.wait_index),
            ]
        with m.If(frontend.wait):
            m.d.comb += events.lookup_slot.eq(frontend.lookup_slot)
        with m.If(frontend.start & ~frontend.walk.context):
            m.d.comb += events.lookup_level.eq(frontend.walk.level)
        with m.If(walker.arrival):
            m.d.comb += events.arrival_id.eq(data.id)
        with m.If(walker.iotlb_fill):
            m.d.comb += [
                events.iotlb_fill_index.eq(iotlb.fill_index),
                events.iotlb_fill_level.eq(walker.fill_level),
                events.iotlb_fill_sectors.eq(walker.fill_valid),
                events.iotlb_evicted.eq(iotlb.evicted),
            ]
        with m.If(walker.psc_fill):
            m.d.comb += [
                events.psc_fill_index.eq(pointer_index),
                events.psc_fill_level.eq(walker.fill_level),
                events.psc_fill_sectors.eq(walker.fill_valid),
                events.psc_evicted.eq(pointer_evicted),
            ]
        with m.If(walker.context_fill):
            m.d.comb += [
                events.context_fill_index.eq(context_cache.fill_index),
                events.context_evicted.eq(context_cache.evicted),
            ]
        m.d.comb += self.obs.eq(observer.obs)
        return m
