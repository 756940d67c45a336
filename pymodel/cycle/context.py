"""Context structures: what a walk makes of their entries, and the context cache."""

from pymodel.cycle.replacement import Lines
from pymodel.cycle.slot import CONTEXT, DIRECTORY, PASID, ROOT, Slot
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
    TT_DEVICE_TLB,
    TT_PASS_THROUGH,
)
from pymodel.spec.faults import Reason
from pymodel.spec.fields import Format
from pymodel.spec.params import IommuParams

__all__ = ["ContextCache", "ContextEntry", "ContextStages", "context_key"]

_ACCESS = {
    ROOT: (Reason.ROOT_ACCESS, Reason.SM_ROOT_ACCESS),
    CONTEXT: (Reason.CONTEXT_ACCESS, Reason.SM_CONTEXT_ACCESS),
    DIRECTORY: (Reason.SM_DIRECTORY_ACCESS, Reason.SM_DIRECTORY_ACCESS),
    PASID: (Reason.SM_PASID_ACCESS, Reason.SM_PASID_ACCESS),
}


def context_key(sid: int, pasid_valid: int, pasid: int) -> int:
    """Key of (sid, pasid_valid, pasid; pasid taken as 0 without one) (L2.5)."""
    return sid | 1 << 16 | pasid << 17 if pasid_valid else sid


class ContextEntry:
    """One context cache entry (W7)."""

    __slots__ = ("depth", "did", "fpd", "index", "pasid", "pass_through", "pgsnp", "sid", "table",
                 "width")  # fmt: skip

    def __init__(self, sid: int, pasid: int, did: int, fpd: int, pgsnp: int) -> None:
        self.index = 0
        self.sid = sid
        self.pasid = pasid
        """The pasid used: the request's or RID_PASID, 0 in legacy mode."""
        self.did = did
        self.fpd = fpd
        self.pgsnp = pgsnp
        self.pass_through = True
        self.table = self.depth = self.width = 0

    def set_table(self, table: int, depth: int) -> None:
        """Make it an entry with a table of `depth` levels instead of pass-through."""
        self.pass_through = False
        self.table, self.depth, self.width = table, depth, 12 + 9 * depth


class ContextCache:
    """Context and PASID cache (T1) with its fills (W7) and invalidations (I6)."""

    __slots__ = ("entries", "lines")

    def __init__(self, count: int) -> None:
        self.lines = Lines(count)
        self.entries: dict[int, ContextEntry] = {}
        """Valid entries by `context_key`."""

    def fill(self, index: int, key: int, entry: ContextEntry) -> None:
        """Write the line at `index` (T4)."""
        if self.lines.valid >> index & 1:
            del self.entries[self.lines.keys[index]]
        entry.index = index
        self.lines.fill(index, key)
        self.entries[key] = entry

    def drop(self, did: int | None = None, pasid: int | None = None, sid: int | None = None,
             ignore: int = 0) -> None:  # fmt: skip
        """Drop the entries that match all that is not None; `ignore` are bits of sid not compared (I6)."""
        for key, entry in list(self.entries.items()):
            if did is not None and entry.did != did:
                continue
            if pasid is not None and entry.pasid != pasid:
                continue
            if sid is not None and (entry.sid ^ sid) & ~ignore:
                continue
            del self.entries[key]
            self.lines.drop(entry.index)


class ContextStages:
    """Judges the entries that a context walk reads (W5, W6)."""

    __slots__ = ("_depths", "_pass_through", "_reserved", "_table", "result")

    def __init__(self, params: IommuParams) -> None:
        self._pass_through = params.pass_through
        self._depths = {code: depth for code, depth in ADDRESS_WIDTH_LEVELS.items() if depth in params.levels}
        low = (1 << params.haw) - 1
        self._table = low & LEGACY_CONTEXT["table"].mask
        address = {
            LEGACY_ROOT: "context_table", SCALABLE_ROOT_HALF: "context_table", LEGACY_CONTEXT: "table",
            SCALABLE_CONTEXT: "pasid_directory", PASID_DIRECTORY: "table", PASID_ENTRY: "table",
        }  # fmt: skip
        self._reserved = {form: form.reserved | form[name].mask & ~low for form, name in address.items()}
        self.result: ContextEntry | None = None
        """What the last judged entry led to, if it ended the walk well (W7)."""

    def judge(self, slot: Slot, error: int, data: int) -> Reason:
        """The reason that ends the walk; NONE: `result` is set, or the slot has moved to its next stage."""
        self.result = None
        if error:
            return _ACCESS[slot.stage][slot.scalable]
        data >>= 8 * (slot.address & 63)
        if slot.stage == ROOT:
            return self._scalable_root(slot, data) if slot.scalable else self._root(slot, data)
        if slot.stage == CONTEXT:
            return self._scalable_context(slot, data) if slot.scalable else self._context(slot, data)
        if slot.stage == DIRECTORY:
            return self._directory(slot, data)
        return self._pasid(slot, data)

    def _bad(self, form: Format, entry: int) -> bool:
        return bool(entry & self._reserved[form])

    def _root(self, slot: Slot, data: int) -> Reason:
        entry = data & (1 << LEGACY_ROOT.width) - 1
        if not LEGACY_ROOT.get(entry, "p"):
            return Reason.ROOT_NOT_PRESENT
        if self._bad(LEGACY_ROOT, entry):
            return Reason.ROOT_RESERVED
        slot.stage = CONTEXT
        slot.address = (entry & self._table) + 16 * (slot.sid & 0xFF)
        return Reason.NONE

    def _scalable_root(self, slot: Slot, data: int) -> Reason:
        upper = slot.sid >> 7 & 1
        entry = data >> SCALABLE_ROOT_HALF.width * upper & (1 << SCALABLE_ROOT_HALF.width) - 1
        if not SCALABLE_ROOT_HALF.get(entry, "p"):
            return Reason.SM_ROOT_NOT_PRESENT
        if self._bad(SCALABLE_ROOT_HALF, entry):
            return Reason.SM_ROOT_RESERVED
        slot.stage = CONTEXT
        slot.address = (entry & self._table) + 32 * (slot.sid & 0x7F)
        return Reason.NONE

    def _context(self, slot: Slot, data: int) -> Reason:
        entry = data & (1 << LEGACY_CONTEXT.width) - 1
        slot.fpd |= LEGACY_CONTEXT.get(entry, "fpd")
        if not LEGACY_CONTEXT.get(entry, "p"):
            return Reason.CONTEXT_NOT_PRESENT
        if self._bad(LEGACY_CONTEXT, entry):
            return Reason.CONTEXT_RESERVED
        kind = LEGACY_CONTEXT.get(entry, "tt")
        depth = self._depths.get(LEGACY_CONTEXT.get(entry, "aw"))
        if depth is None or kind & TT_DEVICE_TLB or (kind == TT_PASS_THROUGH and not self._pass_through):
            return Reason.CONTEXT_INVALID
        self.result = ContextEntry(slot.sid, 0, LEGACY_CONTEXT.get(entry, "did"), slot.fpd, 0)
        if kind != TT_PASS_THROUGH:
            self.result.set_table(entry & self._table, depth)
        return Reason.NONE

    def _scalable_context(self, slot: Slot, data: int) -> Reason:
        entry = data & (1 << SCALABLE_CONTEXT.width) - 1
        slot.fpd |= SCALABLE_CONTEXT.get(entry, "fpd")
        if not SCALABLE_CONTEXT.get(entry, "p"):
            return Reason.SM_CONTEXT_NOT_PRESENT
        if self._bad(SCALABLE_CONTEXT, entry):
            return Reason.SM_CONTEXT_RESERVED
        limit = 1 << SCALABLE_CONTEXT.get(entry, "pdts") + 13
        if slot.pasid_valid:
            if not SCALABLE_CONTEXT.get(entry, "paside"):
                return Reason.SM_PASID_DISABLED
            if slot.pasid >= limit:
                return Reason.SM_PASID_TOO_LARGE
        else:
            slot.pasid = SCALABLE_CONTEXT.get(entry, "rid_pasid")
            if slot.pasid >= limit:
                return Reason.SM_RID_PASID_TOO_LARGE
        slot.stage = DIRECTORY
        slot.address = (entry & self._table) + 8 * (slot.pasid >> 6)
        return Reason.NONE

    def _directory(self, slot: Slot, data: int) -> Reason:
        entry = data & (1 << PASID_DIRECTORY.width) - 1
        slot.fpd |= PASID_DIRECTORY.get(entry, "fpd")
        if not PASID_DIRECTORY.get(entry, "p"):
            return Reason.SM_DIRECTORY_NOT_PRESENT
        if self._bad(PASID_DIRECTORY, entry):
            return Reason.SM_DIRECTORY_RESERVED
        slot.stage = PASID
        slot.address = (entry & self._table) + 64 * (slot.pasid & 63)
        return Reason.NONE

    def _pasid(self, slot: Slot, entry: int) -> Reason:
        slot.fpd |= PASID_ENTRY.get(entry, "fpd")
        if not PASID_ENTRY.get(entry, "p"):
            return Reason.SM_PASID_NOT_PRESENT
        if self._bad(PASID_ENTRY, entry):
            return Reason.SM_PASID_RESERVED
        kind = PASID_ENTRY.get(entry, "pgtt")
        depth = self._depths.get(PASID_ENTRY.get(entry, "aw"))
        if kind == PGTT_PASS_THROUGH:
            if not self._pass_through:
                return Reason.SM_PASID_INVALID
        elif kind != PGTT_SECOND_STAGE or depth is None:
            return Reason.SM_PASID_INVALID
        did, pgsnp = PASID_ENTRY.get(entry, "did"), PASID_ENTRY.get(entry, "pgsnp")
        self.result = ContextEntry(slot.sid, slot.pasid, did, slot.fpd, pgsnp)
        if kind == PGTT_SECOND_STAGE and depth is not None:
            self.result.set_table(entry & self._table, depth)
        return Reason.NONE
