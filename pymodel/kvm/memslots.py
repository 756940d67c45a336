"""Memslots: guest ranges over host addresses, their huge-page limits and dirty bitmaps (facts C0; kvm_main.c)."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from pymodel.kvm.errors import EEXIST, EINVAL, ENOENT, KvmError
from pymodel.kvm.spte import pages
from pymodel.kvm.tracked_gfns import TrackedGfns

__all__ = ["ADDRESS_SPACES", "GEN_STEP", "GEN_UPDATING", "GUEST_MEMFD", "LOG_DIRTY", "READONLY", "USER_SLOTS",
           "Memslot", "Memslots"]  # fmt: skip

LOG_DIRTY = 1
READONLY = 2
GUEST_MEMFD = 4
"""KVM_MEM_GUEST_MEMFD: private pages of the slot come from guest memory of their own (facts C9)."""
ADDRESS_SPACES = 2
"""KVM_ADDRESS_SPACE_NUM: 0 is the guest's, 1 that of system management mode."""
GEN_STEP = ADDRESS_SPACES
"""A change of the slots raises their generation by this, so that no two address spaces ever have the same one."""
GEN_UPDATING = 1 << 63
"""KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS: in the generation while readers of the old slots are waited for; an MMIO entry
is good for nobody then, for a slot may have come where it is."""
USER_SLOTS = 0x7FFC
"""KVM_USER_MEM_SLOTS: ids below it."""
_MAX_PAGES = (1 << 31) - 1
"""KVM_MEM_MAX_NR_PAGES: what dirty bitmaps can index."""
_FLAGS = LOG_DIRTY | READONLY


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
    write_tracked: TrackedGfns = field(default_factory=TrackedGfns)
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

    @property
    def private(self) -> bool:
        """kvm_slot_can_be_private: a guest_memfd stands behind it."""
        return bool(self.flags & GUEST_MEMFD)

    def hva_of(self, gfn: int) -> int:
        """__gfn_to_hva_memslot."""
        return self.hva + ((gfn - self.base_gfn) << 12)

    def lpage_disallowed(self, gfn: int, level: int) -> bool:
        """lpage_info: the slot's edges, the offset of gfn against hva, and write-tracked pages forbid it."""
        span = pages(level)
        base = self.base_gfn
        if (base ^ self.hva >> 12) & span - 1:
            return True
        start = gfn & -span
        if start < base or start + span > base + self.npages:
            return True
        return self.write_tracked.under(gfn, level)


_NO_SLOTS: tuple[list[int], list[Memslot]] = ([], [])


class Memslots:
    """The slots of all address spaces, by id, by gfn and by host address."""

    def __init__(self) -> None:
        self._generations = list(range(ADDRESS_SPACES))
        self._slots: dict[tuple[int, int], Memslot] = {}
        self._by_hva: list[Memslot] = []
        self._by_gfn: dict[int, tuple[list[int], list[Memslot]]] = {}
        """First gfns and slots of each address space, in order of gfn."""

    def __iter__(self) -> Iterator[Memslot]:
        return iter(self._by_hva)

    def get(self, ident: int, as_id: int = 0) -> Memslot | None:
        """The slot with this id."""
        return self._slots.get((as_id, ident))

    def find(self, gfn: int, as_id: int = 0) -> Memslot | None:
        """The slot that holds `gfn`."""
        starts, slots = self._by_gfn.get(as_id, _NO_SLOTS)
        position = bisect_right(starts, gfn) - 1
        if position < 0:
            return None
        slot = slots[position]
        return slot if gfn < slot.base_gfn + slot.npages else None

    def in_hva_range(self, start: int, end: int) -> list[tuple[Memslot, int, int]]:
        """(slot, first gfn, end gfn) of every slot that `start`..`end` touches, in the interval tree's order.

        The slots of address space 0 come first.
        """
        found = []
        for slot in self._by_hva:
            low, high = max(start, slot.hva), min(end, slot.hva + (slot.npages << 12))
            if low < high:
                first = slot.base_gfn + ((low - slot.hva) >> 12)
                last = slot.base_gfn + ((high + 0xFFF - slot.hva) >> 12)
                found.append((slot, first, last))
        return sorted(found, key=lambda one: one[0].as_id)

    def in_gfn_range(self, start: int, end: int) -> list[tuple[Memslot, int, int]]:
        """(slot, first gfn, end gfn) of every slot with a page in `start`..`end`, by address space and gfn."""
        return [
            (slot, max(start, slot.base_gfn), min(end, slot.end_gfn))
            for as_id in sorted(self._by_gfn)
            for slot in self._by_gfn[as_id][1]
            if slot.base_gfn < end and start < slot.end_gfn
        ]

    def generation(self, as_id: int = 0) -> int:
        """How often the slots of this address space changed, in steps of `GEN_STEP` from `as_id` on.

        With `GEN_UPDATING` in it while they are being changed.
        """
        return self._generations[as_id]

    def updating(self, as_id: int) -> None:
        """The beginning of a change."""
        self._generations[as_id] |= GEN_UPDATING

    def upcoming(self, as_id: int) -> int:
        """The generation that the end of the change will bring."""
        return (self._generations[as_id] & ~GEN_UPDATING) + GEN_STEP

    def advance(self, as_id: int) -> None:
        """The end of a change: faults from now on see another generation (kvm_swap_active_memslots)."""
        self._generations[as_id] = self.upcoming(as_id)

    def existing(self, ident: int, as_id: int = 0) -> Memslot:
        """The slot with this id. Raises `KvmError` (EINVAL) if there is none."""
        slot = self._slots.get((as_id, ident))
        if slot is None:
            raise KvmError(EINVAL, "slot", f"the id of a memslot of address space {as_id}", ident)
        return slot

    def check_new(self, slot: Memslot, *, private_memory: bool) -> None:
        """What KVM_SET_USER_MEMORY_REGION refuses of a new slot (__kvm_set_memory_region). Raises `KvmError`."""
        if not 0 <= slot.as_id < ADDRESS_SPACES:
            raise KvmError(EINVAL, "as_id", f"0..{ADDRESS_SPACES - 1}", slot.as_id)
        if not 0 <= slot.ident < USER_SLOTS:
            raise KvmError(EINVAL, "slot", f"0..{USER_SLOTS - 1:#x}", slot.ident)
        if self.get(slot.ident, slot.as_id) is not None:
            raise KvmError(EINVAL, "slot", "an id that no memslot has", slot.ident)
        if not 0 < slot.npages <= _MAX_PAGES:
            raise KvmError(EINVAL, "npages", f"1..{_MAX_PAGES:#x}", slot.npages)
        if slot.hva & 0xFFF or not 0 <= slot.hva < 1 << 56:
            raise KvmError(EINVAL, "hva", "a page-aligned user address below 2^56", slot.hva)
        if slot.base_gfn < 0:
            raise KvmError(EINVAL, "base_gfn", "at least 0", slot.base_gfn)
        self.check_flags(slot.flags, private_memory=private_memory)
        self.check_free(slot, slot.base_gfn)

    @staticmethod
    def check_flags(flags: int, *, private_memory: bool) -> None:
        """check_memory_region_flags: a slot with guest_memfd can be neither logged nor read-only."""
        allowed = _FLAGS
        if private_memory and flags & GUEST_MEMFD:
            allowed = GUEST_MEMFD
        if flags & ~allowed:
            raise KvmError(EINVAL, "flags", f"a part of {allowed:#x}", flags)

    def check_free(self, slot: Memslot, base_gfn: int) -> None:
        """kvm_check_memslot_overlap: no other slot of the address space where `slot` is to stand."""
        end = base_gfn + slot.npages
        for other, low, high in self.in_gfn_range(base_gfn, end):
            if other.as_id == slot.as_id and other.ident != slot.ident:
                owner = f"outside slot {other.ident} at {other.base_gfn:#x}..{other.end_gfn - 1:#x}"
                field = f"slot {slot.ident} at {base_gfn:#x}..{end - 1:#x}"
                raise KvmError(EEXIST, field, owner, f"{low:#x}..{high - 1:#x}")

    def logged(self, ident: int, as_id: int = 0) -> Memslot:
        """The slot whose dirty bitmap is asked for. Raises `KvmError` (ENOENT) if it has none."""
        slot = self._slots.get((as_id, ident))
        if slot is None or not slot.logging:
            raise KvmError(ENOENT, "slot", f"a memslot of address space {as_id} whose dirty pages are logged", ident)
        return slot

    def install(self, slot: Memslot) -> None:
        """Put a new or changed slot in (kvm_replace_memslot); equal host addresses keep the order of insertion."""
        self._drop(slot.ident, slot.as_id)
        self._slots[(slot.as_id, slot.ident)] = slot
        position = len(self._by_hva)
        while position and self._by_hva[position - 1].hva > slot.hva:
            position -= 1
        self._by_hva.insert(position, slot)
        starts, slots = self._by_gfn.setdefault(slot.as_id, ([], []))
        position = bisect_right(starts, slot.base_gfn)
        starts.insert(position, slot.base_gfn)
        slots.insert(position, slot)

    def remove(self, ident: int, as_id: int = 0) -> None:
        """Take a slot out."""
        self._drop(ident, as_id)

    def _drop(self, ident: int, as_id: int) -> None:
        old = self._slots.pop((as_id, ident), None)
        if old is not None:
            self._by_hva = [slot for slot in self._by_hva if slot is not old]
            slots = [slot for slot in self._by_gfn[as_id][1] if slot is not old]
            self._by_gfn[as_id] = [slot.base_gfn for slot in slots], slots
