"""What a line of the root, context or PASID tables says (docs/timing.md W3, W5, W6): the RTL's reading of
facts A4.
"""

from amaranth.hdl import Const, Module, Mux, Signal, Value
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

from hdl.formats.layout import reserved, view
from hdl.layouts import context_layout, key_layout
from pymodel.spec.context import (
    ADDRESS_WIDTH_LEVELS,
    LEGACY_CONTEXT,
    LEGACY_ROOT,
    PASID_DIRECTORY,
    PASID_ENTRY,
    PGTT_PASS_THROUGH,
    PGTT_SECOND_STAGE,
    SCALABLE_CONTEXT,
    SCALABLE_ROOT_HALF,
    TT_PASS_THROUGH,
    TT_UNTRANSLATED,
)
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

__all__ = ["ContextDecoder", "ContextStage"]


class ContextStage(enum.Enum, shape=2):
    """Table that a context walk reads."""

    ROOT = 0
    CONTEXT = 1
    DIRECTORY = 2
    PASID = 3


class ContextDecoder(wiring.Component):
    """Combinational reading of one 64-byte line of a context walk.

    Members: `line`, its access `error`, `stage`, the request's `key`, `scalable` mode, and `pasid` and `fpd`
    gathered so far give either a fault `reason` (not 0), or `done` with `context`, or the `table` of the next
    stage. `pasid_out` and `fpd_out` include this line.
    """

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        super().__init__(
            {
                "line": In(512),
                "error": In(1),
                "stage": In(ContextStage),
                "key": In(key_layout()),
                "scalable": In(1),
                "pasid": In(20),
                "fpd": In(1),
                "reason": Out(8),
                "done": Out(1),
                "context": Out(context_layout(params)),
                "table": Out(params.haw - 12),
                "pasid_out": Out(20),
                "fpd_out": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        """One case for each stage."""
        m = Module()
        m.d.comb += [self.pasid_out.eq(self.pasid), self.fpd_out.eq(self.fpd)]
        with m.Switch(self.stage):
            with m.Case(ContextStage.ROOT):
                with m.If(self.scalable):
                    self._scalable_root(m)
                with m.Else():
                    self._legacy_root(m)
            with m.Case(ContextStage.CONTEXT):
                with m.If(self.scalable):
                    self._scalable_context(m)
                with m.Else():
                    self._legacy_context(m)
            with m.Case(ContextStage.DIRECTORY):
                self._directory(m)
            with m.Case(ContextStage.PASID):
                self._pasid_entry(m)
        return m

    def _frame(self, address: Value) -> Value:
        """Frame number of an address field that holds bits 63:12."""
        return address[: self._params.haw - 12]

    def _refuse(self, m: Module, *rules: tuple[Value, Reason]) -> None:
        """The first condition that holds gives the reason."""
        for position, (condition, reason) in enumerate(rules):
            with m.If(condition) if position == 0 else m.Elif(condition):
                m.d.comb += self.reason.eq(reason)

    def _depth(self, m: Module, width_code: Value) -> tuple[Value, Value]:
        """Depth for an AW code, and whether it is offered."""
        depth, offered = Signal(3), Signal()
        with m.Switch(width_code):
            for code, levels in ADDRESS_WIDTH_LEVELS.items():
                if levels in self._params.levels:
                    with m.Case(code):
                        m.d.comb += [depth.eq(levels), offered.eq(1)]
        return depth, offered

    def _legacy_root(self, m: Module) -> None:
        bits = self.line.word_select(self.key.sid[8:10], 128)
        entry = view(LEGACY_ROOT, bits)
        bad = reserved(LEGACY_ROOT, bits, haw=self._params.haw, address="context_table")
        self._refuse(
            m,
            (self.error, Reason.ROOT_ACCESS),
            (~entry.p, Reason.ROOT_NOT_PRESENT),
            (bad, Reason.ROOT_RESERVED),
        )
        m.d.comb += self.table.eq(self._frame(entry.context_table))

    def _scalable_root(self, m: Module) -> None:
        half = self.key.sid[7]
        bits = self.line.word_select(self.key.sid[8:10], 128).word_select(half, 64)
        entry = view(SCALABLE_ROOT_HALF, bits)
        bad = reserved(SCALABLE_ROOT_HALF, bits, haw=self._params.haw, address="context_table")
        self._refuse(
            m,
            (self.error, Reason.SM_ROOT_ACCESS),
            (~entry.p, Reason.SM_ROOT_NOT_PRESENT),
            (bad, Reason.SM_ROOT_RESERVED),
        )
        m.d.comb += self.table.eq(self._frame(entry.context_table))

    def _legacy_context(self, m: Module) -> None:
        params = self._params
        bits = self.line.word_select(self.key.sid[0:2], 128)
        entry = view(LEGACY_CONTEXT, bits)
        bad = reserved(LEGACY_CONTEXT, bits, haw=params.haw, address="table")
        depth, offered = self._depth(m, entry.aw)
        pass_through = (entry.tt == TT_PASS_THROUGH) & Const(int(params.pass_through))
        self._refuse(
            m,
            (self.error, Reason.CONTEXT_ACCESS),
            (~entry.p, Reason.CONTEXT_NOT_PRESENT),
            (bad, Reason.CONTEXT_RESERVED),
            (~offered | ~((entry.tt == TT_UNTRANSLATED) | pass_through), Reason.CONTEXT_INVALID),
        )
        m.d.comb += [
            self.done.eq(self.reason == Reason.NONE),
            self.fpd_out.eq(entry.fpd & ~self.error),
            self.context.pass_through.eq(pass_through),
            self.context.did.eq(entry.did),
            self.context.depth.eq(Mux(pass_through, 0, depth)),
            self.context.table.eq(Mux(pass_through, 0, self._frame(entry.table))),
            self.context.fpd.eq(entry.fpd),
        ]

    def _scalable_context(self, m: Module) -> None:
        bits = self.line.word_select(self.key.sid[0], 256)
        entry = view(SCALABLE_CONTEXT, bits)
        bad = reserved(SCALABLE_CONTEXT, bits, haw=self._params.haw, address="pasid_directory")
        used = Signal(20)
        largest = Signal(20)
        with_pasid = self.key.pasid_valid
        m.d.comb += [
            used.eq(Mux(with_pasid, self.key.pasid, entry.rid_pasid)),
            largest.eq((1 << (entry.pdts + 13)) - 1),
        ]
        too_large = used > largest
        self._refuse(
            m,
            (self.error, Reason.SM_CONTEXT_ACCESS),
            (~entry.p, Reason.SM_CONTEXT_NOT_PRESENT),
            (bad, Reason.SM_CONTEXT_RESERVED),
            (with_pasid & ~entry.paside, Reason.SM_PASID_DISABLED),
            (with_pasid & too_large, Reason.SM_PASID_TOO_LARGE),
            (too_large, Reason.SM_RID_PASID_TOO_LARGE),
        )
        m.d.comb += [
            self.table.eq(self._frame(entry.pasid_directory)),
            self.pasid_out.eq(used),
            self.fpd_out.eq(entry.fpd & ~self.error),
        ]

    def _directory(self, m: Module) -> None:
        bits = self.line.word_select(self.pasid[6:9], 64)
        entry = view(PASID_DIRECTORY, bits)
        bad = reserved(PASID_DIRECTORY, bits, haw=self._params.haw, address="table")
        self._refuse(
            m,
            (self.error, Reason.SM_DIRECTORY_ACCESS),
            (~entry.p, Reason.SM_DIRECTORY_NOT_PRESENT),
            (bad, Reason.SM_DIRECTORY_RESERVED),
        )
        m.d.comb += [self.table.eq(self._frame(entry.table)), self.fpd_out.eq(self.fpd | (entry.fpd & ~self.error))]

    def _pasid_entry(self, m: Module) -> None:
        params = self._params
        entry = view(PASID_ENTRY, self.line)
        bad = reserved(PASID_ENTRY, self.line, haw=params.haw, address="table")
        depth, offered = self._depth(m, entry.aw)
        fpd = Signal()
        pass_through = (entry.pgtt == PGTT_PASS_THROUGH) & Const(int(params.pass_through))
        second_stage = (entry.pgtt == PGTT_SECOND_STAGE) & offered
        self._refuse(
            m,
            (self.error, Reason.SM_PASID_ACCESS),
            (~entry.p, Reason.SM_PASID_NOT_PRESENT),
            (bad, Reason.SM_PASID_RESERVED),
            (~pass_through & ~second_stage, Reason.SM_PASID_INVALID),
        )
        m.d.comb += [
            fpd.eq(self.fpd | (entry.fpd & ~self.error)),
            self.done.eq(self.reason == Reason.NONE),
            self.fpd_out.eq(fpd),
            self.context.pass_through.eq(pass_through),
            self.context.did.eq(entry.did),
            self.context.depth.eq(Mux(pass_through, 0, depth)),
            self.context.table.eq(Mux(pass_through, 0, self._frame(entry.table))),
            self.context.fpd.eq(fpd),
            self.context.pgsnp.eq(entry.pgsnp),
        ]
