"""State of the architectural IOMMU under the explorer, and what an invalidation covers (facts F1, B3, K1, K2, K9).

Caches only ever gain entries until an invalidation takes them: that an entry may have been evicted shows in
the walker being free not to use it.
"""

from typing import NamedTuple

from pymodel.iommu.queue import IotlbInvalidation
from pymodel.paging.geometry import PAGE, span
from pymodel.spec.descriptors import Granularity
from pymodel.spec.params import Architecture, IommuParams

__all__ = ["Cached", "Flight", "Held", "IommuState", "Walk", "covers", "finish", "submit"]


class Cached(NamedTuple):
    """An entry of the IOTLB or of a paging-structure cache."""

    kind: str
    """"leaf", "table" (a pointer) or "absent" (K3)."""
    did: int
    level: int
    """Of the entry that was read."""
    start: int
    """First IOVA of its span."""
    address: int
    r: bool
    w: bool
    tag: int = 0
    """Bit n: invalidation number n was submitted since this was read, and covers it."""


class Walk(NamedTuple):
    """A walk that has consumed something."""

    found: Cached
    """The last entry it used: a pointer to go on with, or the leaf to answer with."""


class Flight(NamedTuple):
    """A translated access on its way to memory."""

    found: Cached
    address: int
    write: bool


class Held(NamedTuple):
    """A descriptor that was fetched and not completed."""

    number: int
    word: int


class IommuState(NamedTuple):
    """All of it."""

    walks: tuple[Walk | None, ...]
    """By agent."""
    flights: tuple[Flight | None, ...]
    cache: frozenset[Cached] = frozenset()
    tail: int = 0
    """Bytes."""
    fetched: int = 0
    """Descriptors."""
    completed: int = 0
    held: tuple[Held, ...] = ()
    error: str = ""


def covers(params: IommuParams, inv: IotlbInvalidation, entry: Cached) -> bool:
    """Whether the invalidation has to take the entry (K1, K2).

    An absent entry above level 0 may stand for a missing table: it goes like a pointer (facts F3, U2).
    """
    if inv.granularity is Granularity.GLOBAL:
        return True
    if inv.did != entry.did:
        return False
    if inv.granularity is Granularity.DOMAIN:
        return True
    size = PAGE << inv.am
    first = inv.address & -size
    if first >= entry.start + span(entry.level) or entry.start >= first + size:
        return False
    pointer = entry.kind == "table" or (entry.kind == "absent" and entry.level > 0)
    if pointer and inv.ih:
        return False
    scope = params.psc_scope if pointer else params.inval_scope
    return scope is Architecture.VTD or span(entry.level) <= size


def _marked(params: IommuParams, inv: IotlbInvalidation, number: int, entry: Cached) -> Cached:
    return entry._replace(tag=entry.tag | 1 << number) if covers(params, inv, entry) else entry


def submit(
    params: IommuParams, state: IommuState, inv: IotlbInvalidation, number: int, drain: tuple[bool, bool]
) -> IommuState:
    """From here on nothing that is read anew is old; what was read before and is covered gets marked.

    `drain`: whether waits behind it wait for reads, and for writes, that use something marked (K8, DR, DW).
    """
    walks = tuple(walk and Walk(_marked(params, inv, number, walk.found)) for walk in state.walks)
    flights = tuple(
        flight._replace(found=_marked(params, inv, number, flight.found)) if flight and drain[flight.write] else flight
        for flight in state.flights
    )
    cache = frozenset(_marked(params, inv, number, entry) for entry in state.cache)
    return state._replace(walks=walks, flights=flights, cache=cache)


def finish(state: IommuState, number: int, restart: bool) -> IommuState:
    """The invalidation completes: marked entries are gone, marked walks start again (K9)."""
    bit = 1 << number

    def settled(walk: Walk | None) -> Walk | None:
        if walk is None or not walk.found.tag & bit:
            return walk
        return None if restart else Walk(walk.found._replace(tag=walk.found.tag & ~bit))

    cache = frozenset(entry for entry in state.cache if not entry.tag & bit)
    return state._replace(walks=tuple(map(settled, state.walks)), cache=cache)
