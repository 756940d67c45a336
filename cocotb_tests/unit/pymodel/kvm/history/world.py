"""What the guest should see, kept without any page-table entry: the oracle of the random histories.

The host is a dictionary of pages, the memslots are a dictionary of ranges. While an operation on the slots is under
way the world has two views, before and after; anything that either allows is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pymodel.kvm.memslots import GUEST_MEMFD, LOG_DIRTY, READONLY

__all__ = ["BLOCK", "HUGE_BLOCKS", "Page", "Slot", "View", "World"]

BLOCK = 512
"""4K pages of a huge one."""
HUGE_BLOCKS = 16
"""Blocks of host memory that slots can show."""
_GMEM = 1 << 26
"""First frame of guest_memfd: page n of it is backed by this frame plus n until it is punched."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the host: its frame, whether a write must copy it first, whether a write is refused."""

    frame: int
    copy: bool = False
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class Slot:
    """A memslot: first gfn, pages, first host page."""

    base: int
    npages: int
    host: int
    flags: int

    def page(self, gfn: int) -> int | None:
        """Page of the slot at `gfn`, None outside."""
        return gfn - self.base if self.base <= gfn < self.base + self.npages else None


@dataclass(frozen=True, slots=True)
class View:
    """What is set up: slots by (address space, id), private gfns, gfns of address space 0 whose writes are tracked."""

    slots: dict[tuple[int, int], Slot] = field(default_factory=dict)
    private: frozenset[int] = frozenset()
    tracked: frozenset[int] = frozenset()

    def find(self, gfn: int, as_id: int) -> tuple[tuple[int, int], Slot] | None:
        """Key and slot at `gfn`."""
        for key, slot in self.slots.items():
            if key[0] == as_id and slot.page(gfn) is not None:
                return key, slot
        return None

    def with_slot(self, key: tuple[int, int], slot: Slot | None) -> "View":
        """This view with one slot changed, or taken out; a slot that goes or moves forgets what was tracked in it."""
        slots = {other: kept for other, kept in self.slots.items() if other != key}
        before, tracked = self.slots.get(key), self.tracked
        if before is not None and key[0] == 0 and (slot is None or slot.base != before.base):
            tracked = frozenset(gfn for gfn in tracked if before.page(gfn) is None)
        return replace(self, slots=slots if slot is None else {**slots, key: slot}, tracked=tracked)

    def is_tracked(self, gfn: int, as_id: int) -> bool:
        """Whether KVM must see writes there."""
        return as_id == 0 and gfn in self.tracked


class World:
    """Host pages, views and the writes that no dirty log has reported yet."""

    def __init__(self) -> None:
        self.views = [View()]
        self.pages: dict[int, Page] = {}
        """4K pages by host page number."""
        self.blocks: dict[int, Page] = {}
        """Huge ones by their first."""
        self.gmem: dict[int, int] = {}
        """Frames of guest_memfd pages that were punched and came again."""
        self.unreported: dict[tuple[int, int], set[int]] = {}
        """Pages of each slot that a guest wrote since they were last reported."""
        self.changes = 0
        """Grows where a change of the private or the tracked gfns begins and where it ends."""
        self.prefers_huge: set[int] = set()
        """Blocks that the host fills with huge pages."""
        self._next = 1 << 20

    @property
    def view(self) -> View:
        """What is set up now, or was before the operation that is under way."""
        return self.views[0]

    def _fresh(self, count: int) -> int:
        first = -(-self._next // count) * count
        self._next = first + count
        return first

    def lookup(self, page: int) -> tuple[Page, int] | None:
        """The host's page at `page` and its level."""
        block = page & -BLOCK
        if block in self.blocks:
            whole = self.blocks[block]
            return replace(whole, frame=whole.frame + page - block), 2
        return (self.pages[page], 1) if page in self.pages else None

    def fill(self, page: int) -> None:
        """Fault a page in; a huge one where the host prefers that and nothing is in its way."""
        block = page & -BLOCK
        if block in self.prefers_huge and not any(block <= other < block + BLOCK for other in self.pages):
            self.blocks[block] = Page(self._fresh(BLOCK))
        else:
            self.pages[page] = Page(self._fresh(1))

    def split(self, block: int) -> None:
        """4K pages with the frames of a huge one (split_huge_pmd)."""
        whole = self.blocks.pop(block, None)
        if whole is not None:
            self.pages.update({block + index: replace(whole, frame=whole.frame + index) for index in range(BLOCK)})

    def _split_at(self, first: int, count: int) -> None:
        for block in {page & -BLOCK for page in (first, first + count - 1)}:
            if not (first <= block and block + BLOCK <= first + count):
                self.split(block)

    def _in(self, first: int, count: int) -> Iterator[tuple[dict[int, Page], int]]:
        self._split_at(first, count)
        for where in (self.pages, self.blocks):
            for page in [page for page in where if first <= page < first + count]:
                yield where, page

    def drop(self, first: int, count: int) -> None:
        """MADV_DONTNEED."""
        for where, page in self._in(first, count):
            del where[page]

    def move(self, first: int, count: int) -> None:
        """Migration, or a copy: the same pages in other frames, writable."""
        for where, page in self._in(first, count):
            where[page] = Page(self._fresh(BLOCK if where is self.blocks else 1), refuses=where[page].refuses)

    def protect(self, first: int, count: int, *, copy: bool = False, refuses: bool = False) -> None:
        """fork (a write copies) or mprotect (a write is refused)."""
        for where, page in self._in(first, count):
            where[page] = replace(where[page], copy=copy, refuses=refuses)

    def collapse(self, block: int) -> None:
        """khugepaged: one huge page in new frames where every page was writable."""
        held = [page for page in self.pages if block <= page < block + BLOCK]
        if block not in self.blocks and not any(self.pages[page] != Page(self.pages[page].frame) for page in held):
            for page in held:
                del self.pages[page]
            self.blocks[block] = Page(self._fresh(BLOCK))

    def gmem_frame(self, slot: Slot, gfn: int) -> int:
        """Frame of guest_memfd."""
        page = slot.host + gfn - slot.base
        return self.gmem.get(page, _GMEM + page)

    def punch(self, slot: Slot, first: int, count: int) -> None:
        """Pages of guest_memfd leave; the next access finds new ones."""
        for page in range(slot.host + first, slot.host + first + count):
            self.gmem[page] = self._fresh(1)

    # --- what is right -------------------------------------------------------------------------------------

    def frames(self, gfn: int, as_id: int) -> set[tuple[int | None, bool]]:
        """(frame, whether it may be written) as the views have it; frame None: no memory is there."""
        found: set[tuple[int | None, bool]] = set()
        for view in self.views:
            owner = view.find(gfn, as_id)
            if owner is None:
                found.add((None, False))
                continue
            slot = owner[1]
            if gfn in view.private:
                found.add((self.gmem_frame(slot, gfn), True) if slot.flags & GUEST_MEMFD else (None, False))
                continue
            here = self.lookup(slot.host + gfn - slot.base)
            if here is not None:
                page = here[0]
                writable = not (page.copy or page.refuses or slot.flags & READONLY or view.is_tracked(gfn, as_id))
                found.add((page.frame, writable))
        return found

    def is_memory(self, gfn: int, as_id: int) -> set[bool]:
        """Whether the views have a slot there."""
        return {view.find(gfn, as_id) is not None for view in self.views}

    def emulates_writes(self, gfn: int, as_id: int) -> bool:
        """Whether a view has read-only or tracked memory there."""
        owners = [(view, view.find(gfn, as_id)) for view in self.views]
        return any(own is not None and (own[1].flags & READONLY or view.is_tracked(gfn, as_id)) for view, own in owners)

    def misses_private(self, gfn: int, as_id: int) -> bool:
        """Whether a view wants private memory where no guest_memfd is, or no slot at all."""
        owners = [(view, view.find(gfn, as_id)) for view in self.views]
        return any(gfn in view.private and (own is None or not own[1].flags & GUEST_MEMFD) for view, own in owners)

    def written(self, gfn: int, as_id: int) -> None:
        """A guest's write took effect: the log must say so, if all views log this page."""
        owners = [view.find(gfn, as_id) for view in self.views]
        first = owners[0]
        if first is not None and all(own is not None and own[1].flags & LOG_DIRTY for own in owners):
            if all(own is not None and (own[0], own[1].base) == (first[0], first[1].base) for own in owners):
                self.unreported.setdefault(first[0], set()).add(gfn - first[1].base)
