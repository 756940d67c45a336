"""What an invalidation and the wait behind it promise: L07, L44, L45 (facts B3, F4 H7 and H10, K8, K11)."""

from dataclasses import replace

from pymodel.effects import Agent, Event, Load, Store, WaitFor
from pymodel.explore import Outcome
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.machine import (
    NAMES,
    PARAMS,
    REUSED,
    STATUS,
    A,
    B,
    G,
    Queue,
    access,
    child_entry,
    faults,
    iommu,
    leaf,
    new_table,
    page_selective,
    read_of,
    reuse_forbidden,
    small_table,
    wait,
)
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE, Range
from pymodel.paging.reshape import replace as replace_page

__all__ = ["early_invalidation", "posted_write", "wait_order"]

_OLD, _NEW, _WRITTEN = 0x01D, 0x2E3, 0x3A17E
_RANGE = Range(G, G + PAGE)


def _pages() -> SparseMem:
    return SparseMem(small_table((0, 1)) | {A: _OLD, B: _NEW})


def _forbidden(outcome: Outcome) -> str:
    refused = faults(outcome)
    return f"a device was refused ({refused[0]})" if refused else reuse_forbidden(outcome)


@litmus(
    id="L07",
    seed="S2",
    title="a page is replaced, invalidated, and the old one is used again",
    forbidden="a device reaches the old page after it was used again",
    twin="the invalidation is issued and completed before the entry is written (H10)",
)
def early_invalidation(twin: bool, case: str) -> Scenario:
    """H10: an invalidation concerns what was read before it, so the store has to come first."""

    def software() -> Agent[None]:
        queue, table = Queue(), new_table()
        if twin:
            yield from queue.invalidate(_RANGE, ih=True)
        yield from replace_page(table, G, B)
        if not twin:
            yield from queue.invalidate(_RANGE, ih=True)
        yield Store(A, REUSED)

    def device() -> Agent[None]:
        yield from access("read", G)
        yield from access("read", G)
        yield from access("write", G, True, _WRITTEN)

    return Scenario(
        {"software": software, "device": device},
        _pages(),
        _forbidden,
        (iommu(),),
        {"page": A, "new": B},
        {"a read of the old page": read_of(_OLD), "a read of the new page": read_of(_NEW)},
        names=NAMES,
    )


@litmus(
    id="L44",
    seed="any",
    title="two groups of invalidation and wait in one queue; the first wait is a fence",
    forbidden="a wait completes before an invalidation ahead of it, or the second wait before the fence",
    twin="waits complete before invalidations ahead of them; or descriptors overtake the fence",
    cases=("in order", "reordering (K11)"),
    twins=("wait overtakes", "fence ignored"),
)
def wait_order(twin: bool, case: str) -> Scenario:
    """K11: the queue may reorder up to a fence, and a wait covers exactly what is ahead of it."""
    flaws = {"wait overtakes": ("wait_overtakes",), "fence ignored": ("fence_ignored",)}.get(case, ())
    params = replace(PARAMS, inv_reorder=case != "in order" and case != "wait overtakes")
    first, second = STATUS, STATUS + 8

    def software() -> Agent[None]:
        yield Store(child_entry(0), leaf(B))
        yield from Queue().submit(
            page_selective(_RANGE, ih=True),
            wait(first, fence=True),
            page_selective(Range(G + PAGE, G + 2 * PAGE), ih=True),
            wait(second),
        )
        yield WaitFor(first, 0xFFFF_FFFF, 1)
        yield Store(A, REUSED)

    def observer() -> Agent[None]:
        yield WaitFor(second, 0xFFFF_FFFF, 1)
        seen: int = yield Load(first)
        yield Event("fence", (("completed", seen),))

    def device() -> Agent[None]:
        yield from access("read", G)
        yield from access("read", G)

    def forbidden(outcome: Outcome) -> str:
        if any(seen["completed"] != 1 for seen in outcome.named("fence")):
            return "the second wait completed before the fence ahead of it"
        return _forbidden(outcome)

    return Scenario(
        {"software": software, "observer": observer, "device": device},
        _pages(),
        forbidden,
        (iommu(params, *flaws),),
        {"page": A},
        {"a read of the old page": read_of(_OLD)},
        names=NAMES,
    )


@litmus(
    id="L45",
    seed="S2",
    title="writes to the old page are on their way when its invalidation completes",
    forbidden="such a write lands after the wait wrote its status and the page was used again",
    twin="the wait does not drain DMA that was translated before the invalidation",
)
def posted_write(twin: bool, case: str) -> Scenario:
    """O3, H7: translated accesses are drained before the wait completes."""

    def software() -> Agent[None]:
        yield from replace_page(new_table(), G, B)
        yield from Queue().invalidate(_RANGE, ih=True)
        yield Store(A, REUSED)

    def writer() -> Agent[None]:
        yield from access("write", G, True, _WRITTEN)

    def reader() -> Agent[None]:
        yield from access("read", G)

    return Scenario(
        {"software": software, "writer": writer, "reader": reader},
        _pages(),
        _forbidden,
        (iommu(PARAMS, *(("no_drain",) if twin else ())),),
        {"page": A, "new": B},
        {"a write to the new page": lambda outcome: outcome.word("new") == _WRITTEN},
        names=NAMES,
    )
