"""Paging-structure cache of one table level: lines of eight neighbouring table pointers (docs/timing.md
T1-T5, I6).
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.formats.second_stage import sector_layout
from hdl.layouts import apply_layout
from hdl.lib.choose import encode, index_width
from hdl.lib.replacement import Replacement
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.second_stage import ENTRIES_PER_LINE

__all__ = ["WalkCache"]


class WalkCache(wiring.Component):
    """Pointers to tables of `level`; fully associative, tags in registers, sectors in a memory.

    Members: `did`, `page` (IOVA from bit 12 up) look up `hit`, `index`, `sector` in the same cycle; `use`
    marks the hit as taken. `fill` writes a line at the end of the cycle; `fill_index` and `evicted` are valid
    with it. `apply` clears sectors at the end of the cycle.
    Timing: lookup is combinational; fills and invalidations are seen one cycle later.
    """

    def __init__(self, params: IommuParams, level: int) -> None:
        if not 0 <= level < params.max_levels - 1:
            raise ValueError(f"level must be in 0..{params.max_levels - 2}, not {level}")
        self._params = params
        self._low = 9 * (level + 1)
        self._pages = params.iova_bits - 12
        index = index_width(params.psc_entries)
        super().__init__(
            {
                "did": In(16),
                "page": In(self._pages),
                "use": In(1),
                "hit": Out(1),
                "index": Out(index),
                "sector": Out(sector_layout(params)),
                "fill": In(1),
                "fill_did": In(16),
                "fill_page": In(self._pages - 3),
                "fill_valid": In(ENTRIES_PER_LINE),
                "fill_sectors": In(data.ArrayLayout(sector_layout(params), ENTRIES_PER_LINE)),
                "fill_index": Out(index),
                "evicted": Out(1),
                "apply": In(apply_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Lookup, fill, invalidation."""
        m = Module()
        params, low, pages = self._params, self._low, self._pages
        entries, tag_low = params.psc_entries, low + 3
        line_layout = data.ArrayLayout(sector_layout(params), ENTRIES_PER_LINE)
        m.submodules.sectors = sectors = Memory(shape=line_layout, depth=entries, init=[])
        m.submodules.replacement = replacement = Replacement(entries)
        line = data.StructLayout({"did": 16, "tag": pages - tag_low, "valid": ENTRIES_PER_LINE})
        lines = [Signal(line, name=f"line_{number}") for number in range(entries)]

        selected = self.page[low : low + 3]
        fill_tag = self.fill_page[low:]
        matches, existing, valid = Signal(entries), Signal(entries), Signal(entries)
        for number, entry in enumerate(lines):
            same = (entry.did == self.did) & (entry.tag == self.page[tag_low:])
            m.d.comb += [
                matches[number].eq(same & entry.valid.bit_select(selected, 1)),
                valid[number].eq(entry.valid.any()),
                existing[number].eq(valid[number] & (entry.did == self.fill_did) & (entry.tag == fill_tag)),
            ]
        read, write = sectors.read_port(domain="comb"), sectors.write_port()
        m.d.comb += [
            self.hit.eq(matches.any()),
            self.index.eq(encode(matches)),
            read.addr.eq(self.index),
            self.sector.eq(read.data[selected]),
            replacement.look.eq(self.use),
            replacement.look_index.eq(self.index),
            replacement.fill.eq(self.fill),
            replacement.fill_index.eq(self.fill_index),
            replacement.existing.eq(existing),
            replacement.valid.eq(valid),
            self.fill_index.eq(replacement.line),
            self.evicted.eq(valid.bit_select(self.fill_index, 1) & ~existing.any()),
            write.en.eq(self.fill),
            write.addr.eq(self.fill_index),
            write.data.eq(self.fill_sectors),
        ]

        apply, care = self.apply, self.apply.care
        fits = ~care[:low].any() if params.psc_scope is Architecture.AMD else Const(1)
        differ = [((apply.page[low:tag_low] ^ number) & care[low:tag_low]).any() for number in range(8)]
        cleared = Signal(ENTRIES_PER_LINE)
        m.d.comb += cleared.eq(Mux(fits, ~Cat(differ), 0))
        beyond = (apply.page[pages:] & care[pages:]).any()
        for number, entry in enumerate(lines):
            same_did = entry.did == apply.did
            in_range = same_did & ~beyond & (((entry.tag ^ apply.page[tag_low:pages]) & care[tag_low:pages]) == 0)
            with m.If(apply.iotlb):
                with m.If(apply.everything | (apply.by_did & same_did)):
                    m.d.sync += entry.valid.eq(0)
                with m.Elif(apply.by_page & ~apply.keep_pointers & in_range):
                    m.d.sync += entry.valid.eq(entry.valid & ~cleared)
            with m.If(self.fill & (self.fill_index == number)):
                m.d.sync += [entry.did.eq(self.fill_did), entry.tag.eq(fill_tag), entry.valid.eq(self.fill_valid)]
        return m
