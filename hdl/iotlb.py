"""IOTLB: lines of eight neighbouring pages of one size (docs/timing.md T1-T5, I6)."""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hdl.formats.second_stage import sector_layout
from hdl.layouts import apply_layout
from hdl.lib.choose import encode, index_width, lowest
from hdl.lib.replacement import Replacement
from pymodel.spec.params import Architecture, IommuParams
from pymodel.spec.second_stage import ENTRIES_PER_LINE

__all__ = ["Iotlb"]


class Iotlb(wiring.Component):
    """Fully associative translation cache; tags in registers, sectors in a memory with one read and one write
    port.

    Members: `did`, `page` (IOVA from bit 12 up) look up `hit`, `index`, `level`, `sector` in the same cycle;
    `use` marks the hit as taken. `fill` writes a line at the end of the cycle; `fill_index` and `evicted` are
    valid with it. `apply` clears sectors at the end of the cycle.
    Timing: lookup is combinational; fills and invalidations are seen one cycle later.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        self._pages = params.iova_bits - 12
        super().__init__(
            {
                "did": In(16),
                "page": In(self._pages),
                "use": In(1),
                "hit": Out(1),
                "index": Out(index_width(params.iotlb_entries)),
                "level": Out(2),
                "sector": Out(sector_layout(params)),
                "fill": In(1),
                "fill_did": In(16),
                "fill_page": In(self._pages - 3),
                "fill_level": In(2),
                "fill_valid": In(ENTRIES_PER_LINE),
                "fill_sectors": In(data.ArrayLayout(sector_layout(params), ENTRIES_PER_LINE)),
                "fill_index": Out(index_width(params.iotlb_entries)),
                "evicted": Out(1),
                "apply": In(apply_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Lookup, fill, invalidation."""
        m = Module()
        params = self._params
        entries, sizes = params.iotlb_entries, params.large_pages + 1
        line_layout = data.ArrayLayout(sector_layout(params), ENTRIES_PER_LINE)
        m.submodules.sectors = sectors = Memory(shape=line_layout, depth=entries, init=[])
        m.submodules.replacement = replacement = Replacement(entries)

        line = data.StructLayout({"did": 16, "level": 2, "page": self._pages - 3, "valid": ENTRIES_PER_LINE})
        lines = [Signal(line, name=f"line_{number}") for number in range(entries)]

        compared = [Signal(self._pages - 3, name=f"compared_{level}") for level in range(3)]
        chosen = [Signal(ENTRIES_PER_LINE, name=f"chosen_{level}") for level in range(3)]
        for level in range(sizes):
            ones = (1 << self._pages - 3) - 1
            m.d.comb += compared[level].eq(Const(ones & ~((1 << 9 * level) - 1), self._pages - 3))
            m.d.comb += chosen[level].eq(1 << self.page[9 * level : 9 * level + 3])

        def by_level(values: list[Signal], level: Value) -> Value:
            if sizes == 1:
                return values[0]
            smaller = Mux(level[0], values[1], values[0])
            return smaller if sizes == 2 else Mux(level[1], values[2], smaller)

        def same_line(entry: data.View, did: Value, page: Value, level: Value) -> Value:
            return (entry.did == did) & (((entry.page ^ page) & by_level(compared, level)) == 0)

        matches = Signal(entries)
        first = Signal(entries)
        levels = Signal(2)
        for number, entry in enumerate(lines):
            sector_valid = (entry.valid & by_level(chosen, entry.level)).any()
            m.d.comb += matches[number].eq(sector_valid & same_line(entry, self.did, self.page[3:], entry.level))
        m.d.comb += [
            first.eq(lowest(matches)),
            self.hit.eq(matches.any()),
            self.index.eq(encode(first)),
            levels.eq(Array(lines)[self.index].level if entries > 1 else lines[0].level),
            self.level.eq(levels),
        ]
        read = sectors.read_port(domain="comb")
        selected = Signal(range(ENTRIES_PER_LINE))
        with m.Switch(levels):
            for level in range(sizes):
                with m.Case(level):
                    m.d.comb += selected.eq(self.page[9 * level : 9 * level + 3])
        m.d.comb += [read.addr.eq(self.index), self.sector.eq(read.data[selected])]

        existing = Signal(entries)
        valid = Signal(entries)
        for number, entry in enumerate(lines):
            same = same_line(entry, self.fill_did, self.fill_page, self.fill_level)
            m.d.comb += valid[number].eq(entry.valid.any())
            m.d.comb += existing[number].eq(valid[number] & (entry.level == self.fill_level) & same)
        write = sectors.write_port()
        m.d.comb += [
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

        apply = self.apply
        care = apply.care
        cleared = [Signal(ENTRIES_PER_LINE, name=f"cleared_{level}") for level in range(3)]
        for level in range(sizes):
            low = 9 * level
            fits = ~care[:low].any() if params.inval_scope is Architecture.AMD else Const(1)
            differ = [((apply.page[low : low + 3] ^ number) & care[low : low + 3]).any() for number in range(8)]
            m.d.comb += cleared[level].eq(Mux(fits, ~Cat(differ), 0))
        beyond = (apply.page[self._pages :] & care[self._pages :]).any()
        for number, entry in enumerate(lines):
            same_did = entry.did == apply.did
            difference = (entry.page ^ apply.page[3 : self._pages]) & care[3 : self._pages]
            in_range = same_did & ~beyond & ((difference & by_level(compared, entry.level)) == 0)
            with m.If(apply.iotlb):
                with m.If(apply.everything | (apply.by_did & same_did)):
                    m.d.sync += entry.valid.eq(0)
                with m.Elif(apply.by_page & in_range):
                    m.d.sync += entry.valid.eq(entry.valid & ~by_level(cleared, entry.level))
            with m.If(self.fill & (self.fill_index == number)):
                m.d.sync += [
                    entry.did.eq(self.fill_did),
                    entry.level.eq(self.fill_level),
                    entry.page.eq(self.fill_page),
                    entry.valid.eq(self.fill_valid),
                ]
        return m
