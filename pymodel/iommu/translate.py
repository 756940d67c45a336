"""Untimed translation of one request: no caches, memory as it is now (facts A1, B5, J).

Second-stage entries are judged on the way down, entry by entry, permission before reserved bits (facts J).
Where an entry lacks the permission and a lower one is malformed this gives the upper one's reason; `legal`
knows both.
"""

from pymodel.iommu.context import mode_refusal, walk_context
from pymodel.iommu.entries import Context, PageRules, Refusal
from pymodel.iommu.types import Outcome, Request, TableMemory
from pymodel.spec import context as layout
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST, INTERRUPT_LAST

__all__ = ["PageReasons", "passed", "translate", "walk_page"]


class PageReasons:
    """Reasons of the second stage in one mode."""

    def __init__(self, scalable: bool) -> None:
        def pick(legacy: Reason, published: Reason) -> Reason:
            return published if scalable else legacy

        self.beyond_width = pick(Reason.ADDRESS_BEYOND_WIDTH, Reason.SM_ADDRESS_BEYOND_WIDTH)
        self.root_access = pick(Reason.CONTEXT_INVALID, Reason.SM_TABLE_ROOT_ACCESS)
        self.table_access = pick(Reason.TABLE_ACCESS, Reason.SM_TABLE_ACCESS)
        self.reserved = pick(Reason.ENTRY_RESERVED, Reason.SM_ENTRY_RESERVED)
        self.interrupt = pick(Reason.INTERRUPT_ADDRESS, Reason.SM_INTERRUPT_ADDRESS)
        self.denied = (
            pick(Reason.READ_DENIED, Reason.SM_READ_DENIED),
            pick(Reason.WRITE_DENIED, Reason.SM_WRITE_DENIED),
        )
        """By `Request.write`."""
        self.not_present = (
            pick(Reason.READ_DENIED, Reason.SM_ENTRY_NOT_PRESENT),
            pick(Reason.WRITE_DENIED, Reason.SM_ENTRY_NOT_PRESENT),
        )
        """By `Request.write`; legacy mode has no reason of its own for R=W=0."""


REASONS = (PageReasons(False), PageReasons(True))
"""By `Context.scalable`."""


def passed(request: Request, snoop: bool = False) -> Outcome:
    """The answer to a request that is not translated."""
    return Outcome(Reason.NONE, request.iova, 0, True, True, snoop)


def walk_page(rules: PageRules, memory: TableMemory, context: Context, request: Request) -> Outcome:
    """Second-stage walk with fresh memory; `context` is not pass-through."""
    reasons = REASONS[context.scalable]
    iova, write = request.iova, request.write
    wanted = 2 if write else 1
    recorded = not context.fpd
    if iova >> (12 + 9 * context.levels):
        return Outcome(reasons.beyond_width, recorded=recorded)
    table, permission = context.table, 3
    for level in range(context.levels - 1, -1, -1):
        address = table + 8 * ((iova >> (12 + 9 * level)) & 511)
        if not memory.readable(address):
            first = level == context.levels - 1
            return Outcome(reasons.root_access if first else reasons.table_access, recorded=recorded)
        entry = memory.load(address)
        if not entry & 3:
            return Outcome(reasons.not_present[write], recorded=recorded)
        permission &= entry
        if not permission & wanted:
            return Outcome(reasons.denied[write], recorded=recorded)
        if rules.is_leaf(level, entry):
            if entry & rules.leaf_reserved[level]:
                return Outcome(reasons.reserved, recorded=recorded)
            offset = iova & ((1 << (12 + 9 * level)) - 1)
            result = (entry & rules.leaf_address[level]) | offset
            if INTERRUPT_FIRST <= result <= INTERRUPT_LAST:
                return Outcome(reasons.interrupt, recorded=recorded)
            snoop = context.snoop or bool(entry & rules.snp)
            return Outcome(Reason.NONE, result, level, bool(permission & 1), bool(permission & 2), snoop)
        if entry & rules.table_reserved[level]:
            return Outcome(reasons.reserved, recorded=recorded)
        table = entry & rules.table_address
    raise AssertionError("level 0 ends every walk")


def translate(
    params: IommuParams, memory: TableMemory, rtaddr: int, request: Request, *, enabled: bool = True
) -> Outcome:
    """The one answer that empty caches and unchanging memory leave; `rtaddr` is the active root pointer."""
    if not enabled:
        return passed(request)
    refusal = mode_refusal(params, rtaddr, request)
    if refusal is not None:
        return Outcome(refusal.reason, recorded=not refusal.fpd)
    scalable = layout.RTADDR.get(rtaddr, "ttm") == layout.TTM_SCALABLE
    if request.pasid is None and request.iova >> 20 == INTERRUPT_FIRST >> 20:
        return passed(request) if request.write else Outcome(REASONS[scalable].interrupt)
    context = walk_context(params, memory, rtaddr, request)
    if isinstance(context, Refusal):
        return Outcome(context.reason, recorded=not context.fpd)
    if context.pass_through:
        return passed(request, context.snoop)
    return walk_page(PageRules(params), memory, context, request)
