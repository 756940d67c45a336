"""The architectural IOMMU as a participant: walker steps, caches, invalidation queue.

Written from the facts alone (F1, B3; K1, K2, K3, K6, K8, K9, K11). A device agent yields `Dma` or `Prefetch`.
Its walk takes one step for each entry that is read, one to fill and answer, one to reach memory. At the start
it uses any cached entry, of any size or level, or none. The queue fetches a descriptor in one step, which is
when everything read before becomes old, and completes it in a later one, by when what is old is gone.

Devices are attached for good: context and PASID structures are not walked, invalidations of their caches do
nothing. Registers: IQT (written), IQT, IQH and GSTS (read).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pymodel.effects import ReadRegister, WriteRegister
from pymodel.explore.iommu_state import Cached, Flight, Held, IommuState, Walk, finish, submit
from pymodel.explore.labels import Names
from pymodel.explore.unit import Pending, Resource, UnitMove
from pymodel.iommu.queue import IotlbInvalidation, Wait, decode
from pymodel.memory import SparseMem
from pymodel.paging.formats import Kind, SecondStage
from pymodel.paging.geometry import entry_address, span, width
from pymodel.spec.descriptors import IOTLB_INV, DescriptorType
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import GCMD, REGISTERS
from pymodel.spec.second_stage import LEVEL_NAMES

__all__ = ["FLAWS", "Attachment", "Dma", "Fault", "IommuAgent", "Prefetch"]

FLAWS = frozenset({"no_drain", "wait_overtakes", "fence_ignored"})
"""Defects that a broken twin may have: waits that do not drain DMA, waits that complete before invalidations
ahead of them, descriptors that start before the fence ahead of them."""

_IQT, _IQH, _GSTS = (REGISTERS[name].offset for name in ("IQT", "IQH", "GSTS"))
_QUEUE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Dma:
    """An untranslated access of a device to the 64-bit word at `iova`.

    A read is answered with the word, a write with None, and a refused access with a `Fault`.
    """

    sid: int
    iova: int
    write: bool = False
    value: int = 0


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A translation that nobody asked for (facts F1, A3): it may fill caches, and is answered with None."""

    sid: int
    iova: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Why an access was refused."""

    reason: Reason

    def __str__(self) -> str:
        return self.reason.name


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the context structures say about a device."""

    did: int
    root: int
    levels: int


class IommuAgent:
    """See the module; a `Unit` of the explorer."""

    def __init__(
        self,
        params: IommuParams,
        devices: Mapping[int, Attachment],
        queue: int,
        *,
        flaws: Collection[str] = (),
        names: Names | None = None,
    ) -> None:
        """`queue`: address of the page with 128-bit descriptors; `names`: of words of memory, for schedules.

        Raises `ValueError` for an unknown flaw.
        """
        if not FLAWS.issuperset(flaws):
            raise ValueError(f"flaws must be among {', '.join(sorted(FLAWS))}, not {', '.join(sorted(flaws))}")
        self.params = params
        self.devices = dict(devices)
        self.queue = queue
        self.flaws = frozenset(flaws)
        self.name = "iommu"
        self._names = names or Names()
        self.threads = ("queue",)
        self._format = SecondStage.of(params)
        self._agents = 0

    def start(self, agents: int) -> IommuState:
        """See `Unit`."""
        self._agents = agents
        nobody = (None,) * agents
        return IommuState(nobody, nobody)

    def takes(self, effect: object) -> bool:
        """See `Unit`."""
        return isinstance(effect, Dma | Prefetch | WriteRegister | ReadRegister)

    # --- resources: ("iommu", what, agent) -----------------------------------------------------------------

    def _all(self, what: str) -> set[Resource]:
        return {("iommu", what, who) for who in range(self._agents)}

    # --- registers -----------------------------------------------------------------------------------------

    def _register(self, effect: WriteRegister | ReadRegister, state: IommuState) -> Pending:
        if isinstance(effect, WriteRegister):
            if effect.offset != _IQT:
                raise ValueError(f"register {effect.offset:#x} must be IQT under the explorer")
            label = f"doorbell IQT = {effect.value:#x}"
            move = UnitMove(label, state._replace(tail=effect.value), answer=None)
            return Pending(frozenset(), frozenset({("iommu", "tail")}), (move,))
        values = {_IQT: state.tail, _IQH: state.completed * 16 % _QUEUE_BYTES, _GSTS: GCMD.pack(te=1, qie=1)}
        if effect.offset not in values:
            raise ValueError(f"register {effect.offset:#x} must be IQT, IQH or GSTS under the explorer")
        value = values[effect.offset]
        reads: frozenset[Resource] = frozenset({("iommu", "tail"), ("iommu", "head")})
        move = UnitMove(f"register {effect.offset:#x} -> {value:#x}", state, answer=value)
        return Pending(reads, frozenset(), (move,))

    # --- accesses ------------------------------------------------------------------------------------------

    def agent_moves(self, who: int, effect: Any, state: IommuState, memory: SparseMem) -> Pending:
        """See `Unit`."""
        if isinstance(effect, WriteRegister | ReadRegister):
            return self._register(effect, state)
        flight, walk = state.flights[who], state.walks[who]
        if flight is not None:
            return self._reach_memory(who, effect, state, memory, flight)
        if walk is not None and walk.found.kind == "leaf":
            return self._answer(who, effect, state, walk.found)
        if walk is not None:
            address, move = self._read(who, effect, state, memory, walk.found)
            mine: frozenset[Resource] = frozenset({("iommu", "walk", who)})
            return Pending(mine | {address}, mine, (move,))
        return self._look_up(who, effect, state, memory)

    def _look_up(self, who: int, effect: Dma | Prefetch, state: IommuState, memory: SparseMem) -> Pending:
        """Anything cached may be used, or nothing (facts F1, A2)."""
        device = self.devices[effect.sid]
        mine: Resource = ("iommu", "walk", who)
        if effect.iova >> width(device.levels):
            move = self._refuse(who, effect, state, Reason.SM_ADDRESS_BEYOND_WIDTH, "width")
            return Pending(frozenset(), frozenset(), (move,))
        root = Cached("table", device.did, device.levels, 0, device.root, True, True)
        usable = sorted(
            entry
            for entry in state.cache
            if entry.did == device.did and entry.start == effect.iova & -span(entry.level)
        )
        reads: set[Resource] = self._all("walk")
        moves: list[UnitMove] = []
        for entry in (root, *usable):
            if entry.kind == "table":
                address, move = self._read(who, effect, state, memory, entry)
                reads.add(address)
                moves.append(move)
            elif entry.kind == "absent":
                moves.append(self._refuse(who, effect, state, Reason.SM_ENTRY_NOT_PRESENT, "cached not-present"))
            elif self._allowed(effect, entry):
                moves.append(self._translated(who, effect, state, entry, "hits"))
            elif not self.params.rewalk_on_perm:  # with K6 the walk above is all that is left
                moves.append(self._refuse(who, effect, state, _denied(effect), "cached rights"))
        return Pending(frozenset(reads), frozenset({mine, ("iommu", "dma", who)}), tuple(dict.fromkeys(moves)))

    def _read(
        self, who: int, effect: Dma | Prefetch, state: IommuState, memory: SparseMem, pointer: Cached
    ) -> tuple[int, UnitMove]:
        """Read the entry below `pointer`: where it is, and what comes of it."""
        level = pointer.level - 1
        address = entry_address(pointer.address, effect.iova, level)
        if not memory.readable(address):
            return address, self._refuse(who, effect, state, Reason.SM_TABLE_ACCESS, f"{LEVEL_NAMES[level]} access")
        word = memory.load(address)
        entry = self._format.classify(word, level)
        seen = f"{LEVEL_NAMES[level]} {self._names.word(address)} = {self._names.value(address, word)}"
        start, tag = effect.iova & -span(level), pointer.tag
        if entry.kind is Kind.EMPTY:
            if self.params.np_cache:
                state = _filled(state, Cached("absent", pointer.did, level, start, 0, False, False, tag))
            return address, self._refuse(who, effect, state, Reason.SM_ENTRY_NOT_PRESENT, seen)
        r, w = pointer.r and entry.r, pointer.w and entry.w
        if entry.kind is Kind.RESERVED:  # rights are looked at first (facts J)
            allowed = self._allowed(effect, pointer._replace(r=r, w=w))
            reason = Reason.SM_ENTRY_RESERVED if allowed else _denied(effect)
            return address, self._refuse(who, effect, state, reason, seen)
        kind = "leaf" if entry.kind is Kind.LEAF else "table"
        found = Cached(kind, pointer.did, level, start, entry.address, r, w, tag)
        if kind == "table":
            state = _filled(state, found)
        if not self._allowed(effect, found):
            if kind == "leaf":
                state = _filled(state, found)
            return address, self._refuse(who, effect, state, _denied(effect), seen)
        return address, UnitMove(f"walk: {seen}", _walking(state, who, Walk(found)))

    def _answer(self, who: int, effect: Dma | Prefetch, state: IommuState, leaf: Cached) -> Pending:
        mine: frozenset[Resource] = frozenset({("iommu", "walk", who), ("iommu", "dma", who)})
        return Pending(mine, mine, (self._translated(who, effect, _filled(state, leaf), leaf, "fills"),))

    def _translated(self, who: int, effect: Dma | Prefetch, state: IommuState, leaf: Cached, how: str) -> UnitMove:
        address = leaf.address + (effect.iova & (span(leaf.level) - 1))
        text = f"{how} {effect.iova:#x} -> {self._names.word(address)}"
        state = _walking(state, who, None)
        if isinstance(effect, Prefetch):
            return UnitMove(f"prefetch {text}", state, answer=None)
        return UnitMove(text, _flying(state, who, Flight(leaf, address, effect.write)))

    def _reach_memory(self, who: int, effect: Dma, state: IommuState, memory: SparseMem, flight: Flight) -> Pending:
        word = flight.address & ~7
        mine: frozenset[Resource] = frozenset({("iommu", "dma", who)})
        done = _flying(state, who, None)
        if effect.write:
            label = f"DMA write {self._names.word(word)} = {self._names.value(word, effect.value)}"
            move = UnitMove(label, done, ((word, effect.value),), None)
            return Pending(mine, mine | {word}, (move,))
        value = memory.load(word)
        label = f"DMA read {self._names.word(word)} -> {self._names.value(word, value)}"
        return Pending(mine | {word}, mine, (UnitMove(label, done, (), value),))

    def _refuse(self, who: int, effect: Dma | Prefetch, state: IommuState, reason: Reason, why: str) -> UnitMove:
        answer = None if isinstance(effect, Prefetch) else Fault(reason)
        return UnitMove(f"refused: {why}", _walking(state, who, None), answer=answer)

    def _allowed(self, effect: Dma | Prefetch, entry: Cached) -> bool:
        if isinstance(effect, Prefetch):
            return True
        return entry.w if effect.write else entry.r

    # --- the invalidation queue ----------------------------------------------------------------------------

    def own_position(self, which: int, state: IommuState) -> int:
        """See `Unit`."""
        return state.fetched + state.completed

    def own_moves(self, which: int, state: IommuState, memory: SparseMem) -> Pending:
        """Fetch the next descriptor, or complete one of those that were fetched."""
        reads: set[Resource] = {("iommu", "tail")}
        writes: set[Resource] = set()
        moves: list[UnitMove] = []
        if state.error:
            return Pending(frozenset(), frozenset(), ())
        if state.fetched * 16 % _QUEUE_BYTES != state.tail and self._may_fetch(state):
            address = self.queue + state.fetched * 16 % _QUEUE_BYTES
            reads |= {address, address + 8}
            word = memory.load(address) | memory.load(address + 8) << 64
            moves.append(self._fetch(state, word))
            writes |= self._all("walk") | self._all("dma")
        for held in state.held:
            move = self._complete(state, memory, held)
            kind = decode(held.word, self.params)
            writes.add(("iommu", "head"))
            if isinstance(kind, Wait):
                reads |= self._all("dma")
                if kind.status_write:
                    writes.add(kind.address & ~7)
            else:
                writes |= self._all("walk")
            if move is not None:
                moves.append(move)
        return Pending(frozenset(reads | writes), frozenset(writes), tuple(moves))

    def _may_fetch(self, state: IommuState) -> bool:
        """In order one by one; with K11 up to a fence."""
        if not state.held:
            return True
        if not (self.params.inv_reorder or "wait_overtakes" in self.flaws):
            return False
        if "fence_ignored" in self.flaws:
            return True
        kinds = [decode(held.word, self.params) for held in state.held]
        return not any(isinstance(kind, Wait) and kind.fence for kind in kinds)

    def _fetch(self, state: IommuState, word: int) -> UnitMove:
        kind = decode(word, self.params)
        if isinstance(kind, str):
            return UnitMove(f"queue error: {kind}", state._replace(error=kind, fetched=state.fetched + 1))
        number = state.fetched
        if isinstance(kind, IotlbInvalidation):
            always = self.params.drain_always or word & 15 == DescriptorType.PASID_IOTLB
            drain = (always or bool(IOTLB_INV.get(word, "dr")), always or bool(IOTLB_INV.get(word, "dw")))
            state = submit(self.params, state, kind, number, drain)
        state = state._replace(fetched=number + 1, held=(*state.held, Held(number, word)))
        return UnitMove(f"fetch {number}: {_describe(kind)}", state)

    def _complete(self, state: IommuState, memory: SparseMem, held: Held) -> UnitMove | None:
        """Complete a descriptor, or None where it has to wait."""
        kind = decode(held.word, self.params)
        after = state._replace(
            held=tuple(other for other in state.held if other is not held), completed=state.completed + 1
        )
        label = f"complete {held.number}"
        if isinstance(kind, Wait):
            ahead = [other for other in state.held if other.number < held.number]
            if "wait_overtakes" not in self.flaws and any(
                not isinstance(decode(other.word, self.params), Wait) for other in ahead
            ):
                return None
            old = (1 << held.number) - 1
            if "no_drain" not in self.flaws and any(flight and flight.found.tag & old for flight in state.flights):
                return None
            if not kind.status_write:
                return UnitMove(f"{label} (wait)", after)
            shift = 8 * (kind.address & 4)
            word = memory.load(kind.address & ~7) & ~(0xFFFF_FFFF << shift) | kind.data << shift
            return UnitMove(f"{label} (wait): {self._names.word(kind.address & ~7)} = {kind.data:#x}", after,
                            ((kind.address & ~7, word),))  # fmt: skip
        if isinstance(kind, IotlbInvalidation):
            after = finish(after, held.number, self.params.walk_drain)
        return UnitMove(label, after)


def _denied(effect: Dma | Prefetch) -> Reason:
    write = isinstance(effect, Dma) and effect.write
    return Reason.SM_WRITE_DENIED if write else Reason.SM_READ_DENIED


def _describe(kind: Any) -> str:
    if isinstance(kind, IotlbInvalidation):
        where = f" {kind.address:#x} AM={kind.am} IH={int(kind.ih)}" if kind.granularity == 3 else ""
        return f"IOTLB {kind.granularity.name.lower()} did {kind.did}{where}"
    if isinstance(kind, Wait):
        return f"wait{' FN' if kind.fence else ''}"
    return type(kind).__name__


def _filled(state: IommuState, entry: Cached) -> IommuState:
    return state if entry in state.cache else state._replace(cache=state.cache | {entry})


def _walking(state: IommuState, who: int, walk: Walk | None) -> IommuState:
    return state._replace(walks=(*state.walks[:who], walk, *state.walks[who + 1 :]))


def _flying(state: IommuState, who: int, flight: Flight | None) -> IommuState:
    return state._replace(flights=(*state.flights[:who], flight, *state.flights[who + 1 :]))
