"""The walker: slots, the turn for the read port, arrivals of data, and the fills that follow from them."""

from struct import Struct

from pymodel.cycle.context import ContextCache, ContextStages
from pymodel.cycle.iotlb import Iotlb
from pymodel.cycle.layout import Layout
from pymodel.cycle.slot import ROOT, Slot
from pymodel.cycle.walk_cache import WalkCache
from pymodel.spec.observation import fetch_id
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import LEAVES, LINE_BYTES, SS_LEAF_2M, SS_TABLE, SS_TABLE_TOP, level_shift

__all__ = ["BOTH", "READ", "WRITE", "Walker"]

READ, WRITE = SS_TABLE["r"].mask, SS_TABLE["w"].mask
BOTH = READ | WRITE
_ADDRESS = SS_TABLE["address"].mask
_PAGE_SIZE = SS_LEAF_2M["ps"].mask
_SNOOP = SS_LEAF_2M["snp"].mask
_LANES = Struct("<8Q").unpack
_DROPPED, _ISSUE, _DONE, _CACHED = range(4)  # what becomes of a slot whose data arrived


class Walker:
    """Walk slots (W1..W10). Masks: one bit a slot; a slot in none of `free`, `issue`, `done` is in WAIT."""

    __slots__ = ("_arrival_at", "_arrival_id_at", "_context_fill_at", "_contexts", "_dropped_at",
                 "_fetch", "_fill_context_at", "_fill_good", "_fill_index", "_fill_key",
                 "_fill_line", "_fill_permissions", "_fill_pointers", "_fill_pointers_at",
                 "_fill_sectors_at", "_haw_mask", "_id_at", "_iotlb", "_line_at", "_outcome",
                 "_outcome_slot", "_pages_at", "_pointer", "_pointers", "_psc_fill_at", "_stages",
                 "count", "done", "event", "free", "issue", "killed", "leaf_reserved",
                 "live_contexts", "live_pages", "offered", "offered_word", "page_size", "slots",
                 "table_reserved")  # fmt: skip

    def __init__(self, params: IommuParams, layout: Layout,
                 caches: tuple[ContextCache, Iotlb, WalkCache]) -> None:  # fmt: skip
        self.count = params.walk_slots
        self.slots = [Slot() for _ in range(self.count)]
        self.free = (1 << self.count) - 1
        self.issue = self.done = self.killed = 0
        self.live_contexts: dict[int, int] = {}
        """Mask of the slots with a live context walk by context key (L2.5); several after a refusal (C5)."""
        self.live_pages: dict[int, int] = {}
        """Mask of the slots with a live page walk by DID and iova above bit 14 (L2.9)."""
        self.offered = -1
        """Id whose read is on the port in this cycle, or -1 (W2)."""
        self.offered_word = 0
        self.event = 0
        """Packed arrival and fill events of the last cycle."""
        self._contexts, self._iotlb, self._pointers = caches
        self._stages = ContextStages(params)
        self._pointer = 0
        self._outcome, self._outcome_slot = -1, 0
        self._fill_line: tuple[int, ...] | None = None
        self._declare_masks(params)
        self._declare_shifts(params, layout)

    def _declare_masks(self, params: IommuParams) -> None:
        beyond = _ADDRESS & ~((1 << params.haw) - 1)
        leaf = beyond | (0 if params.snp_legal else _SNOOP)
        self.leaf_reserved = [form.reserved | leaf for form in LEAVES]
        """Reserved bits of a leaf by level (W8)."""
        self.table_reserved = [0]
        """Reserved bits of an entry that is not a leaf by level (W8)."""
        for level in range(1, 5):
            large = _PAGE_SIZE if level > params.large_pages else 0
            self.table_reserved.append((SS_TABLE if level < 3 else SS_TABLE_TOP).reserved | beyond | large)
        self.page_size = [_PAGE_SIZE if 1 <= level <= params.large_pages else 0 for level in range(5)]
        """The bit that makes an entry a leaf by level, 0 where none does (level 0 has only leaves)."""

    def _declare_shifts(self, params: IommuParams, layout: Layout) -> None:
        self._fetch = fetch_id(params)
        self._haw_mask = (1 << params.haw) - 1
        self._id_at = layout.within("reads_valid", "reads_id")
        self._line_at = layout.within("reads_valid", "reads_line")
        self._arrival_at = layout.within("lookup", "arrival")
        self._arrival_id_at = layout.within("lookup", "arrival_id")
        self._dropped_at = layout.within("lookup", "arrival_dropped")
        self._pages_at = layout.within("lookup", "iotlb_fill")
        self._psc_fill_at = layout.within("lookup", "psc_fill")
        self._context_fill_at = layout.within("lookup", "context_fill")
        names = ("fill_index", "fill_level", "fill_sectors", "evicted")
        self._fill_sectors_at = tuple(layout.within("iotlb_fill", f"iotlb_{name}") for name in names)
        self._fill_pointers_at = tuple(layout.within("psc_fill", f"psc_{name}") for name in names)
        self._fill_context_at = tuple(
            layout.within("context_fill", f"context_{name}") for name in ("fill_index", "evicted")
        )

    # --- allocation -------------------------------------------------------------------------------------

    def start_context(self, index: int, key: int, request: tuple[int, int, int], scalable: int,
                      root: int) -> None:  # fmt: skip
        """CONTEXT_WALK for (sid, pasid_valid, pasid): read the root entry (L8, W1, W3)."""
        slot = self.slots[index]
        slot.sid, slot.pasid_valid, slot.pasid = request
        if not scalable:
            slot.pasid = 0
        slot.stage, slot.key, slot.scalable = ROOT, key, scalable
        slot.fpd = slot.reason = slot.error = 0
        slot.address = root + 16 * (slot.sid >> 8)
        self._start(self.live_contexts, slot, index)

    def start_pages(self, index: int, key: int, iova: int, did: int, depth: int,
                    level: int, table: int, permissions: int) -> None:  # fmt: skip
        """WALK from `table` at `level` (L8, W1, W3)."""
        slot = self.slots[index]
        slot.stage, slot.key = level, key
        slot.iova, slot.did, slot.depth = iova >> 15 << 15, did, depth
        slot.permissions = permissions
        slot.error = slot.reason = 0
        slot.address = table + 8 * (slot.iova >> 12 + 9 * level & 511)
        self._start(self.live_pages, slot, index)

    def _start(self, live: dict[int, int], slot: Slot, index: int) -> None:
        bit = 1 << index
        live[slot.key] = live.get(slot.key, 0) | bit
        self._enter_issue(slot, index)
        self.free &= ~bit

    def _enter_issue(self, slot: Slot, index: int) -> None:
        slot.read = 1 | index << self._id_at | (slot.address & self._haw_mask) >> 6 << self._line_at
        self.issue |= 1 << index

    def release(self, index: int) -> None:
        """The slot becomes FREE (C4, W7, W10, I7)."""
        bit = 1 << index
        self.free |= bit
        self.issue &= ~bit
        self.done &= ~bit
        self.killed &= ~bit

    # --- the read port ----------------------------------------------------------------------------------

    def accept(self) -> None:
        """The offered read is accepted: WAIT, and the turn moves on (W2)."""
        index = self.offered
        if index != self._fetch:
            self.issue &= ~(1 << index)
            self._pointer = (index + 1) % self.count
        self.offered = -1
        self.offered_word = 0

    def offer(self) -> None:
        """Choose the slot whose read is offered next; called with nothing offered and `issue` not 0 (W2)."""
        ahead = self.issue >> self._pointer << self._pointer or self.issue
        self.offered = (ahead & -ahead).bit_length() - 1
        self.offered_word = self.slots[self.offered].read

    def offer_fetch(self, address: int) -> None:
        """Offer the read of the invalidation queue (W2, I2)."""
        self.offered = self._fetch
        self.offered_word = 1 | self._fetch << self._id_at | (address & self._haw_mask) >> 6 << self._line_at

    # --- arrivals ---------------------------------------------------------------------------------------

    def arrival(self, ident: int) -> int:
        """Packed event that data came for `ident` (O1)."""
        return 1 << self._arrival_at | ident << self._arrival_id_at

    def arrive(self, ident: int, error: int, data: int, killing: int) -> None:
        """Judge data for a slot by the state at the start of the cycle (W4, W5); `settle` is its end.

        `killing` are the slots killed in this very cycle (W10). Raises `ValueError` for unasked data.
        """
        if not 0 <= ident < self.count or (self.free | self.issue | self.done) >> ident & 1:
            raise ValueError(f"read_data for id {ident}, which has no read outstanding (P3)")
        self._outcome_slot = ident
        self.event = self.arrival(ident)
        if (self.killed | killing) >> ident & 1:
            self.event |= 1 << self._dropped_at
            self._outcome = _DROPPED
            return
        slot = self.slots[ident]
        if slot.stage >= ROOT:
            self._arrive_context(slot, error, data)
        elif error:
            slot.error = 1
            slot.lanes = ()
            self._outcome = _DONE
        else:
            self._arrive_page(slot, _LANES(data.to_bytes(LINE_BYTES, "little")))

    def _arrive_context(self, slot: Slot, error: int, data: int) -> None:
        slot.reason = self._stages.judge(slot, error, data).value
        if slot.reason:
            self._outcome = _DONE
        elif self._stages.result is None:
            self._outcome = _ISSUE
        else:
            self._outcome = _CACHED
            self._fill_index, evicted = self._contexts.lines.place(slot.key)
            index_at, evicted_at = self._fill_context_at
            word = 1 | self._fill_index << index_at | evicted << evicted_at
            self.event |= word << self._context_fill_at

    def _arrive_page(self, slot: Slot, lanes: tuple[int, ...]) -> None:
        level, permissions = slot.stage, slot.permissions
        slot.lanes = lanes
        if level == 0:
            self._outcome = _DONE
            self._place_leaves(slot, 0, lanes)
            return
        entry = lanes[slot.iova >> 12 + 9 * level & 7]
        leaf = entry & self.page_size[level]
        if leaf or not entry & permissions or entry & self.table_reserved[level]:
            self._outcome = _DONE
            if leaf and entry & permissions and not entry & self.leaf_reserved[level]:
                self._place_leaves(slot, level, lanes)
            return
        self._outcome = _ISSUE
        self._place_pointers(slot, level - 1, lanes)
        slot.stage = level - 1
        slot.permissions = permissions & entry
        slot.address = (entry & _ADDRESS) + 8 * (slot.iova >> level_shift(level - 1) & 511)

    def _place_leaves(self, slot: Slot, level: int, lanes: tuple[int, ...]) -> None:
        """Prepare the IOTLB fill at `level`, if there is a good leaf (W9)."""
        iotlb = self._iotlb
        reserved = self.leaf_reserved[level]
        good = iotlb.good_leaves(lanes, level, slot.permissions, reserved, self.page_size[level])
        if good:
            self._fill_key = iotlb.key(slot.did, level, slot.iova)
            self._fill_index, evicted = iotlb.lines.place(self._fill_key)
            self._prepare(lanes, slot.permissions, good, -1)
            self.event |= self._fill_event(self._fill_sectors_at, level, good, evicted) << self._pages_at

    def _place_pointers(self, slot: Slot, level: int, lanes: tuple[int, ...]) -> None:
        """Prepare the fill of PSC `level`, of which the wanted entry is always part (W9)."""
        pointers = self._pointers
        above = level + 1
        reserved = self.table_reserved[above]
        good = pointers.good_pointers(lanes, slot.permissions, reserved, self.page_size[above])
        self._fill_key = pointers.key(slot.did, level, slot.iova)
        self._fill_index, evicted = pointers.caches[level].lines.place(self._fill_key)
        self._prepare(lanes, slot.permissions, good, level)
        self.event |= self._fill_event(self._fill_pointers_at, level, good, evicted) << self._psc_fill_at

    def _fill_event(self, at: tuple[int, ...], level: int, good: int, evicted: bool) -> int:
        return 1 | self._fill_index << at[0] | level << at[1] | good << at[2] | evicted << at[3]

    def _prepare(self, lanes: tuple[int, ...], permissions: int, good: int, pointers: int) -> None:
        self._fill_line = lanes
        self._fill_permissions = permissions
        self._fill_good = good
        self._fill_pointers = pointers

    def settle(self) -> tuple[int, int, int]:
        """End of the cycle of an arrival: fills, and what becomes of the slot (W4, W7..W10).

        Returns the masks of the entries that become ANSWER, that become REPLAY, and that are not late any
        more as the slot goes on (L9); with those that joined in this cycle.
        """
        index = self._outcome_slot
        slot = self.slots[index]
        if self._fill_line is not None:
            if self._fill_pointers >= 0:
                self._pointers.fill(self._fill_pointers, self._fill_index, self._fill_key, self._fill_good,
                                    self._fill_line, self._fill_permissions)  # fmt: skip
            else:
                self._iotlb.fill(self._fill_index, self._fill_key, self._fill_good, self._fill_line,
                                 self._fill_permissions)  # fmt: skip
            self._fill_line = None
        outcome = self._outcome
        if outcome == _ISSUE:
            self._enter_issue(slot, index)
            return 0, 0, slot.entries
        if outcome == _DROPPED:
            self.release(index)
            return 0, 0, 0
        self._forget(slot, index)
        if outcome == _DONE:
            self.done |= 1 << index
            return slot.entries, 0, 0
        assert self._stages.result is not None
        self._contexts.fill(self._fill_index, slot.key, self._stages.result)
        replayed, slot.entries = slot.entries, 0
        self.release(index)
        return 0, replayed, 0

    def _forget(self, slot: Slot, index: int) -> None:
        """The slot is not live any more (L2.5, L2.9)."""
        live = self.live_contexts if slot.stage >= ROOT else self.live_pages
        others = live[slot.key] ^ 1 << index
        if others:
            live[slot.key] = others
        else:
            del live[slot.key]

    # --- invalidation -----------------------------------------------------------------------------------

    def busy_pages(self) -> list[tuple[int, Slot]]:
        """Page slots that are neither FREE nor killed (I6)."""
        mask = ~(self.free | self.killed)
        return [(i, slot) for i, slot in enumerate(self.slots) if mask >> i & 1 and slot.stage < ROOT]

    def kill(self, index: int, read_offered: bool, answer_offered: bool) -> None:
        """Kill one slot (I7) whose read is on the port or not, and one of whose answers is, untaken, or not.

        A slot in WAIT whose data arrives in this cycle is released by `settle` (W10).
        """
        bit = 1 << index
        slot = self.slots[index]
        if not self.done & bit:
            self._forget(slot, index)
        if self.issue & bit:
            keep = read_offered
        elif self.done & bit:
            keep = answer_offered
        else:
            keep = True
        if keep:
            self.killed |= bit
        else:
            self.release(index)
