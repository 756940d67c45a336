"""Huge-page splits: L01, L02, L03 (facts F3 U5, C5; seeds S1, S2)."""

from dataclasses import replace
from typing import Any

from pymodel.effects import Agent, CompareExchange, Store
from pymodel.explore import Outcome
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.machine import (
    CHILD,
    NAMES,
    PARAMS,
    REUSED,
    A,
    G,
    Queue,
    access,
    faults,
    iommu,
    large_table,
    leaf,
    new_table,
    pde,
    pointer,
    read_of,
    reuse_forbidden,
)
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE, Range, span
from pymodel.paging.reshape import split
from pymodel.paging.table import Status
from pymodel.spec.params import Architecture

__all__ = ["split_hole", "split_order", "split_stream"]

_READ, _WRITE = 3, 509
"""Pages of the 2 MiB that devices read and write."""
_USED = (2, _READ, 4, 508, _WRITE, 510)
"""Entries that tests write which need not write all 512."""
_DATA, _WRITTEN = 0xDA7A, 0x3A17E


def _reader() -> Agent[None]:
    for _ in range(2):
        yield from access("read", G + _READ * PAGE)


def _writer() -> Agent[None]:
    for count in range(2):
        yield from access("write", G + _WRITE * PAGE, True, _WRITTEN + count)


def _stream(software: Any) -> Scenario:
    """Two devices stream while `software` splits: everything has to go where it always went."""

    def forbidden(outcome: Outcome) -> str:
        for reason in faults(outcome):
            return f"a device was refused ({reason})"
        for seen in outcome.named("read"):
            if seen["data"] != _DATA:
                return f"a read returned {seen['data']:#x}, not what is at its page"
        if outcome.word("written") != _WRITTEN + 1:
            return "a write went somewhere else"
        return ""

    memory = SparseMem(large_table() | {A + _READ * PAGE: _DATA})
    return Scenario(
        {"software": software, "reader": _reader, "writer": _writer},
        memory,
        forbidden,
        (iommu(),),
        {"written": A + _WRITE * PAGE, "pde": pde()},
        names=NAMES,
    )


@litmus(
    id="L01",
    seed="S1, S2",
    title="split of a 2 MiB page under a DMA stream, without any invalidation",
    forbidden="a fault, or an access that does not reach its page",
    twin="the large leaf is taken out first and the table linked afterwards",
)
def split_stream(twin: bool, case: str) -> Scenario:
    """U5: children are filled privately and linked with one exchange; nothing needs to be invalidated."""

    def software() -> Agent[None]:
        if twin:
            yield Store(pde(), 0)
            for number in _USED:
                yield Store(CHILD + 8 * number, leaf(A + number * PAGE))
            yield Store(pde(), pointer(CHILD))
        else:
            update = yield from split(new_table(), G)
            assert update.status is Status.DONE

    return _stream(software)


@litmus(
    id="L02",
    seed="S2",
    title="children of a split are written before the table is linked",
    forbidden="a fault, or an access that does not reach its page",
    twin="the table is linked first and its entries are written afterwards",
)
def split_order(twin: bool, case: str) -> Scenario:
    """A4: a walker sees stores in order, so what it reaches must be complete."""

    def software() -> Agent[None]:
        if twin:
            yield CompareExchange(pde(), leaf(A, 1), pointer(CHILD))
        for number in _USED:
            yield Store(CHILD + 8 * number, leaf(A + number * PAGE))
        if not twin:
            yield CompareExchange(pde(), leaf(A, 1), pointer(CHILD))

    return _stream(software)


@litmus(
    id="L03",
    seed="S2",
    title="one page of a split 2 MiB page is unmapped, invalidated and used again",
    forbidden="a device reads or writes the page after the host used it again",
    twin="the IOMMU follows AMD's rule (K1) and only the 4 KiB are invalidated: the large cached leaf survives",
    cases=("vtd, 4 KiB invalidated", "amd, 2 MiB invalidated"),
    twins=("amd, 4 KiB invalidated",),
)
def split_hole(twin: bool, case: str) -> Scenario:
    """K1, H4: the invalidation has to cover the leaf that was there before the split."""
    architecture = Architecture.AMD if case.startswith("amd") else Architecture.VTD
    params = replace(PARAMS, inval_scope=architecture, psc_scope=architecture)
    page = G + _READ * PAGE
    target = A + _READ * PAGE

    def software() -> Agent[None]:
        table = new_table()
        update = yield from split(table, G)
        assert update.status is Status.DONE
        child = table.pool.allocate() - PAGE  # the pool gives pages in order: the one before holds the children
        yield Store(child + 8 * _READ, 0)
        block = Range(page, page + PAGE) if "4 KiB" in case else Range(G, G + span(1))
        yield from Queue().invalidate(block, ih=True)
        yield Store(target, REUSED)

    def device() -> Agent[None]:
        yield from access("read", page)
        yield from access("read", page)
        yield from access("write", page, True, _WRITTEN)

    memory = SparseMem(large_table() | {target: _DATA})
    return Scenario(
        {"software": software, "device": device},
        memory,
        reuse_forbidden,
        (iommu(params),),
        {"page": target},
        {"a read before": read_of(_DATA), "a fault after": lambda outcome: bool(faults(outcome))},
        names=NAMES,
    )
