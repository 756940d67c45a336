"""Swap space: slots of 4 KiB in a memory of their own, as zram has them, and the swap cache (mm/swapfile.c)."""

from dataclasses import dataclass

from pymodel.host.errors import DoubleFree, OutOfMemory
from pymodel.host.frames import Folio

__all__ = ["Slot", "Swap"]


@dataclass(slots=True, eq=False)
class Slot:
    """One slot in use. `frame` is where its 4 KiB lie in memory, outside of what `Frames` gives out."""

    number: int
    frame: int
    refs: int = 0
    """Swap entries and page caches that name it."""
    folio: Folio | None = None
    """Swap cache: the page is still in memory, or again; whoever names the slot gets this page."""
    offset: int = 0
    """Which 4K page of `folio` it is."""

    def attach(self, folio: Folio, offset: int) -> None:
        """add_to_swap_cache; the folio's slots together hold one reference of it."""
        if not folio.slots:
            folio.refs += 1
        folio.slots[offset] = self
        self.folio, self.offset = folio, offset

    def detach(self) -> Folio | None:
        """delete_from_swap_cache: the folio if its reference for the swap cache is to be dropped now."""
        folio, self.folio = self.folio, None
        if folio is None:
            return None
        del folio.slots[self.offset]
        return None if folio.slots else folio


class Swap:
    """`count` slots whose contents lie at the frames from `base`."""

    def __init__(self, base: int, count: int) -> None:
        self.base, self.count = base, count
        self._slots: dict[int, Slot] = {}
        self._free: list[int] = []
        self._next = 0

    @property
    def used(self) -> int:
        """Slots in use."""
        return len(self._slots)

    def allocate(self) -> Slot:
        """A slot without references. Raises `OutOfMemory`."""
        if self._free:
            number = self._free.pop()
        elif self._next < self.count:
            number, self._next = self._next, self._next + 1
        else:
            raise OutOfMemory(f"all {self.count} swap slots are used")
        slot = self._slots[number] = Slot(number, self.base + number)
        return slot

    def slot(self, number: int) -> Slot:
        """The slot with this number. Raises `DoubleFree` if it is not in use."""
        slot = self._slots.get(number)
        if slot is None:
            raise DoubleFree(f"swap slot {number} is not in use")
        return slot

    def release(self, slot: Slot) -> None:
        """Give back a slot that nothing names any more. Raises `DoubleFree`."""
        if self._slots.get(slot.number) is not slot or slot.refs or slot.folio is not None:
            raise DoubleFree(f"swap slot {slot.number} is free already, or in use by {slot.refs}")
        del self._slots[slot.number]
        self._free.append(slot.number)

    def slots(self) -> tuple[Slot, ...]:
        """Every slot in use."""
        return tuple(self._slots.values())
