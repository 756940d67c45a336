"""Defects of the RTL: what invalidations reach, and when waits complete."""

from cocotb_tests.mutants.defect import Defect, judges

__all__ = ["DEFECTS"]

_WALKER, _IOTLB, _PSC = "hdl/walker.py", "hdl/iotlb.py", "hdl/walk_cache.py"
_CONTEXT, _QUEUE, _TOP = "hdl/context.py", "hdl/invalidation.py", "hdl/iommu.py"

DEFECTS = (
    Defect(
        "walks_not_restarted", _WALKER,
        "covered = apply.context | (apply.iotlb & by_iotlb)",
        "covered = apply.context | (apply.iotlb & by_iotlb & 0)",
        "IOTLB invalidations leave walks in flight alone, which goes against K9.",
        "in flight, page", judges("cl"),
    ),
    Defect(
        "walk_drain_off", "pymodel/spec/params.py",
        "walk_drain: bool = True",
        "walk_drain: bool = False",
        "K9 is off in the RTL and in the cycle model, which agree.",
        "in flight, domain", judges("l"),
    ),
    Defect(
        "fill_with_invalidation", _WALKER,
        "dropped.eq(for_slot & (slot.killed | self.killed.bit_select(number_of, 1)))",
        "dropped.eq(for_slot & slot.killed)",
        "Data that arrives in the cycle of the invalidation is filled and followed.",
        "in flight, page", judges("clb"),
    ),
    Defect(
        "killed_data_used", _WALKER,
        "live.eq(for_slot & ~dropped)",
        "live.eq(for_slot & ~self.killed.bit_select(number_of, 1))",
        "Data that arrives for a slot killed before is cached.",
        "in flight, global", judges("cl"),
    ),
    Defect(
        "kill_by_line_only", _WALKER,
        "region.eq(Mux(apply.keep_pointers, line, table))",
        "region.eq(line)",
        "A walk that holds a pointer which IH=0 drops is restarted only if its own line is in the range.",
        "in flight, beside", judges("cl"),
    ),
    Defect(
        "kill_other_domain", _WALKER,
        "same_did = slot.did == apply.did",
        "same_did = slot.did != apply.did",
        "Domain and page invalidations restart the walks of all domains but theirs.",
        "in flight, domain", judges("cl"),
    ),
    Defect(
        "killed_slot_joined", _WALKER,
        "live = joinable & ~slot.killed",
        "live = joinable",
        "A request joins a walk that was killed, and is never answered.",
        "in flight, page", judges("cb"),
    ),
    Defect(
        "read_id_reused", _WALKER,
        "m.d.sync += slot.killed.eq(~arrives)",
        "m.d.sync += slot.state.eq(SlotState.FREE)",
        "A killed slot is free while its read is outstanding.",
        "in flight, page", judges("clpb"),
    ),
    Defect(
        "read_withdrawn", _WALKER,
        "with m.If(~offered_read[number]):",
        "with m.If(~offered_read[number] | ~self.reads.ready):",
        "A killed slot takes back a read that it offered.",
        "in flight, stalls", judges("cp"),
    ),
    Defect(
        "domain_keeps_pointers", _PSC,
        "with m.If(apply.everything | (apply.by_did & same_did)):",
        "with m.If(apply.everything):",
        "Domain invalidations keep the paging-structure caches.",
        "pointers", judges("cl"),
    ),
    Defect(
        "ih_always_one", _PSC,
        "with m.Elif(apply.by_page & ~apply.keep_pointers & in_range):",
        "with m.Elif(apply.by_page & ~apply.by_page & in_range):",
        "IH is taken as 1: page invalidations keep the paging-structure caches.",
        "pointers", judges("cl"),
    ),
    Defect(
        "ih_always_zero", _PSC,
        "with m.Elif(apply.by_page & ~apply.keep_pointers & in_range):",
        "with m.Elif(apply.by_page & in_range):",
        "IH is taken as 0: more is dropped than has to be.",
        "ranges", judges("c"),
    ),
    Defect(
        "pointer_line_edge", _PSC,
        "& care[low:tag_low]).any() for number in range(8)]",
        "& care[low:tag_low]).any() | (number == 7) for number in range(8)]",
        "Page invalidations miss the last pointer of a line.",
        "pointers", judges("cl"),
    ),
    Defect(
        "range_half", _QUEUE,
        "apply.care.eq(~((Const(1, 64) << iotlb.am) - 1))",
        "apply.care.eq(~((Const(1, 64) << (iotlb.am - iotlb.am.any())[:6]) - 1))",
        "A range of 2**AM pages is taken as 2**(AM-1).",
        "ranges", judges("cl"),
    ),
    Defect(
        "range_double", _QUEUE,
        "apply.care.eq(~((Const(1, 64) << iotlb.am) - 1))",
        "apply.care.eq(~((Const(1, 64) << (iotlb.am + 1)) - 1))",
        "A range of 2**AM pages is taken as 2**(AM+1).",
        "ranges", judges("c"),
    ),
    Defect(
        "range_mask_linear", _QUEUE,
        "apply.care.eq(~((Const(1, 64) << iotlb.am) - 1))",
        "apply.care.eq(~iotlb.am)",
        "AM itself is taken as the mask.",
        "ranges", judges("cl"),
    ),
    Defect(
        "sector_of_neighbour", _IOTLB,
        "((apply.page[low : low + 3] ^ number) & care[low : low + 3]).any()",
        "((apply.page[low : low + 3] ^ number ^ 1) & care[low : low + 3]).any()",
        "Page invalidations clear the sector beside the right one.",
        "ranges", judges("cl"),
    ),
    Defect(
        "large_page_kept", _IOTLB,
        "if params.inval_scope is Architecture.AMD else Const(1)",
        "if params.inval_scope is Architecture.VTD else Const(1)",
        "A range inside a cached large page does not drop it (K1 the wrong way round).",
        "large pages", judges("cl"),
    ),
    Defect(
        "large_page_dropped", _IOTLB,
        "if params.inval_scope is Architecture.AMD else Const(1)",
        "if params.large_pages == 0 else Const(1)",
        "A range inside a cached large page drops it, although K1 says that it stays.",
        "large pages, amd", judges("c"),
    ),
    Defect(
        "context_domain_kept", _CONTEXT,
        "| (apply.by_did & same_did)",
        "| (apply.by_did & same_did & apply.everything)",
        "Domain-selective context-cache invalidations drop nothing.",
        "domains", judges("cl"),
    ),
    Defect(
        "pasid_entry_kept", _CONTEXT,
        "| (apply.by_pasid & same_did & (entry.pasid == apply.pasid))",
        "| (apply.by_pasid & same_did & (entry.key.pasid == apply.pasid))",
        "PASID-selective invalidations miss the entry that RID_PASID stands for.",
        "pasids", judges("cl"),
    ),
    Defect(
        "function_mask_reversed", _QUEUE,
        "enumerate((0b111, 0b011, 0b001, 0b000))",
        "enumerate((0b111, 0b110, 0b100, 0b000))",
        "The function mask leaves out bits from the wrong end.",
        "domains", judges("cl"),
    ),
    Defect(
        "applied_late", _TOP,
        "        apply = queue.apply\n",
        "        apply = queue.apply\n"
        "        for stage in range(12):\n"
        "            later = Signal.like(queue.apply, name=f'later_{stage}')\n"
        "            m.d.sync += later.eq(apply)\n"
        "            apply = later\n",
        "An invalidation is applied twelve cycles late, after its wait has completed.",
        "ranges", judges("cl"),
    ),
    Defect(
        "wait_ignores_hits", _QUEUE,
        "with m.If((stale == 0) & ~stale_completion):",
        "with m.If(~stale_completion):",
        "A wait completes while old hits are on their way.",
        "held hits", judges("clp"),
    ),
    Defect(
        "wait_ignores_completions", _QUEUE,
        "with m.If((stale == 0) & ~stale_completion):",
        "with m.If(stale == 0):",
        "A wait completes while an old completion is offered.",
        "held completions", judges("clp"),
    ),
    Defect(
        "wait_skipped", _QUEUE,
        "m.d.sync += state.eq(QueueState.WAIT)",
        "m.d.sync += state.eq(Mux(wait.status_write, QueueState.STATUS, QueueState.WAIT))",
        "A wait with a status write does not wait for anything.",
        "held hits", judges("clp"),
    ),
    Defect(
        "wait_lost", _QUEUE,
        "with m.If(wait.status_write):",
        "with m.If(wait.status_write & ~(wait.fence & wait.interrupt)):",
        "A fenced wait with interrupt never writes its status.",
        "waits", judges("clpb"),
    ),
    Defect(
        "fence_open", _QUEUE,
        "m.d.comb += done.eq(unacked == 0)",
        "m.d.comb += done.eq(1)",
        "A fence does not wait for the status write to be acknowledged.",
        "waits", judges("cp"),
    ),
    Defect(
        "fence_skipped", _QUEUE,
        "with m.If(wait.fence):",
        "with m.If(wait.fence & ~wait.interrupt):",
        "A wait that asks for an interrupt ignores FN.",
        "waits", judges("cp"),
    ),
    Defect(
        "fence_late", _QUEUE,
        "m.d.comb += done.eq(unacked == 0)",
        "late = Signal()\n"
        "                m.d.sync += late.eq((unacked == 0) & ~late)\n"
        "                m.d.comb += done.eq(late)",
        "A fence waits one cycle longer than it has to.",
        "waits", judges("cp"),
    ),
    Defect(
        "status_of_fence", _QUEUE,
        "self.status_data.eq(wait.data)",
        "self.status_data.eq(wait.data | wait.fence)",
        "The status data of a fenced wait have bit 0 set.",
        "waits", judges("clpb"),
    ),
    Defect(
        "queue_goes_on_after_error", _QUEUE,
        "with m.If(queue.enabled & ~queue.error & (head != queue.tail)):",
        "with m.If(queue.enabled & (head != queue.tail)):",
        "The queue goes on while IQE is set.",
        "malformed", judges("clb"),
    ),
    Defect(
        "head_past_error", _QUEUE,
        "m.d.comb += [self.fail.eq(1), self.fail_code.eq(code)]\n",
        "m.d.comb += [self.fail.eq(1), self.fail_code.eq(code)]\n"
        "                    m.d.sync += head.eq(following)\n",
        "The head moves past a malformed descriptor.",
        "malformed", judges("cb"),
    ),
    Defect(
        "upper_half_unchecked", _QUEUE,
        "upper = self.queue.wide & descriptor[128:].any()",
        "upper = self.queue.wide & descriptor[128:192].any()",
        "The upper half of a 256-bit descriptor is checked in part.",
        "malformed, wide", judges("clb"),
    ),
    Defect(
        "mask_unchecked", _QUEUE,
        "return (record.am > self._params.max_address_mask) | (record.address & below).any()",
        "return (record.address & below).any()",
        "AM above MAMV is accepted.",
        "malformed", judges("clb"),
    ),
    Defect(
        "misaligned_accepted", _QUEUE,
        "return (record.am > self._params.max_address_mask) | (record.address & below).any()",
        "return record.am > self._params.max_address_mask",
        "An address that is no multiple of 2**AM pages is accepted.",
        "malformed", judges("clb"),
    ),
    Defect(
        "tail_unchecked", _QUEUE,
        "return (queue.wide & tail[0]) | (tail & ~size_mask).any()",
        "return queue.wide & tail[0]",
        "A tail behind the end of the queue is accepted.",
        "malformed", judges("cb"),
    ),
)  # fmt: skip
"""In the order of what they break."""
