"""Reading one entry: second-stage entries, root, context and PASID structures (facts A1, A4, J).

Written from the fact sheet and the declarations alone; the RTL has predicates of its own, on purpose.
"""

from typing import NamedTuple

from pymodel.spec import context as layout
from pymodel.spec import second_stage as ss
from pymodel.spec.faults import Reason
from pymodel.spec.fields import Format
from pymodel.spec.params import IommuParams

__all__ = ["Context", "ContextRules", "PageRules", "Refusal"]

_WORD = (1 << 64) - 1


class PageRules:
    """Masks of second-stage entries under one set of parameters."""

    def __init__(self, params: IommuParams) -> None:
        above = ((1 << 52) - 1) & ~((1 << params.haw) - 1)
        snp = 0 if params.snp_legal else ss.SS_LEAF_4K.mask("snp")
        self.large_pages = params.large_pages
        self.snp = 0 if snp else ss.SS_LEAF_4K.mask("snp")
        """Bit 11 where it means snoop, else 0 (K4)."""
        self.leaf_reserved = tuple(leaf.reserved | above | snp for leaf in ss.LEAVES)
        """By level 0..2."""
        ps = ss.SS_TABLE.mask("ps")
        self.table_reserved = (
            _WORD,
            ss.SS_TABLE.reserved | above | (0 if params.large_pages >= 1 else ps),
            ss.SS_TABLE.reserved | above | (0 if params.large_pages >= 2 else ps),
            ss.SS_TABLE_TOP.reserved | above,
            ss.SS_TABLE_TOP.reserved | above,
        )
        """By level 1..4 (index 0 is unused); a bit 7 that is no legal page size is a reserved bit."""
        self.leaf_address = tuple(leaf.mask("address") for leaf in ss.LEAVES)
        self.table_address = ss.SS_TABLE.mask("address")

    def is_leaf(self, level: int, entry: int) -> bool:
        """The walk ends with this present entry."""
        return level == 0 or bool(entry & 0x80 and level <= self.large_pages)


class Context(NamedTuple):
    """What the context structures say about a source of requests."""

    scalable: bool
    did: int
    table: int
    """Page-table root; 0 for pass-through."""
    levels: int
    """Paging levels; 0 for pass-through."""
    snoop: bool
    """PGSNP: every DMA is snooped."""
    fpd: bool
    """Refused requests are not recorded."""

    @property
    def pass_through(self) -> bool:
        """Requests are not translated."""
        return self.levels == 0


class Refusal(NamedTuple):
    """The context structures refuse the request."""

    reason: Reason
    fpd: bool = False
    """FPD in the offending entry or one before it (facts A4): nothing is recorded."""


def _reserved(fmt: Format, word: int, haw: int, field: str) -> bool:
    """A bit that no field names, or a bit at or above HAW of an address field whose bits go up to 63."""
    address = fmt[field]
    above = address.mask & ~(((1 << haw) - 1) << (address.lsb - 12))
    return bool(word & (fmt.reserved | above))


class ContextRules:
    """Decoders of root, context and PASID structures; each returns a `Refusal` or what comes next."""

    def __init__(self, params: IommuParams) -> None:
        self._params = params
        self._haw = params.haw

    def legacy_root(self, entry: int) -> int | Refusal:
        """Context table of a 128-bit root entry."""
        fmt = layout.LEGACY_ROOT
        if not fmt.get(entry, "p"):
            return Refusal(Reason.ROOT_NOT_PRESENT)
        if _reserved(fmt, entry, self._haw, "context_table"):
            return Refusal(Reason.ROOT_RESERVED)
        return fmt.get(entry, "context_table") << 12

    def legacy_context(self, entry: int) -> Context | Refusal:
        """Verdict of a 128-bit context entry; with TT=2 table bits below HAW are of no concern (facts J)."""
        fmt = layout.LEGACY_CONTEXT
        fpd = bool(fmt.get(entry, "fpd"))
        if not fmt.get(entry, "p"):
            return Refusal(Reason.CONTEXT_NOT_PRESENT, fpd)
        if _reserved(fmt, entry, self._haw, "table"):
            return Refusal(Reason.CONTEXT_RESERVED, fpd)
        levels = layout.ADDRESS_WIDTH_LEVELS.get(fmt.get(entry, "aw"), 0)
        kind = fmt.get(entry, "tt")
        passing = kind == layout.TT_PASS_THROUGH and self._params.pass_through
        if levels not in self._params.levels or not (passing or kind == layout.TT_UNTRANSLATED):
            return Refusal(Reason.CONTEXT_INVALID, fpd)
        did = fmt.get(entry, "did")
        if passing:
            return Context(False, did, 0, 0, False, fpd)
        return Context(False, did, fmt.get(entry, "table") << 12, levels, False, fpd)

    def scalable_root(self, half: int) -> int | Refusal:
        """Context table of the 64-bit half of a root entry."""
        fmt = layout.SCALABLE_ROOT_HALF
        if not fmt.get(half, "p"):
            return Refusal(Reason.SM_ROOT_NOT_PRESENT)
        if _reserved(fmt, half, self._haw, "context_table"):
            return Refusal(Reason.SM_ROOT_RESERVED)
        return fmt.get(half, "context_table") << 12

    def scalable_context(self, entry: int, pasid: int | None) -> tuple[int, int, bool] | Refusal:
        """PASID directory, the PASID to use, and FPD of a 256-bit context entry."""
        fmt = layout.SCALABLE_CONTEXT
        fpd = bool(fmt.get(entry, "fpd"))
        if not fmt.get(entry, "p"):
            return Refusal(Reason.SM_CONTEXT_NOT_PRESENT, fpd)
        if _reserved(fmt, entry, self._haw, "pasid_directory"):
            return Refusal(Reason.SM_CONTEXT_RESERVED, fpd)
        limit = 1 << (fmt.get(entry, "pdts") + 13)
        if pasid is None:
            pasid = fmt.get(entry, "rid_pasid")
            if pasid >= limit:
                return Refusal(Reason.SM_RID_PASID_TOO_LARGE, fpd)
        elif not fmt.get(entry, "paside"):
            return Refusal(Reason.SM_PASID_DISABLED, fpd)
        elif pasid >= limit:
            return Refusal(Reason.SM_PASID_TOO_LARGE, fpd)
        return fmt.get(entry, "pasid_directory") << 12, pasid, fpd

    def directory(self, entry: int, fpd: bool) -> tuple[int, bool] | Refusal:
        """PASID table and FPD so far of a directory entry."""
        fmt = layout.PASID_DIRECTORY
        fpd = fpd or bool(fmt.get(entry, "fpd"))
        if not fmt.get(entry, "p"):
            return Refusal(Reason.SM_DIRECTORY_NOT_PRESENT, fpd)
        if _reserved(fmt, entry, self._haw, "table"):
            return Refusal(Reason.SM_DIRECTORY_RESERVED, fpd)
        return fmt.get(entry, "table") << 12, fpd

    def pasid(self, entry: int, fpd: bool) -> Context | Refusal:
        """Verdict of a 512-bit PASID entry."""
        fmt = layout.PASID_ENTRY
        fpd = fpd or bool(fmt.get(entry, "fpd"))
        if not fmt.get(entry, "p"):
            return Refusal(Reason.SM_PASID_NOT_PRESENT, fpd)
        if _reserved(fmt, entry, self._haw, "table"):
            return Refusal(Reason.SM_PASID_RESERVED, fpd)
        kind = fmt.get(entry, "pgtt")
        levels = layout.ADDRESS_WIDTH_LEVELS.get(fmt.get(entry, "aw"), 0)
        did, snoop = fmt.get(entry, "did"), bool(fmt.get(entry, "pgsnp"))
        if kind == layout.PGTT_PASS_THROUGH and self._params.pass_through:
            return Context(True, did, 0, 0, snoop, fpd)
        if kind == layout.PGTT_SECOND_STAGE and levels in self._params.levels:
            return Context(True, did, fmt.get(entry, "table") << 12, levels, snoop, fpd)
        return Refusal(Reason.SM_PASID_INVALID, fpd)
