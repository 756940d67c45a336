"""Invalidation queue engine (docs/timing.md I1-I10)."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.formats.layout import view
from hdl.layouts import apply_layout
from pymodel.spec.descriptors import (
    CONTEXT_INV,
    DESCRIPTORS,
    IOTLB_INV,
    PASID_CACHE_INV,
    PASID_IOTLB_INV,
    WAIT,
    DescriptorType,
    Granularity,
    PasidGranularity,
)
from pymodel.spec.observation import QueueState
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import QUEUE_ERROR

__all__ = ["InvalidationQueue", "queue_layout"]

_PASID_TYPES = (DescriptorType.PASID_IOTLB, DescriptorType.PASID_CACHE)


def queue_layout() -> data.StructLayout:
    """Queue registers as the engine sees them; `tail` in units of 16 bytes, `frame` of the queue's first
    page.
    """
    return data.StructLayout({"enabled": 1, "error": 1, "frame": 52, "size": 3, "wide": 1, "tail": 15})


class InvalidationQueue(wiring.Component):
    """Fetches descriptors in order, applies invalidations, completes waits.

    Members: `queue` from the registers; `restart` sets head to 0; `scalable_mode` is TTM 1. `head` in units
    of 16 bytes. `fetch`, `fetch_line`, `fetch_accepted`, and `data`, `data_error`, `data_valid` read the
    queue. `apply` is valid in state APPLY (`apply.context` or `apply.iotlb`). `hits_level` and `hit_taken`
    watch the hit FIFO, `completion_held` (offered, not taken) and `completion_taken` the completions.
    `status`, `status_address`, `status_data` ask for a status write, `status_granted` loads it,
    `status_acked` acknowledges one. `interrupt` sets IWC, `fail` sets IQE with `fail_code`.
    Timing: with data in A the first descriptor is decoded in A+1 and applied in A+2, whatever walks are in
    flight.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        super().__init__(
            {
                "queue": In(queue_layout()),
                "restart": In(1),
                "scalable_mode": In(1),
                "head": Out(15),
                "state": Out(3),
                "fetch": Out(1),
                "fetch_line": Out(params.haw - 6),
                "fetch_accepted": In(1),
                "data_valid": In(1),
                "data_error": In(1),
                "data": In(512),
                "apply": Out(apply_layout(params)),
                "hits_level": In(2),
                "hit_taken": In(1),
                "completion_held": In(1),
                "completion_taken": In(1),
                "status": Out(1),
                "status_address": Out(64),
                "status_data": Out(32),
                "status_granted": In(1),
                "status_acked": In(1),
                "interrupt": Out(1),
                "fail": Out(1),
                "fail_code": Out(4),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """The state machine; DECODE is in `_decode`, APPLY's operands in `_apply`."""
        m = Module()
        queue = self.queue
        state = Signal(QueueState)
        head, fetch_tail = Signal(15), Signal(15)
        line = Signal(512)
        step, following = Signal(2), Signal(15)
        size_mask = Signal(15)
        unacked = Signal(16)
        stale, stale_completion = Signal(2), Signal()
        done = Signal()
        descriptor = Signal(256)
        bits = descriptor[:128]
        wait = view(WAIT, bits)
        m.d.comb += [
            self.head.eq(head),
            self.state.eq(state),
            step.eq(Mux(queue.wide, 2, 1)),
            size_mask.eq((Const(1, 16) << (queue.size + 8)) - 1),
            following.eq((head + step) & size_mask),
            self.fetch_line.eq(Cat(Const(0, 6), queue.frame) + head[2:]),
            descriptor.eq(Mux(queue.wide, line.word_select(head[1], 256), line.word_select(head[0:2], 128))),
            self.status_address.eq(Cat(Const(0, 2), wait.address)),
            self.status_data.eq(wait.data),
        ]
        self._apply(m, bits)

        def bad_tail(tail: Value) -> Value:
            return (queue.wide & tail[0]) | (tail & ~size_mask).any()

        with m.Switch(state):
            with m.Case(QueueState.IDLE):
                with m.If(queue.enabled & ~queue.error & (head != queue.tail)):
                    with m.If(bad_tail(queue.tail)):
                        m.d.comb += [self.fail.eq(1), self.fail_code.eq(QUEUE_ERROR["bad_tail"])]
                    with m.Else():
                        m.d.sync += state.eq(QueueState.FETCH)
            with m.Case(QueueState.FETCH):
                m.d.comb += self.fetch.eq(1)
                with m.If(self.fetch_accepted):
                    m.d.sync += [state.eq(QueueState.FETCHING), fetch_tail.eq(queue.tail)]
            with m.Case(QueueState.FETCHING):
                with m.If(self.data_valid):
                    m.d.sync += line.eq(self.data)
                    with m.If(self.data_error):
                        m.d.comb += [self.fail.eq(1), self.fail_code.eq(QUEUE_ERROR["fetch"])]
                        m.d.sync += state.eq(QueueState.IDLE)
                    with m.Elif(bad_tail(fetch_tail)):
                        # The tail changed between IDLE and the acceptance of the read.
                        m.d.comb += [self.fail.eq(1), self.fail_code.eq(QUEUE_ERROR["bad_tail"])]
                        m.d.sync += state.eq(QueueState.IDLE)
                    with m.Else():
                        m.d.sync += state.eq(QueueState.DECODE)
            with m.Case(QueueState.DECODE):
                code = self._judge(m, descriptor)
                with m.If(code.any()):
                    m.d.comb += [self.fail.eq(1), self.fail_code.eq(code)]
                    m.d.sync += state.eq(QueueState.IDLE)
                with m.Elif(wait.type == DescriptorType.WAIT):
                    m.d.sync += state.eq(QueueState.WAIT)
                with m.Elif(wait.type == DescriptorType.INTERRUPT):
                    m.d.comb += done.eq(1)
                with m.Else():
                    m.d.sync += state.eq(QueueState.APPLY)
            with m.Case(QueueState.APPLY):
                m.d.comb += done.eq(1)
            with m.Case(QueueState.WAIT):
                with m.If((stale == 0) & ~stale_completion):
                    with m.If(wait.status_write):
                        m.d.sync += state.eq(QueueState.STATUS)
                    with m.Else():
                        m.d.comb += [done.eq(1), self.interrupt.eq(wait.interrupt)]
            with m.Case(QueueState.STATUS):
                m.d.comb += self.status.eq(1)
                with m.If(self.status_granted):
                    m.d.comb += self.interrupt.eq(wait.interrupt)
                    with m.If(wait.fence):
                        m.d.sync += state.eq(QueueState.FENCE)
                    with m.Else():
                        m.d.comb += done.eq(1)
            with m.Case(QueueState.FENCE):
                m.d.comb += done.eq(unacked == 0)

        with m.If(done):
            same_line = following[0:2].any() & (following != fetch_tail)
            m.d.sync += head.eq(following)
            m.d.sync += state.eq(Mux(same_line & queue.enabled, QueueState.DECODE, QueueState.IDLE))
        with m.If(self.restart):
            m.d.sync += head.eq(0)

        m.d.sync += unacked.eq(unacked + (self.status & self.status_granted) - self.status_acked)
        with m.If(self.apply.context | self.apply.iotlb):
            m.d.sync += [stale.eq(self.hits_level - self.hit_taken), stale_completion.eq(self.completion_held)]
        with m.Else():
            with m.If(self.hit_taken & (stale != 0)):
                m.d.sync += stale.eq(stale - 1)
            with m.If(self.completion_taken):
                m.d.sync += stale_completion.eq(0)
        return m

    def _misaligned(self, m: Module, record: data.View) -> Value:
        """AM beyond MAMV, or an address that is no multiple of 2**AM pages."""
        below = Signal(52)
        m.d.comb += below.eq((Const(1, 64) << record.am) - 1)
        return (record.am > self._params.max_address_mask) | (record.address & below).any()

    def _judge(self, m: Module, descriptor: Value) -> Signal:
        """Queue error code of the descriptor, 0 when it is good (I3)."""
        bits = descriptor[:128]
        kind = view(WAIT, bits).type
        code, bad, known = Signal(4), Signal(), Signal()
        with m.Switch(kind):
            for number, record in DESCRIPTORS.items():
                if number in _PASID_TYPES and not self._params.scalable:
                    continue
                with m.Case(number):
                    m.d.comb += known.eq(1)
                    fields = view(record, bits)
                    wrong = (bits & Const(record.reserved, 128)).any()
                    if number is DescriptorType.CONTEXT:
                        wrong |= fields.g == 0
                    elif number is DescriptorType.PASID_CACHE:
                        wrong |= fields.g == PasidGranularity.IOTLB_PASID
                    elif number is DescriptorType.IOTLB:
                        page = fields.g == Granularity.SELECTIVE
                        wrong |= (fields.g == 0) | (page & self._misaligned(m, fields))
                    elif number is DescriptorType.PASID_IOTLB:
                        page = fields.g == PasidGranularity.GLOBAL
                        wrong |= ~fields.g[1] | (page & self._misaligned(m, fields))
                    m.d.comb += bad.eq(wrong)
        upper = self.queue.wide & descriptor[128:].any()
        with m.If(~known):
            m.d.comb += code.eq(QUEUE_ERROR["bad_type"])
        with m.Elif(bad | upper):
            m.d.comb += code.eq(QUEUE_ERROR["reserved"])
        return code

    def _apply(self, m: Module, bits: Value) -> None:
        """What the descriptor at head drops (I6); meaningful in state APPLY."""
        apply = self.apply
        active = self.state == QueueState.APPLY
        kind = view(WAIT, bits).type
        context, pasid_cache = view(CONTEXT_INV, bits), view(PASID_CACHE_INV, bits)
        iotlb, pasid_iotlb = view(IOTLB_INV, bits), view(PASID_IOTLB_INV, bits)
        m.d.comb += [
            apply.did.eq(iotlb.did),
            apply.sid.eq(context.sid),
            apply.pasid.eq(pasid_cache.pasid),
            apply.page.eq(iotlb.address),
            apply.care.eq(~((Const(1, 64) << iotlb.am) - 1)),
            apply.keep_pointers.eq(iotlb.ih),
        ]
        function_care = Signal(3)
        with m.Switch(context.fm):
            for code, care in enumerate((0b111, 0b011, 0b001, 0b000)):
                with m.Case(code):
                    m.d.comb += function_care.eq(care)
        m.d.comb += apply.sid_care.eq(Cat(function_care, Const(0x1FFF, 13)))
        with m.Switch(kind):
            with m.Case(DescriptorType.CONTEXT):
                by_domain = context.g == Granularity.DOMAIN
                m.d.comb += [
                    apply.context.eq(active),
                    apply.everything.eq((context.g == Granularity.GLOBAL) | (by_domain & self.scalable_mode)),
                    apply.by_did.eq(by_domain),
                    apply.by_sid.eq(context.g == Granularity.SELECTIVE),
                ]
            with m.Case(DescriptorType.PASID_CACHE):
                m.d.comb += [
                    apply.context.eq(active),
                    apply.everything.eq(pasid_cache.g == PasidGranularity.GLOBAL),
                    apply.by_did.eq(pasid_cache.g == PasidGranularity.DOMAIN),
                    apply.by_pasid.eq(pasid_cache.g == PasidGranularity.PASID),
                ]
            with m.Case(DescriptorType.IOTLB):
                m.d.comb += [
                    apply.iotlb.eq(active),
                    apply.everything.eq(iotlb.g == Granularity.GLOBAL),
                    apply.by_did.eq(iotlb.g == Granularity.DOMAIN),
                    apply.by_page.eq(iotlb.g == Granularity.SELECTIVE),
                ]
            with m.Case(DescriptorType.PASID_IOTLB):
                m.d.comb += [
                    apply.iotlb.eq(active),
                    apply.by_did.eq(pasid_iotlb.g == PasidGranularity.IOTLB_PASID),
                    apply.by_page.eq(pasid_iotlb.g == PasidGranularity.GLOBAL),
                ]
