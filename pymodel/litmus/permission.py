"""Entries that grant more than before: L42, L43 (facts F3 U1 and U9, F4 H5, K3, K6)."""

from dataclasses import replace

from pymodel.effects import Agent, Store, WaitFor
from pymodel.explore import Fault, Outcome
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.machine import (
    NAMES,
    PARAMS,
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
from pymodel.paging.geometry import PAGE, Range
from pymodel.paging.update import map_range, protect

__all__ = ["negative_caching", "rights_loop"]

_DATA, _WRITTEN = 0xDA7A, 0x3A17E
_MAILBOX = 0x12_0000
"""Words through which agents talk: requests of the device at +0, answers at +8."""
_RANGE = Range(G, G + PAGE)
_RETRIES = 3


@litmus(
    id="L42",
    seed="any",
    title="an address is mapped that a device missed before, with caching mode (K3)",
    forbidden="an access after the mapping was announced is refused",
    twin="the IOMMU caches not-present entries and software does not invalidate",
    cases=("not-present cached, invalidated", "not-present never cached, not invalidated"),
    twins=("not-present cached, not invalidated",),
)
def negative_caching(twin: bool, case: str) -> Scenario:
    """U1: empty to leaf needs an invalidation only where not-present entries may be cached."""
    params = replace(PARAMS, np_cache="never" not in case)

    def software() -> Agent[None]:
        yield from map_range(new_table(), G, A, PAGE)
        if "not invalidated" not in case:
            yield from Queue().invalidate(_RANGE, ih=False)
        yield Store(_MAILBOX, 1)

    def device() -> Agent[None]:
        yield from access("early", G)
        yield WaitFor(_MAILBOX, 1, 1)
        yield from access("read", G)

    def forbidden(outcome: Outcome) -> str:
        late = [seen["fault"] for seen in outcome.named("read") if "fault" in seen]
        return f"the access after the mapping was refused ({late[0]})" if late else ""

    return Scenario(
        {"software": software, "device": device},
        SparseMem(small_table(()) | {A: _DATA}),
        forbidden,
        (iommu(params),),
        covers={"an early fault": lambda outcome: bool(faults(outcome)), "a late read": read_of(_DATA)},
        names=NAMES,
    )


@litmus(
    id="L43",
    seed="S1",
    title="a page request makes a read-only page writable and the device tries again",
    forbidden=f"the device is refused again after each of {_RETRIES} requests that were answered with Success",
    twin="nothing is invalidated and the IOMMU does not walk again for rights (K6=0, K7=0)",
    cases=("invalidated before the answer", "walked again for rights (K6)"),
)
def rights_loop(twin: bool, case: str) -> Scenario:
    """U9: a cached leaf without the right outlives the store that grants it."""
    params = replace(PARAMS, rewalk_on_perm=case.startswith("walked"))

    def software() -> Agent[None]:
        queue, table = Queue(), new_table()
        for number in range(1, _RETRIES + 1):
            yield WaitFor(_MAILBOX, 0xFF, number)
            yield from protect(table, G, PAGE, r=True, w=True)
            if case.startswith("invalidated"):
                yield from queue.invalidate(_RANGE, ih=True)
            yield Store(_MAILBOX + 8, number)  # Success

    def device() -> Agent[None]:
        yield from access("read", G)
        for number in range(1, _RETRIES + 1):
            answer = yield from access("write", G, True, _WRITTEN)
            if not isinstance(answer, Fault):
                return
            yield Store(_MAILBOX, number)
            yield WaitFor(_MAILBOX + 8, 0xFF, number)
        yield from access("last write", G, True, _WRITTEN)

    def forbidden(outcome: Outcome) -> str:
        if any("fault" in seen for seen in outcome.named("last write")):
            return f"the write was refused after {_RETRIES} requests that were answered with Success"
        return ""

    memory = SparseMem(small_table(()) | {child_entry(0): leaf(A, w=False), A: _DATA})
    return Scenario(
        {"software": software, "device": device},
        memory,
        forbidden,
        (iommu(params),),
        {"page": A},
        {"a write": lambda outcome: outcome.word("page") == _WRITTEN},
        servers=("software",),
        names=NAMES,
    )
