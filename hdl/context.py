"""Context/PASID cache (docs/timing.md T1, T4, T5, L2.5, I6)."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hdl.layouts import apply_layout, context_layout, key_layout
from hdl.lib.choose import encode, index_width
from hdl.lib.replacement import Replacement
from pymodel.spec.params import IommuParams

__all__ = ["ContextCache"]


class ContextCache(wiring.Component):
    """Fully associative cache of what root, context and PASID tables say of a requester.

    Members: `key` looks up `hit` and `context` in the same cycle; `use` marks the hit as taken. `fill` writes
    an entry at the end of the cycle (`fill_pasid`: the PASID that the tables were read for); `fill_index`,
    `evicted` are valid with it. `apply` drops entries at the end of the cycle.
    Timing: lookup is combinational; fills and invalidations are seen one cycle later.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        index = index_width(params.context_entries)
        super().__init__(
            {
                "key": In(key_layout()),
                "use": In(1),
                "hit": Out(1),
                "context": Out(context_layout(params)),
                "fill": In(1),
                "fill_key": In(key_layout()),
                "fill_pasid": In(20),
                "fill_context": In(context_layout(params)),
                "fill_index": Out(index),
                "evicted": Out(1),
                "apply": In(apply_layout(params)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """Lookup, fill, invalidation."""
        m = Module()
        entries = self._params.context_entries
        m.submodules.replacement = replacement = Replacement(entries)
        entry_layout = data.StructLayout(
            {"valid": 1, "key": key_layout(), "pasid": 20, "context": context_layout(self._params)}
        )
        cache = [Signal(entry_layout, name=f"entry_{number}") for number in range(entries)]
        matches, existing, valid = Signal(entries), Signal(entries), Signal(entries)
        index = Signal(index_width(entries))
        for number, entry in enumerate(cache):
            key = entry.key.as_value()
            m.d.comb += [
                valid[number].eq(entry.valid),
                matches[number].eq(entry.valid & (key == self.key.as_value())),
                existing[number].eq(entry.valid & (key == self.fill_key.as_value())),
            ]
        m.d.comb += [
            self.hit.eq(matches.any()),
            index.eq(encode(matches)),
            self.context.eq(Array(cache)[index].context if entries > 1 else cache[0].context),
            replacement.look.eq(self.use),
            replacement.look_index.eq(index),
            replacement.fill.eq(self.fill),
            replacement.fill_index.eq(self.fill_index),
            replacement.existing.eq(existing),
            replacement.valid.eq(valid),
            self.fill_index.eq(replacement.line),
            self.evicted.eq(valid.bit_select(self.fill_index, 1) & ~existing.any()),
        ]

        apply = self.apply
        for number, entry in enumerate(cache):
            same_did = entry.context.did == apply.did
            covered = (
                apply.everything
                | (apply.by_did & same_did)
                | (apply.by_sid & (((entry.key.sid ^ apply.sid) & apply.sid_care) == 0))
                | (apply.by_pasid & same_did & (entry.pasid == apply.pasid))
            )
            with m.If(apply.context & covered):
                m.d.sync += entry.valid.eq(0)
            with m.If(self.fill & (self.fill_index == number)):
                m.d.sync += [
                    entry.valid.eq(1),
                    entry.key.eq(self.fill_key),
                    entry.pasid.eq(self.fill_pasid),
                    entry.context.eq(self.fill_context),
                ]
        return m
