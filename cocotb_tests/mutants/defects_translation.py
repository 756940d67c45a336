"""Defects of the RTL: lookups, walks, entries, permissions, replacement, ports."""

from cocotb_tests.mutants.defect import Defect, judges

__all__ = ["DEFECTS"]

_WALKER, _IOTLB, _PSC = "hdl/walker.py", "hdl/iotlb.py", "hdl/walk_cache.py"
_CONTEXT, _TOP, _FRONT, _END = "hdl/context.py", "hdl/iommu.py", "hdl/frontend.py", "hdl/completion.py"
_PENDING, _ENTRY, _TABLES = "hdl/pending.py", "hdl/formats/second_stage.py", "hdl/formats/context.py"
_PLRU = "hdl/lib/replacement.py"

DEFECTS = (
    Defect(
        "iotlb_without_did", _IOTLB,
        "return (entry.did == did) & (((entry.page",
        "return (((entry.page",
        "IOTLB lines are found whatever their domain.",
        "domains", judges("cl"),
    ),
    Defect(
        "pointers_without_did", _PSC,
        "same = (entry.did == self.did) & (entry.tag == self.page[tag_low:])",
        "same = entry.tag == self.page[tag_low:]",
        "Cached table pointers are found whatever their domain.",
        "domains", judges("cl"),
    ),
    Defect(
        "merge_without_did", _WALKER,
        "same_page = (slot.did == walk.did) & (slot.page == walk.page)",
        "same_page = slot.page == walk.page",
        "A request joins a walk of another domain.",
        "domains", judges("cl"),
    ),
    Defect(
        "merged_permission", _TOP,
        "        taken = Signal()\n"
        "        m.d.comb += [\n"
        "            taken.eq(self.completions.valid & self.completions.ready),\n"
        "            pending.taken.eq(taken),\n"
        "            pending.refused.eq(completion.response.reason.any()),\n"
        "            completion.request.eq(pending.answer_request),\n",
        "        taken = Signal()\n"
        "        first_write = Array(Signal(name=f'first_write_{n}') for n in range(params.walk_slots))\n"
        "        with m.If(frontend.start):\n"
        "            m.d.sync += first_write[frontend.start_slot].eq(frontend.request.write)\n"
        "        m.d.comb += [\n"
        "            taken.eq(self.completions.valid & self.completions.ready),\n"
        "            pending.taken.eq(taken),\n"
        "            pending.refused.eq(completion.response.reason.any()),\n"
        "            completion.request.eq(pending.answer_request),\n"
        "            completion.request.write.eq(first_write[pending.answer_waiting.slot]),\n",
        "Requests that joined a walk are judged by the direction of the request that started it.",
        "permissions", judges("clp"),
    ),
    Defect(
        "late_refusal_believed", _PENDING,
        "doubted.eq((chosen & late).any() & self.refused)",
        "doubted.eq((chosen & late).any() & self.refused & 0)",
        "A request is refused by an entry that was read before it came (C5).",
        "late", judges("cl"),
    ),
    Defect(
        "retried_joins_again", _WALKER,
        "joinable = (slot.state == SlotState.ISSUE) | ((slot.state == SlotState.WAIT) & ~self.retried)",
        "joinable = (slot.state == SlotState.ISSUE) | (slot.state == SlotState.WAIT)",
        "A retried request joins a walk whose read left before it.",
        "late", judges("c"),
    ),
    Defect(
        "hit_write_as_read", _FRONT,
        "permitted = Mux(request.write, sector.w, sector.r)",
        "permitted = sector.r",
        "A hit is judged as a read.",
        "permissions", judges("clp"),
    ),
    Defect(
        "walk_write_as_read", _END,
        "return ~Mux(write, source.w, source.r)",
        "return ~source.r",
        "A walk is judged as a read.",
        "permissions", judges("clp"),
    ),
    Defect(
        "permission_not_anded", _ENTRY,
        "self.sector.w.eq(entry[1] & self.w)",
        "self.sector.w.eq(entry[1])",
        "W is not ANDed along the walk.",
        "permissions", judges("cl"),
    ),
    Defect(
        "neighbour_not_anded", _WALKER,
        "m.d.comb += [self.fill_sectors[number].eq(decoder.sector) for number, decoder in enumerate(decoders)]",
        "m.d.comb += [self.fill_sectors[number].eq(decoder.sector) for number, decoder in enumerate(decoders)]\n"
        "        m.d.comb += [self.fill_sectors[number].w.eq(decoder.entry[1] & (slot.w | (wanted != number)))\n"
        "                     for number, decoder in enumerate(decoders)]",
        "Neighbours are cached with their own W alone.",
        "permissions", judges("cl"),
    ),
    Defect(
        "neighbour_not_present", _ENTRY,
        "self.good_leaf.eq(usable & self.leaf & ~interrupt_page)",
        "self.good_leaf.eq((usable & self.leaf & ~interrupt_page) | (self.leaf & ~self.present))",
        "Not-present neighbours are cached, although K3 is 0.",
        "entries", judges("cl"),
    ),
    Defect(
        "neighbour_reserved", _ENTRY,
        "self.good_leaf.eq(usable & self.leaf & ~interrupt_page)",
        "self.good_leaf.eq(self.present & (self.sector.r | self.sector.w) & self.leaf & ~interrupt_page)",
        "Leaves with reserved bits are cached.",
        "entries", judges("cl"),
    ),
    Defect(
        "interrupt_page_cached", _ENTRY,
        "self.good_leaf.eq(usable & self.leaf & ~interrupt_page)",
        "self.good_leaf.eq(usable & self.leaf)",
        "Pages in the interrupt range are cached.",
        "entries", judges("cl"),
    ),
    Defect(
        "interrupt_result_allowed", _END,
        "with m.Elif(address[20:] == INTERRUPT_FIRST >> 20):",
        "with m.Elif(address[20:] == (INTERRUPT_FIRST >> 20) + 1):",
        "A walk that ends in the interrupt range is answered.",
        "entries", judges("cl"),
    ),
    Defect(
        "interrupt_request_translated", _FRONT,
        "interrupt = ~request.pasid_valid & (request.iova[20:] == INTERRUPT_FIRST >> 20)",
        "interrupt = ~request.pasid_valid & (request.iova[16:] == INTERRUPT_FIRST >> 16) & ~request.iova[12]",
        "Requests to the interrupt range are translated but for some pages.",
        "entries", judges("cl"),
    ),
    Defect(
        "pointer_bit_11", _ENTRY,
        "pointer_mask = table_format.reserved | beyond",
        "pointer_mask = table_format.reserved & ~(1 << 11) | beyond",
        "Bit 11 of a table pointer is not checked.",
        "entries", judges("cl"),
    ),
    Defect(
        "top_bit_7", _ENTRY,
        "pointer_mask = table_format.reserved | beyond",
        "pointer_mask = table_format.reserved & ~(1 << 7) | beyond",
        "Bit 7 of a top-level entry is not checked.",
        "entries", judges("cl"),
    ),
    Defect(
        "large_page_low_bits", _ENTRY,
        "leaf_mask = LEAVES[level].reserved | beyond",
        "leaf_mask = LEAVES[0].reserved | beyond",
        "Address bits below a large page are not checked.",
        "entries", judges("cl"),
    ),
    Defect(
        "address_width_host", _ENTRY,
        "beyond = ((1 << 52) - 1) & ~((1 << params.haw) - 1)",
        "beyond = ((1 << 52) - 1) & ~((1 << params.haw + 1) - 1)",
        "The lowest address bit above HAW is not checked.",
        "entries, scalable", judges("cl"),
    ),
    Defect(
        "snoop_bit_reserved", _ENTRY,
        'leaf_mask |= LEAVES[level].mask("snp")',
        'leaf_mask |= LEAVES[level].mask("snp") & 0',
        "Bit 11 of a leaf is not checked where it is reserved (K4).",
        "entries, no snoop", judges("cl"),
    ),
    Defect(
        "walk_level_address", _END,
        "address.eq(page_address(sector.frame, request.iova, slot.level, params.large_pages))",
        "address.eq(page_address(sector.frame, request.iova, slot.level - 1, params.large_pages))",
        "The answer of a walk is put together for a page one level lower.",
        "entries", judges("clp"),
    ),
    Defect(
        "hit_level_address", _FRONT,
        "address = page_address(sector.frame, request.iova, self.iotlb_level, params.large_pages)",
        "address = page_address(sector.frame, request.iova, self.iotlb_level - 1, params.large_pages)",
        "The answer of a hit is put together for a page one level lower.",
        "large pages", judges("clp"),
    ),
    Defect(
        "hit_sector", _IOTLB,
        "m.d.comb += selected.eq(self.page[9 * level : 9 * level + 3])",
        "m.d.comb += selected.eq(self.page[9 * level + 1 : 9 * level + 4])",
        "A hit takes another sector of its line.",
        "ranges", judges("cl"),
    ),
    Defect(
        "walk_sector", _END,
        "m.d.comb += selected.eq(request.iova[12 + 9 * level : 15 + 9 * level])",
        "m.d.comb += selected.eq(request.iova[13 + 9 * level : 16 + 9 * level])",
        "A walk is answered with another entry of its line.",
        "permissions", judges("cl"),
    ),
    Defect(
        "pointer_sector", _PSC,
        "self.sector.eq(read.data[selected])",
        "self.sector.eq(read.data[selected & 6])",
        "A walk starts with the pointer beside the right one.",
        "pointers", judges("cl"),
    ),
    Defect(
        "root_error_code", _END,
        "first = slot.level == slot.depth - 1",
        "first = slot.level == slot.depth",
        "A table root that cannot be read is reported as any other table.",
        "entries, scalable", judges("cl"),
    ),
    Defect(
        "width_unchecked", _FRONT,
        "beyond.eq(iova[12 + 9 * depth :].any())",
        "beyond.eq(iova[13 + 9 * depth :].any())",
        "The lowest address bit above the tables' width is not checked.",
        "entries", judges("cl"),
    ),
    Defect(
        "no_rewalk", _FRONT,
        "refuse = self.iotlb_hit & ~permitted & (not params.rewalk_on_perm)",
        "refuse = self.iotlb_hit & ~permitted",
        "A cached page without the right is refused although K6 asks for a new walk.",
        "permissions, rewalk", judges("cl"),
    ),
    Defect(
        "context_without_pasid", _CONTEXT,
        "matches[number].eq(entry.valid & (key == self.key.as_value()))",
        "matches[number].eq(entry.valid & (entry.key.sid == self.key.sid))",
        "Context entries are found whatever their PASID.",
        "pasids", judges("cl"),
    ),
    Defect(
        "rid_pasid_ignored", _TABLES,
        "used.eq(Mux(with_pasid, self.key.pasid, entry.rid_pasid))",
        "used.eq(self.key.pasid)",
        "Requests without PASID use PASID 0 instead of RID_PASID.",
        "pasids", judges("cl"),
    ),
    Defect(
        "pasid_limit", _TABLES,
        "largest.eq((1 << (entry.pdts + 13)) - 1)",
        "largest.eq(1 << (entry.pdts + 13))",
        "The first PASID behind the directory is accepted.",
        "pasids", judges("cl"),
    ),
    Defect(
        "root_half", _TABLES,
        "half = self.key.sid[7]",
        "half = Const(0, 1)",
        "Functions from 128 on use the lower half of the root entry.",
        "pasids", judges("cl"),
    ),
    Defect(
        "page_snoop_lost", _END,
        "self.response.snoop.eq(sector.snp | self.waiting.pgsnp)",
        "self.response.snoop.eq(sector.snp)",
        "PGSNP is forgotten where a walk answers.",
        "pasids", judges("cl"),
    ),
    Defect(
        "answer_replaced", _PENDING,
        "chosen.eq(Mux(held.any(), held, offer_next(m, answering, pointer)))",
        "chosen.eq(offer_next(m, answering, pointer))",
        "An offered answer is replaced by another one before it is taken.",
        "pressure, stalls", judges("cp"),
    ),
    Defect(
        "answer_changes", _END,
        "self.response.level.eq(slot.level),",
        "self.response.level.eq(slot.level + (slot.killed & (slot.level == 0))),",
        "The payload of an offered answer changes when its slot is killed.",
        "held completions", judges("clp"),
    ),
    Defect(
        "lookup_of_nothing", _FRONT,
        "candidate.eq(self.replay | request_fifo.r_rdy)",
        "candidate.eq(1)",
        "What the empty request FIFO shows is looked up.",
        "pressure", judges("cpb"),
    ),
    Defect(
        "fetch_last", _WALKER,
        "Mux(held.any(), held, Mux(self.fetch, 0, granted))",
        "Mux(held.any(), held, granted)",
        "The reads of walks go before those of the queue.",
        "pressure", judges("cp"),
    ),
    Defect(
        "read_pause", _WALKER,
        "self.reads.valid.eq(self.fetch | wanting.any())",
        "self.reads.valid.eq(self.fetch | held.any() | wanting.any() & ~self.read_data.valid)",
        "No walk reads in a cycle in which data arrives: an output that depends on an input (P2).",
        "pressure", judges("cpb"),
    ),
    Defect(
        "read_turn", _WALKER,
        "m.d.sync += pointer.eq(Mux(index == count - 1, 0, index + 1))",
        "m.d.sync += pointer.eq(0)",
        "The lowest slot always reads first: others may starve.",
        "pressure", judges("cp"),
    ),
    Defect(
        "answer_pause", _PENDING,
        "self.answer.eq(chosen.any() & ~doubted)",
        "self.answer.eq(held.any() & ~doubted)",
        "An answer is offered one cycle after it was chosen.",
        "pressure", judges("cp"),
    ),
    Defect(
        "answer_turn", _PENDING,
        "m.d.sync += pointer.eq(Mux(index == entries - 1, 0, index + 1))",
        "m.d.sync += pointer.eq(0)",
        "The lowest pending entry is always answered first: others may starve.",
        "pressure", judges("cp"),
    ),
    Defect(
        "victim_wrong", _PLRU,
        "turn.eq(choices[prefix] if level else nodes[1])",
        "turn.eq(~(choices[prefix] if level else nodes[1]))",
        "The line that was used last is replaced.",
        "pressure", judges("c"),
    ),
    Defect(
        "touch_missing", _IOTLB,
        "replacement.look.eq(self.use)",
        "replacement.look.eq(0)",
        "A hit does not count as a use of its line.",
        "pressure", judges("c"),
    ),
    Defect(
        "line_twice", _PLRU,
        "with m.If(self.existing.any()):",
        "with m.If(self.existing.all()):",
        "A fill makes a second line with the key of one that is there.",
        "domains", judges("c"),
    ),
)  # fmt: skip
"""In the order of what they break."""
