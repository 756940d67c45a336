"""Memslots: guest ranges over host addresses, their huge-page limits and dirty bitmaps (facts C0; kvm_main.c)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from pymodel.kvm.spte import pages

__all__ = ["LOG_DIRTY", "READONLY", "GEN_STEP", "Memslot", "Memslots"]

LOG_DIRTY = 1
READONLY = 2
GEN_STEP = 2
"""A change of the slots raises the generation by KVM_ADDRESS_SPACE_NUM."""


@dataclass(slots=True)
class Memslot:
    """One slot; an update makes a new object, as in KVM."""

    ident: int
    base_gfn: int
    npages: int
    hva: int
    flags: int
    as_id: int = 0
    invalid: bool = False
    """Being deleted or moved (KVM_MEMSLOT_INVALID)."""
    dirty: set[int] = field(default_factory=set)
    """Dirty bitmap: page offsets in the slot."""
    write_tracked: dict[int, int] = field(default_factory=dict)
    """Write-tracked gfns with their counts (facts C1 step 1)."""

    @property
    def end_gfn(self) -> int:
        """First gfn behind the slot."""
        return self.base_gfn + self.npages

    @property
    def logging(self) -> bool:
        """kvm_slot_dirty_track_enabled."""
        return bool(self.flags & LOG_DIRTY)

    @property
    def readonly(self) -> bool:
        """memslot_is_readonly."""
        return bool(self.flags & READONLY)

    def hva_of(self, gfn: int) -> int:
        """__gfn_to_hva_memslot."""
        return self.hva + ((gfn - self.base_gfn) << 12)

    def lpage_disallowed(self, gfn: int, level: int) -> bool:
        """lpage_info: the slot's edges, the offset of gfn against hva, and write-tracked pages forbid it."""
        span = pages(level)
        if (self.base_gfn ^ self.hva >> 12) & span - 1:
            return True
        start = gfn & ~(span - 1)
        if start < self.base_gfn or start + span > self.end_gfn:
            return True
        return any(start <= tracked < start + span for tracked in self.write_tracked)


class Memslots:
    """The slots of all address spaces, by id, by gfn and by host address."""

    def __init__(self) -> None:
        self.generation = 0
        self._slots: dict[tuple[int, int], Memslot] = {}
        self._by_hva: list[Memslot] = []

    def __iter__(self) -> Iterator[Memslot]:
        return iter(self._by_hva)

    def get(self, ident: int, as_id: int = 0) -> Memslot | None:
        """The slot with this id."""
        return self._slots.get((as_id, ident))

    def find(self, gfn: int, as_id: int = 0) -> Memslot | None:
        """The slot that holds `gfn`."""
        for slot in self._slots.values():
            if slot.as_id == as_id and slot.base_gfn <= gfn < slot.base_gfn + slot.npages:
                return slot
        return None

    def in_hva_range(self, start: int, end: int, as_id: int = 0) -> list[tuple[Memslot, int, int]]:
        """(slot, first gfn, end gfn) of every slot that `start`..`end` touches, in the interval tree's order."""
        found = []
        for slot in self._by_hva:
            low, high = max(start, slot.hva), min(end, slot.hva + (slot.npages << 12))
            if slot.as_id == as_id and low < high:
                first = slot.base_gfn + ((low - slot.hva) >> 12)
                last = slot.base_gfn + ((high + 0xFFF - slot.hva) >> 12)
                found.append((slot, first, last))
        return found

    def install(self, slot: Memslot) -> None:
        """Put a new or changed slot in (kvm_replace_memslot); equal host addresses keep the order of insertion."""
        self._drop(slot.ident, slot.as_id)
        self._slots[(slot.as_id, slot.ident)] = slot
        position = len(self._by_hva)
        while position and self._by_hva[position - 1].hva > slot.hva:
            position -= 1
        self._by_hva.insert(position, slot)
        self.generation += GEN_STEP

    def remove(self, ident: int, as_id: int = 0) -> None:
        """Take a slot out."""
        self._drop(ident, as_id)
        self.generation += GEN_STEP

    def _drop(self, ident: int, as_id: int) -> None:
        old = self._slots.pop((as_id, ident), None)
        if old is not None:
            self._by_hva = [slot for slot in self._by_hva if slot is not old]
