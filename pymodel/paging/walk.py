"""Translation of one IOVA, with every level explained: the slow, obvious walk that others are held against.

The order of checks is that of facts J: entry by entry from the root, first permission, then reserved bits; a
table that cannot be read ends the walk where it is met; the page is looked at last (interrupt range).
"""

from dataclasses import dataclass
from typing import Protocol

from pymodel.paging.formats import Entry, Kind, PageTableFormat
from pymodel.paging.geometry import entry_address, index, span, width
from pymodel.spec.faults import Reason
from pymodel.spec.second_stage import INTERRUPT_FIRST, INTERRUPT_LAST

__all__ = ["Readable", "Step", "Translation", "Walk", "in_interrupt_range", "walk"]


class Readable(Protocol):
    """Memory as a walk needs it."""

    def load(self, address: int) -> int: ...

    def readable(self, address: int) -> bool: ...


@dataclass(frozen=True, slots=True)
class Translation:
    """Where an IOVA goes."""

    address: int
    """Physical byte address."""
    level: int
    """Level of the leaf: 0 for 4 KiB, 1 for 2 MiB, 2 for 1 GiB."""
    r: bool
    w: bool
    """Rights that every entry on the way granted."""
    snp: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One table on the way down."""

    level: int
    table: int
    """Address of the table."""
    index: int
    address: int
    """Address of the entry."""
    entry: Entry | None
    """None where the line cannot be read."""
    r: bool
    w: bool
    """Rights so far, this entry included."""
    verdict: str
    """What follows from the entry, for people."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Outcome of a walk; exactly one of `translation` and a `reason` other than NONE."""

    iova: int
    write: bool
    steps: tuple[Step, ...]
    translation: Translation | None
    reason: Reason

    @property
    def ok(self) -> bool:
        """Whether the access is translated."""
        return self.translation is not None

    def explain(self) -> list[str]:
        """One line for the request, one for each level, one for the outcome."""
        lines = [f"{'write' if self.write else 'read'} of iova {self.iova:#x}"]
        for step in self.steps:
            word = f"{step.entry.word:#018x}" if step.entry else "unreadable"
            lines.append(
                f"  level {step.level}: table {step.table:#x} [{step.index}] at {step.address:#x}"
                f" = {word}: {step.verdict}"
            )
        if self.translation:
            rights = ("R" if self.translation.r else "-") + ("W" if self.translation.w else "-")
            snp = " SNP" if self.translation.snp else ""
            lines.append(f"  -> {self.translation.address:#x} {rights}{snp}")
        else:
            lines.append(f"  -> fault {self.reason:#04x} {self.reason.name}")
        return lines


def in_interrupt_range(address: int) -> bool:
    """Whether a byte address lies in 0xFEE00000..0xFEEFFFFF, which is never translated and never a result."""
    return INTERRUPT_FIRST <= address <= INTERRUPT_LAST


def _denied(write: bool, scalable: bool, empty: bool) -> Reason:
    if scalable and empty:
        return Reason.SM_ENTRY_NOT_PRESENT
    if write:
        return Reason.SM_WRITE_DENIED if scalable else Reason.WRITE_DENIED
    return Reason.SM_READ_DENIED if scalable else Reason.READ_DENIED


def walk(
    memory: Readable,
    format_: PageTableFormat,
    root: int,
    levels: int,
    iova: int,
    write: bool,
    *,
    scalable: bool = False,
) -> Walk:
    """Walk `iova` (bytes) through the table of depth `levels` at address `root`.

    `scalable` chooses the reason codes. The width check comes first. Requests *to* the interrupt range never
    get here: they are judged before the context is looked up. Raises `ValueError` for a root that is no page
    or an IOVA outside 64 bits.
    """
    if root % 4096 or not 0 <= root < 1 << 52:
        raise ValueError(f"root must be a page address below 2**52, not {root:#x}")
    if iova >> 64:
        raise ValueError(f"iova must fit 64 bits, not {iova:#x}")
    if iova >> width(levels):
        reason = Reason.SM_ADDRESS_BEYOND_WIDTH if scalable else Reason.ADDRESS_BEYOND_WIDTH
        return Walk(iova, write, (), None, reason)
    steps: list[Step] = []
    table, r, w = root, True, True
    for level in range(levels - 1, -1, -1):
        address = entry_address(table, iova, level)
        where = (level, table, index(iova, level), address)
        if not memory.readable(address):
            if level == levels - 1:
                reason = Reason.SM_TABLE_ROOT_ACCESS if scalable else Reason.CONTEXT_INVALID
            else:
                reason = Reason.SM_TABLE_ACCESS if scalable else Reason.TABLE_ACCESS
            steps.append(Step(*where, None, r, w, "table cannot be read"))
            return Walk(iova, write, tuple(steps), None, reason)
        entry = format_.classify(memory.load(address), level)
        r, w = r and entry.r, w and entry.w
        verdict = entry.reason
        refused: Reason | None = None
        if not (w if write else r):
            refused = _denied(write, scalable, entry.kind is Kind.EMPTY)
            verdict += f": {'write' if write else 'read'} not permitted"
        elif entry.kind is Kind.RESERVED:
            refused = Reason.SM_ENTRY_RESERVED if scalable else Reason.ENTRY_RESERVED
        elif entry.kind is Kind.LEAF:
            target = entry.address | iova & (span(level) - 1)
            if in_interrupt_range(target):
                refused = Reason.SM_INTERRUPT_ADDRESS if scalable else Reason.INTERRUPT_ADDRESS
                verdict += ": in the interrupt range"
        steps.append(Step(*where, entry, r, w, verdict))
        if refused is not None:
            return Walk(iova, write, tuple(steps), None, refused)
        if entry.kind is Kind.LEAF:
            return Walk(iova, write, tuple(steps), Translation(target, level, r, w, entry.snp), Reason.NONE)
        table = entry.address
    raise AssertionError(f"{format_.name}: the entry at {address:#x} is a table pointer at level 0")
