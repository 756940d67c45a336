"""Tables that go away under a walker: L09, L10, L11 (facts F3 U4 and U6, F4 H1, H2 and H11, C6, D4 B2 and B6)."""

from dataclasses import replace

from pymodel.effects import Agent, Store
from pymodel.explore import Outcome
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.machine import (
    NAMES,
    PARAMS,
    SECRET,
    A,
    G,
    Queue,
    access,
    child_entry,
    faults,
    iommu,
    leaf,
    new_table,
    read_of,
    small_table,
)
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE, Range, span
from pymodel.paging.reshape import merge
from pymodel.paging.table import Status
from pymodel.paging.update import unmap_range

__all__ = ["collapse_reuse", "recover_frozen", "unlink_walk"]

_PAGE = 3
_DATA, _STOLEN = 0xDA7A, 0x5EC2E7
_FROZEN = 0x5A0
"""FROZEN_SPTE of Linux: not present, and nobody but its owner may write over it (facts C4)."""
_BLOCK = Range(G, G + span(1))


def _secret_forbidden(outcome: Outcome) -> str:
    """Somebody's data in the place of the table was taken for a table."""
    if read_of(_STOLEN)(outcome):
        return "the walker read the freed page as a table: the device got a page that was never mapped"
    return ""


def _device(accesses: int = 2) -> Agent[None]:
    for _ in range(accesses):
        yield from access("read", G + _PAGE * PAGE)


def _memory(words: dict[int, int]) -> SparseMem:
    return SparseMem(words | {A + _PAGE * PAGE: _DATA, SECRET: _STOLEN})


@litmus(
    id="L09",
    seed="S1",
    title="a table is merged into a large page, its own page is freed and holds other data",
    forbidden="the walker reads the freed page as a table, or an access is refused",
    twin="the invalidation has IH=1, which keeps cached pointers (RFC bug B2)",
)
def collapse_reuse(twin: bool, case: str) -> Scenario:
    """H1: after table to leaf the pointer may still be cached; only IH=0 takes it."""

    def software() -> Agent[None]:
        update = yield from merge(new_table(), G, 1)
        assert update.status is Status.DONE
        assert not update.keep_pointers
        yield from Queue().invalidate(_BLOCK, ih=twin)
        yield Store(child_entry(_PAGE), leaf(SECRET))  # the next owner's data, which happen to look like a leaf

    def forbidden(outcome: Outcome) -> str:
        refused = faults(outcome)
        return f"a device was refused ({refused[0]})" if refused else _secret_forbidden(outcome)

    return Scenario(
        {"software": software, "device": _device},
        _memory(small_table()),
        forbidden,
        (iommu(),),
        covers={"a read": read_of(_DATA)},
        names=NAMES,
    )


@litmus(
    id="L10",
    seed="S1",
    title="KVM recovers a huge page while a device that cannot take faults streams",
    forbidden="an access is refused, although its address was mapped all the time",
    twin="children are frozen right after the exchange and flushed later, as Linux 6.13 does (MERGE-FROZEN)",
)
def recover_frozen(twin: bool, case: str) -> Scenario:
    """H11: the old children have to stay until no walker and no cache can reach them.

    For a device with page requests the outcome would be one request, answered with Success.
    """
    children = (2, _PAGE, 4)

    def software() -> Agent[None]:
        update = yield from merge(new_table(), G, 1)
        assert update.status is Status.DONE
        if not twin:
            yield from Queue().invalidate(_BLOCK, ih=False)
        for number in children:
            yield Store(child_entry(number), _FROZEN)
        if twin:
            yield from Queue().invalidate(_BLOCK, ih=False)

    def forbidden(outcome: Outcome) -> str:
        refused = faults(outcome)
        return f"a device was refused ({refused[0]})" if refused else ""

    return Scenario(
        {"software": software, "device": _device},
        _memory(small_table()),
        forbidden,
        (iommu(),),
        covers={"a read": read_of(_DATA)},
        names=NAMES,
    )


@litmus(
    id="L11",
    seed="S1",
    title="a walk has read a pointer and stalls; the table is unlinked, invalidated, freed and used again",
    forbidden="the walk goes on with the new contents of the freed page",
    twin="an invalidation does not restart the walks in flight that hold old entries (K9=0)",
)
def unlink_walk(twin: bool, case: str) -> Scenario:
    """H2: what a walk consumed before the invalidation may not be used after it."""
    params = replace(PARAMS, walk_drain=not twin)

    def software() -> Agent[None]:
        update = yield from unmap_range(new_table(), G, span(1))
        assert update.status is Status.DONE
        yield from Queue().invalidate(_BLOCK, ih=False)
        yield Store(child_entry(_PAGE), leaf(SECRET))

    return Scenario(
        {"software": software, "device": _device},
        _memory(small_table((_PAGE,))),
        _secret_forbidden,
        (iommu(params),),
        covers={"a read": read_of(_DATA), "a fault": lambda outcome: bool(faults(outcome))},
        names=NAMES,
    )
