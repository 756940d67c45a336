"""The front end: request FIFO, pending entries, the lookup, the hit FIFO and completions."""

from pymodel.cycle.context import ContextCache, ContextEntry
from pymodel.cycle.fault import FaultLog
from pymodel.cycle.inputs import Request
from pymodel.cycle.iotlb import Iotlb
from pymodel.cycle.layout import Layout, ResponseShifts
from pymodel.cycle.registers import Registers
from pymodel.cycle.slot import ROOT
from pymodel.cycle.walk_cache import WalkCache
from pymodel.cycle.walker import BOTH, READ, WRITE, Walker
from pymodel.spec.context import TTM_ABORT, TTM_SCALABLE
from pymodel.spec.faults import Reason
from pymodel.spec.observation import Lookup
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST, LEAVES

__all__ = ["FIFO_DEPTH", "Frontend", "Pending"]

FIFO_DEPTH = 2
_INTERRUPT = INTERRUPT_FIRST >> 20
_NO_REQUEST: Request = (0, 0, 0, 0, 0, 0)
_STALL, _PASS, _HIT, _FAULT = (kind.value for kind in (Lookup.STALL, Lookup.PASS, Lookup.HIT, Lookup.FAULT))
_MERGE, _WALK = Lookup.MERGE.value, Lookup.WALK.value
_CONTEXT_MERGE, _CONTEXT_WALK = Lookup.CONTEXT_MERGE.value, Lookup.CONTEXT_WALK.value
_LEAF_ADDRESS = [leaf["address"].mask for leaf in LEAVES]
_SNOOP = LEAVES[0]["snp"].mask


class Pending:
    """A request that waits for a walk, with what its last lookup found (F3)."""

    __slots__ = ("fpd", "request", "scalable", "slot", "snoop")

    def __init__(self) -> None:
        self.request = _NO_REQUEST
        self.slot = 0
        self.scalable = self.fpd = self.snoop = 0


class Frontend:
    """Requests in, answers out (F1..F3, L1..L9, C1..C5).

    Masks have one bit for each pending entry; an entry in none of `free`, `replay`, `answer` is in WAIT.
    `late` means something in WAIT and ANSWER, `retried` in all states but FREE.
    """

    __slots__ = ("_contexts", "_event_level", "_event_pending", "_event_replay", "_event_slot",
                 "_faults", "_iotlb", "_offered_fpd", "_offered_reason", "_pass", "_pointer",
                 "_pointers", "_registers", "_rewalk", "_scalable_built", "_shifts", "_snoop",
                 "_walker", "answer", "entries", "event", "free", "hits", "late", "offered",
                 "offered_word", "replay", "requests", "retried", "unbelieved")  # fmt: skip

    def __init__(self, params: IommuParams, layout: Layout, blocks: tuple[Registers, FaultLog, Walker],
                 caches: tuple[ContextCache, Iotlb, WalkCache]) -> None:  # fmt: skip
        self.requests: list[Request] = []
        self.hits: list[int] = []
        """Packed answers, oldest first (F2)."""
        self.entries = [Pending() for _ in range(params.pending_requests)]
        self.free = (1 << params.pending_requests) - 1
        self.replay = self.answer = 0
        self.offered = -1
        """Entry whose answer is on `completions` in this cycle, or -1 (C1)."""
        self.offered_word = 0
        self.unbelieved = -1
        """Entry chosen in this cycle whose refusal is not offered, or -1 (C5)."""
        self.late = 0
        """Entries that joined a walk whose outstanding read left before them (F3, L9)."""
        self.retried = 0
        """Entries with a refusal that was not believed (F3, C5)."""
        self.event = 0
        """Packed lookup event of the last cycle."""
        self._offered_reason = self._offered_fpd = 0
        self._pointer = 0
        self._registers, self._faults, self._walker = blocks
        self._contexts, self._iotlb, self._pointers = caches
        self._rewalk = params.rewalk_on_perm
        self._scalable_built = params.scalable
        self._snoop = _SNOOP if params.snp_legal else 0
        shifts = self._shifts = ResponseShifts(layout)
        self._pass = 1 | BOTH << shifts.permissions
        self._event_replay = 1 << layout.within("lookup", "lookup_replay")
        self._event_pending = layout.within("lookup", "lookup_pending")
        self._event_slot = layout.within("lookup", "lookup_slot")
        self._event_level = layout.within("lookup", "lookup_level")

    # --- lookup -----------------------------------------------------------------------------------------

    def stall(self) -> None:
        """The lookup of a cycle in which an invalidation is applied (L1)."""
        self.event = _STALL if self.replay or self.requests else 0

    def lookup(self) -> None:
        """Judge the candidate by the state at the start of the cycle (L1, L2.1 to L2.5)."""
        replay = self.replay
        if replay:
            entry = (replay & -replay).bit_length() - 1
            request = self.entries[entry].request
        elif self.requests:
            entry = -1
            request = self.requests[0]
        else:
            self.event = 0
            return
        tag, sid, pasid_valid, pasid, iova, write = request
        registers = self._registers
        mode = registers.mode
        if not registers.translation_enabled:
            self._respond(_PASS, entry, self._passed(tag, iova, 0))
        elif mode > TTM_SCALABLE or (mode and not self._scalable_built):
            self._refuse(entry, request, Reason.SM_BAD_MODE, mode != TTM_ABORT)
        elif pasid_valid and not mode:
            self._refuse(entry, request, Reason.SM_PASID_IN_LEGACY, True)
        elif not pasid_valid and iova >> 20 == _INTERRUPT:
            if write:
                self._respond(_PASS, entry, self._passed(tag, iova, 0))
            else:
                reason = Reason.SM_INTERRUPT_ADDRESS if mode else Reason.INTERRUPT_ADDRESS
                self._refuse(entry, request, reason, False)
        else:
            key = sid | 1 << 16 | pasid << 17 if pasid_valid else sid
            context = self._contexts.entries.get(key)
            if context is None:
                self._find_context(entry, request, key, mode)
            elif self._translate(entry, request, context, mode):
                self._contexts.lines.touch(context.index)

    def _translate(self, entry: int, request: Request, context: ContextEntry, mode: int) -> bool:
        """With a context entry (L2.6 to L2.10); False for STALL."""
        iova, write = request[4], request[5]
        if context.pass_through:
            return self._respond(_PASS, entry, self._passed(request[0], iova, context.pgsnp))
        if iova >> context.width:
            reason = Reason.SM_ADDRESS_BEYOND_WIDTH if mode else Reason.ADDRESS_BEYOND_WIDTH
            return self._refuse(entry, request, reason, not context.fpd)
        found = self._iotlb.find(context.did, iova)
        if found is not None:
            index, permissions, word, low = found
            if permissions & (WRITE if write else READ):
                shifts = self._shifts
                word |= (iova & low) << shifts.address | request[0] << shifts.tag
                word |= context.pgsnp << shifts.snoop
                if not self._respond(_HIT, entry, word):
                    return False
                self._iotlb.lines.touch(index)
                return True
            if not self._rewalk:
                return self._refuse(entry, request, _denied(write, mode), not context.fpd)
        key = iova >> 15 << 16 | context.did
        live = self._walker.live_pages.get(key)
        if live:
            slot = self._joinable(live, entry)
            if slot >= 0:
                return self._join(_MERGE, entry, request, slot, context, mode)
        return self._walk(entry, request, context, key, mode)

    def _passed(self, tag: int, iova: int, snoop: int) -> int:
        """PASS: the iova itself, level 0, r = w = 1 (L5)."""
        shifts = self._shifts
        return self._pass | tag << shifts.tag | iova << shifts.address | snoop << shifts.snoop

    def _refuse(self, entry: int, request: Request, reason: Reason, record: bool) -> bool:
        """FAULT (L5, L6); False for STALL."""
        shifts = self._shifts
        if not self._respond(_FAULT, entry, 1 | request[0] << shifts.tag | reason.value << shifts.reason):
            return False
        if record:
            self._faults.report(request, reason.value)
        return True

    def _respond(self, kind: int, entry: int, word: int) -> bool:
        """Push an answer; False when the hit FIFO was full at the start of the cycle: STALL (F2, L3, L4)."""
        if len(self.hits) >= FIFO_DEPTH:
            self.event = _STALL
            return False
        self.hits.append(word)
        if entry < 0:
            del self.requests[0]
            self.event = kind
        else:
            self.replay &= ~(1 << entry)
            self.free |= 1 << entry
            self.event = kind | self._event_replay | entry << self._event_pending
        return True

    def _find_context(self, entry: int, request: Request, key: int, mode: int) -> None:
        """CONTEXT_MERGE or CONTEXT_WALK (L2.5, L8)."""
        walker = self._walker
        live = walker.live_contexts.get(key)
        slot = self._joinable(live, entry) if live else -1
        if slot >= 0:
            self._join(_CONTEXT_MERGE, entry, request, slot, None, mode)
        elif not walker.free:
            self.event = _STALL
        else:
            slot = (walker.free & -walker.free).bit_length() - 1
            if self._join(_CONTEXT_WALK, entry, request, slot, None, mode):
                walker.start_context(slot, key, request[1:4], mode, self._registers.root)

    def _joinable(self, live: int, entry: int) -> int:
        """The lowest of the `live` slots that the candidate may join, or -1 (L2.5, L2.9).

        A retried candidate joins only slots in ISSUE.
        """
        if entry >= 0 and self.retried >> entry & 1:
            live &= self._walker.issue
        return (live & -live).bit_length() - 1

    def _walk(self, entry: int, request: Request, context: ContextEntry, key: int, mode: int) -> bool:
        """WALK from the deepest pointer known (L8, T3, T5); False for STALL."""
        walker = self._walker
        if not walker.free:
            self.event = _STALL
            return False
        slot = (walker.free & -walker.free).bit_length() - 1
        if not self._join(_WALK, entry, request, slot, context, mode):
            return False
        did, depth, iova = context.did, context.depth, request[4]
        pointer = self._pointers.find(did, iova, depth)
        if pointer is None:
            level, table, permissions = depth - 1, context.table, BOTH
        else:
            level, index, permissions, table = pointer
            self._pointers.caches[level].lines.touch(index)
        walker.start_pages(slot, key, iova, did, depth, level, table, permissions)
        self.event |= level << self._event_level
        return True

    def _join(self, kind: int, entry: int, request: Request, slot: int, context: ContextEntry | None,
              mode: int) -> bool:  # fmt: skip
        """Let the candidate wait for a slot; False if it needs a pending entry and none is free (L3, L4).

        It is late if the slot was in WAIT at the start of the cycle: neither ISSUE nor, to walk, FREE (L9).
        """
        if entry < 0:
            if not self.free:
                self.event = _STALL
                return False
            bit = self.free & -self.free
            self.free ^= bit
            self.retried &= ~bit
            entry = bit.bit_length() - 1
            del self.requests[0]
            self.event = kind
        else:
            bit = 1 << entry
            self.replay ^= bit
            self.event = kind | self._event_replay
        self.event |= entry << self._event_pending | slot << self._event_slot
        pending = self.entries[entry]
        pending.request, pending.slot, pending.scalable = request, slot, mode
        pending.fpd, pending.snoop = (0, 0) if context is None else (context.fpd, context.pgsnp)
        walker = self._walker
        if (walker.issue | walker.free) >> slot & 1:
            self.late &= ~bit
        else:
            self.late |= bit
        walker.slots[slot].entries |= bit
        return True

    # --- completions ------------------------------------------------------------------------------------

    def offer(self) -> None:
        """Choose the answer that is offered next; called when none is offered and `answer` is not 0 (C1).

        The refusal of a late entry is not offered, but `retry` follows in the next cycle (C5).
        """
        ahead = self.answer >> self._pointer << self._pointer or self.answer
        bit = ahead & -ahead
        self.offered = bit.bit_length() - 1
        self._answer_offered()
        if self._offered_reason and self.late & bit:
            self.unbelieved = self.offered
            self.offered = -1
            self.offered_word = 0

    def _answer_offered(self) -> None:
        """The answer of the offered entry (C2)."""
        pending = self.entries[self.offered]
        slot = self._walker.slots[pending.slot]
        shifts = self._shifts
        word = 1 | pending.request[0] << shifts.tag
        if slot.stage >= ROOT:
            self._offered_reason, self._offered_fpd = slot.reason, slot.fpd
        else:
            self._offered_fpd = pending.fpd
            level, iova = slot.stage, pending.request[4]
            entry = slot.lanes[iova >> 12 + 9 * level & 7] if slot.lanes else 0
            reason = self._page_reason(pending, entry)
            self._offered_reason = reason.value
            if not reason:
                low = (1 << 12 + 9 * level) - 1
                snoop = pending.snoop | bool(entry & self._snoop)
                word |= (entry & _LEAF_ADDRESS[level] | iova & low) << shifts.address | level << shifts.level
                word |= (entry & slot.permissions) << shifts.permissions | snoop << shifts.snoop
                self.offered_word = word
                return
        self.offered_word = word | self._offered_reason << shifts.reason

    def _page_reason(self, pending: Pending, entry: int) -> Reason:
        """Why a page walk refuses, judged by `entry`; NONE for a translation (C2.1 to C2.5)."""
        walker = self._walker
        slot = walker.slots[pending.slot]
        scalable, level, iova, write = pending.scalable, slot.stage, pending.request[4], pending.request[5]
        want = WRITE if write else READ
        if not slot.permissions & want:
            return _denied(write, scalable)
        if slot.error:
            if level == slot.depth - 1:
                return Reason.SM_TABLE_ROOT_ACCESS if scalable else Reason.CONTEXT_INVALID
            return Reason.SM_TABLE_ACCESS if scalable else Reason.TABLE_ACCESS
        if not entry & want:
            if scalable and not entry & BOTH:
                return Reason.SM_ENTRY_NOT_PRESENT
            return _denied(write, scalable)
        leaf = level == 0 or entry & walker.page_size[level]
        if entry & (walker.leaf_reserved if leaf else walker.table_reserved)[level]:
            return Reason.SM_ENTRY_RESERVED if scalable else Reason.ENTRY_RESERVED
        if (entry & _LEAF_ADDRESS[level] | iova & (1 << 12 + 9 * level) - 1) >> 20 == _INTERRUPT:
            return Reason.SM_INTERRUPT_ADDRESS if scalable else Reason.INTERRUPT_ADDRESS
        return Reason.NONE

    def take_completion(self) -> None:
        """The offered answer is taken: record its fault, free the entry, perhaps the slot (C3, C4)."""
        index = self.offered
        if self._offered_reason and not self._offered_fpd:
            self._faults.report(self.entries[index].request, self._offered_reason)
        self.free |= 1 << index
        self._leave_slot(index)
        self.offered = -1
        self.offered_word = 0

    def retry(self) -> int:
        """The late refusal is not believed: leave the slot, perhaps free it, record nothing (C5).

        Returns the mask of the entry, which becomes REPLAY only at the end of the cycle.
        """
        index = self.unbelieved
        self.unbelieved = -1
        self._leave_slot(index)
        self.retried |= 1 << index
        return 1 << index

    def _leave_slot(self, index: int) -> None:
        """The chosen entry is not in ANSWER any more: release its slot with the last one (C1, C4)."""
        bit = 1 << index
        self.answer ^= bit
        walker, number = self._walker, self.entries[index].slot
        slot = walker.slots[number]
        slot.entries ^= bit
        if not slot.entries:
            walker.release(number)
        self._pointer = (index + 1) % len(self.entries)

    # --- invalidation -----------------------------------------------------------------------------------

    def kill(self, index: int) -> None:
        """Kill a slot and look its entries up again, but for the one whose answer is on the port (I7)."""
        walker = self._walker
        if walker.free >> index & 1:
            return  # its last answer was taken, or refused to a late entry, in this cycle (C4, C5)
        slot = walker.slots[index]
        kept = 1 << self.offered if self.offered >= 0 else 0
        kept &= slot.entries
        moved = slot.entries & ~kept
        walker.kill(index, walker.offered == index, bool(kept))
        slot.entries = kept
        self.answer &= ~moved
        self.replay |= moved


def _denied(write: int, scalable: int) -> Reason:
    if scalable:
        return Reason.SM_WRITE_DENIED if write else Reason.SM_READ_DENIED
    return Reason.WRITE_DENIED if write else Reason.READ_DENIED
