"""What one second-stage entry says (docs/timing.md W8, W9): the RTL's own reading of facts A1."""

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST, LEAVES, SS_TABLE, SS_TABLE_TOP

__all__ = ["EntryDecoder", "sector_layout"]


def sector_layout(params: IommuParams) -> data.StructLayout:
    """One decoded entry as caches and results keep it; `r` and `w` are ANDed along the walk."""
    return data.StructLayout({"r": 1, "w": 1, "snp": 1, "frame": params.haw - 12})


class EntryDecoder(wiring.Component):
    """Combinational reading of one 64-bit entry.

    Members: `entry`, the `level` 0..4 of its table, and `r`, `w` accumulated above it give `sector`
    (permissions ANDed), `present`, `reserved` (meaningful when present), `leaf`, and what may be cached:
    `good_pointer` and `good_leaf` (its page clear of the interrupt range).
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        super().__init__(
            {
                "entry": In(64),
                "level": In(3),
                "r": In(1),
                "w": In(1),
                "sector": Out(sector_layout(params)),
                "present": Out(1),
                "reserved": Out(1),
                "leaf": Out(1),
                "good_pointer": Out(1),
                "good_leaf": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Masks per level, chosen by `level` and the page-size bit."""
        m = Module()
        params, entry = self._params, self.entry
        beyond = ((1 << 52) - 1) & ~((1 << params.haw) - 1)
        page_size = entry[7]
        interrupt_page = Signal()

        def any_of(mask: int) -> Value:
            return (entry & Const(mask, 64)).any()

        with m.Switch(self.level):
            for level in range(params.max_levels):
                with m.Case(level):
                    table_format = SS_TABLE_TOP if level > params.large_pages or level > 2 else SS_TABLE
                    pointer_mask = table_format.reserved | beyond
                    if level <= params.large_pages:
                        leaf_mask = LEAVES[level].reserved | beyond
                        if not params.snp_legal:
                            leaf_mask |= LEAVES[level].mask("snp")
                        shift = 9 * level
                        frame = entry[12 + shift : params.haw]
                        m.d.comb += interrupt_page.eq(frame == (INTERRUPT_FIRST >> (12 + shift)))
                        if level == 0:
                            m.d.comb += interrupt_page.eq(entry[20 : params.haw] == INTERRUPT_FIRST >> 20)
                            m.d.comb += [self.leaf.eq(1), self.reserved.eq(any_of(leaf_mask))]
                        else:
                            with m.If(page_size):
                                m.d.comb += [self.leaf.eq(1), self.reserved.eq(any_of(leaf_mask))]
                            with m.Else():
                                m.d.comb += self.reserved.eq(any_of(pointer_mask))
                    else:
                        m.d.comb += self.reserved.eq(any_of(pointer_mask))

        usable = Signal()
        m.d.comb += [
            self.present.eq(entry[0:2].any()),
            self.sector.r.eq(entry[0] & self.r),
            self.sector.w.eq(entry[1] & self.w),
            self.sector.snp.eq(entry[11] & self.leaf & Const(int(params.snp_legal))),
            self.sector.frame.eq(entry[12 : params.haw]),
            usable.eq(self.present & ~self.reserved & (self.sector.r | self.sector.w)),
            self.good_pointer.eq(usable & ~self.leaf),
            self.good_leaf.eq(usable & self.leaf & ~interrupt_page),
        ]
        return m
