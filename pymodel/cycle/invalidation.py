"""The invalidation queue: fetch, decode, apply, wait."""

from dataclasses import dataclass

from pymodel.cycle.context import ContextCache
from pymodel.cycle.iotlb import Iotlb
from pymodel.cycle.registers import Registers
from pymodel.cycle.walk_cache import WalkCache
from pymodel.cycle.walker import Walker
from pymodel.spec.context import TTM_SCALABLE
from pymodel.spec.descriptors import (
    CONTEXT_INV,
    DESCRIPTORS,
    IOTLB_INV,
    PASID_CACHE_INV,
    PASID_IOTLB_INV,
    WAIT,
    DescriptorType,
    Granularity,
    PasidGranularity,
)
from pymodel.spec.observation import Apply, QueueState, WriteId
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import IQA
from pymodel.spec.second_stage import level_shift

__all__ = ["InvalidationQueue", "Invalidation"]

_IDLE, _FETCH, _FETCHING, _DECODE, _APPLY, _WAIT, _STATUS, _FENCE = (state.value for state in QueueState)
_DW = IQA["dw"].mask
_UPPER_HALF = (1 << 128) - 1 << 128
_FUNCTION_MASKS = (0, 4, 6, 7)  # FM: bits of the function number not compared
_GRANULARITIES: dict[DescriptorType, set[int]] = {
    DescriptorType.CONTEXT: {g.value for g in Granularity},
    DescriptorType.IOTLB: {g.value for g in Granularity},
    DescriptorType.PASID_CACHE: {g.value for g in PasidGranularity} - {PasidGranularity.IOTLB_PASID.value},
    DescriptorType.PASID_IOTLB: {PasidGranularity.IOTLB_PASID.value, Granularity.SELECTIVE.value},
}
_PAGE_TYPES = (DescriptorType.IOTLB, DescriptorType.PASID_IOTLB)
_PASID_TYPES = (DescriptorType.PASID_IOTLB, DescriptorType.PASID_CACHE)


@dataclass(slots=True)
class Invalidation:
    """What one APPLY drops (I6); None in a selector matches everything."""

    kind: Apply
    did: int | None = None
    pasid: int | None = None
    sid: int | None = None
    function_mask: int = 0
    page: int | None = None
    """IOTLB: first page number of a page-selective invalidation."""
    mask_bits: int = 0
    keep_pointers: bool = False
    """IH."""
    legacy_domain: bool = False
    """Domain-selective CONTEXT descriptor, which drops every context in scalable mode."""


class InvalidationQueue:
    """The queue engine (I1..I10)."""

    __slots__ = ("_contexts", "_invalidation", "_iotlb", "_max_mask", "_pointers", "_registers",
                 "_scalable_built", "_wait", "_walk_drain", "_walker", "asleep", "fetch_tail",
                 "line", "stale", "stale_completion", "state", "unacknowledged")  # fmt: skip

    def __init__(self, params: IommuParams, registers: Registers, walker: Walker,
                 caches: tuple[ContextCache, Iotlb, WalkCache]) -> None:  # fmt: skip
        self.state = _IDLE
        self.fetch_tail = 0
        self.line = 0
        """The line fetched last."""
        self.stale = self.stale_completion = 0
        """Answers older than the last invalidation that are still on their way (I8)."""
        self.unacknowledged = 0
        """Status writes granted and not acknowledged (I9)."""
        self.asleep = True
        """Whether `step` has nothing to do; kept by the top."""
        self._registers, self._walker = registers, walker
        self._contexts, self._iotlb, self._pointers = caches
        self._scalable_built = params.scalable
        self._max_mask = params.max_address_mask
        self._walk_drain = params.walk_drain
        self._invalidation = Invalidation(Apply.NONE)
        self._wait = 0

    # --- states -----------------------------------------------------------------------------------------

    @property
    def read_address(self) -> int:
        """Address of the queue's next read (I2)."""
        return (self._registers.queue_address & IQA["address"].mask) + self._registers.head

    def rests(self) -> bool:
        """Whether no step changes anything without new inputs (streams aside)."""
        if self.state == _IDLE:
            registers = self._registers
            if not registers.queue_enabled or registers.queue_error:
                return True
            return registers.head == registers.tail
        if self.state == _FENCE:
            return self.unacknowledged > 0
        if self.state == _WAIT:
            return bool(self.stale or self.stale_completion)
        return self.state == _FETCHING

    def step(self, fetched: tuple[int, int] | None, fetch_accepted: bool, buffer_free: bool) -> None:
        """End of a cycle by the state at its start (I1..I5, I9).

        `fetched` is (error, data) of the queue's read, `buffer_free` that the write buffer may be loaded.
        """
        state = self.state
        if state == _IDLE:
            self._idle()
        elif state == _FETCH:
            if fetch_accepted:
                self.fetch_tail = self._registers.tail
                self.state = _FETCHING
        elif state == _FETCHING:
            if fetched is not None:
                self._fetched(*fetched)
        elif state == _DECODE:
            self._decode()
        elif state == _APPLY:
            self._done()
        elif state == _WAIT:
            self._drain()
        elif state == _STATUS:
            if buffer_free:
                self._status()
        elif not self.unacknowledged:
            self._done()

    def _idle(self) -> None:
        """IDLE (I1)."""
        registers = self._registers
        tail = registers.tail
        if registers.queue_enabled and not registers.queue_error and registers.head != tail:
            if self._bad_tail(tail):
                self._fail("bad_tail")
            else:
                self.state = _FETCH

    def _bad_tail(self, tail: int) -> bool:
        """Whether no descriptor of the queue ends at `tail` (I1)."""
        return tail % self._descriptor_bytes != 0 or tail >= self._queue_bytes

    def _fetched(self, error: int, data: int) -> None:
        """Data for the queue arrives (I2)."""
        if error:
            self._fail("fetch")
        elif self._bad_tail(self.fetch_tail):
            self._fail("bad_tail")
        else:
            self.line = data
            self.state = _DECODE

    def _fail(self, error: str) -> None:
        """Queue error; head stays (I4)."""
        self._registers.fail_queue(error)
        self.state = _IDLE

    @property
    def _descriptor_bytes(self) -> int:
        return 32 if self._registers.queue_address & _DW else 16

    @property
    def _queue_bytes(self) -> int:
        return 1 << IQA.get(self._registers.queue_address, "qs") + 12

    def _done(self) -> None:
        """The descriptor is done: on to the next of the line, or IDLE (I5)."""
        registers = self._registers
        head = registers.head
        after = (head + self._descriptor_bytes) % self._queue_bytes
        registers.head = after
        more = after != self.fetch_tail and after >> 6 == head >> 6 and registers.queue_enabled
        self.state = _DECODE if more else _IDLE

    def _drain(self) -> None:
        """WAIT: left only when nothing stale was left at the start of the cycle (I8, I9)."""
        if self.stale or self.stale_completion:
            return
        if WAIT.get(self._wait, "status_write"):
            self.state = _STATUS
        else:
            self._complete_wait()
            self._done()

    def _status(self) -> None:
        """The status write is granted the write buffer (I9, M1)."""
        address = self._wait & WAIT["address"].mask
        self._registers.load(WriteId.STATUS, address >> 64, WAIT.get(self._wait, "data"))
        self.unacknowledged += 1
        self._complete_wait()
        if WAIT.get(self._wait, "fence"):
            self.state = _FENCE
        else:
            self._done()

    def _complete_wait(self) -> None:
        """IF sets ICS.IWC (I9)."""
        if WAIT.get(self._wait, "interrupt"):
            self._registers.completion = self._registers.completion_set = 1

    def note_stale(self, hits: int, completion: bool) -> None:
        """An invalidation was applied: count the answers that are on their way (I8)."""
        self.stale, self.stale_completion = hits, int(completion)

    def drain(self, hit_taken: bool, completion_taken: bool) -> None:
        """Stale answers leave (I8)."""
        if hit_taken and self.stale:
            self.stale -= 1
        if completion_taken:
            self.stale_completion = 0

    # --- DECODE (I3) ------------------------------------------------------------------------------------

    def _decode(self) -> None:
        """DECODE (I3, I5)."""
        wide = self._registers.queue_address & _DW
        word = self.line >> 8 * (self._registers.head & 63) & (1 << (256 if wide else 128)) - 1
        kind = word & 15
        if kind not in DESCRIPTORS or (kind in _PASID_TYPES and not self._scalable_built):
            self._fail("bad_type")
        elif self._reserved(DescriptorType(kind), word):
            self._fail("reserved")
        elif kind == DescriptorType.INTERRUPT:
            self._done()
        elif kind == DescriptorType.WAIT:
            self._wait = word
            self.state = _WAIT
        else:
            self._invalidation = _scope(DescriptorType(kind), word)
            self.state = _APPLY

    def _reserved(self, kind: DescriptorType, word: int) -> bool:
        """Reserved bits and values, AM beyond MAMV, an address that is not aligned (I3)."""
        form = DESCRIPTORS[kind]
        if word & (form.reserved | _UPPER_HALF):
            return True
        if kind not in _GRANULARITIES:
            return False
        granularity = form.get(word, "g")
        if granularity not in _GRANULARITIES[kind]:
            return True
        if kind in _PAGE_TYPES and granularity == Granularity.SELECTIVE:
            mask_bits = form.get(word, "am")
            return mask_bits > self._max_mask or form.get(word, "address") % (1 << mask_bits) != 0
        return False

    # --- APPLY (I6) -------------------------------------------------------------------------------------

    @property
    def applying(self) -> Apply:
        """What is applied in this cycle (I6)."""
        return self._invalidation.kind if self.state == _APPLY else Apply.NONE

    def killing(self) -> int:
        """Mask of the slots that this APPLY kills, by the state at the start of the cycle (I6, K9)."""
        if not self._walk_drain:
            return 0
        walker, what = self._walker, self._invalidation
        if what.kind is Apply.CONTEXT:
            return (1 << walker.count) - 1 & ~(walker.free | walker.killed)
        mask = 0
        for index, slot in walker.busy_pages():
            if what.did is not None and slot.did != what.did:
                continue
            if what.page is not None:
                # With IH=0 the pointer that the walk holds falls too: the span of its whole table (I6).
                region = level_shift(slot.stage) + 3 if what.keep_pointers else level_shift(slot.stage + 1)
                bits = max(region, what.mask_bits + 12)
                if slot.iova >> bits != what.page << 12 >> bits:
                    continue
            mask |= 1 << index
        return mask

    def apply(self) -> None:
        """Drop cached entries (I6)."""
        what = self._invalidation
        if what.kind is Apply.CONTEXT:
            everything = what.legacy_domain and self._registers.mode == TTM_SCALABLE
            self._contexts.drop(None if everything else what.did, what.pasid, what.sid, what.function_mask)
        elif what.did is None:
            self._iotlb.drop_all()
            self._pointers.drop_all()
        elif what.page is None:
            self._iotlb.drop_domain(what.did)
            self._pointers.drop_domain(what.did)
        else:
            self._iotlb.drop_pages(what.did, what.page, what.mask_bits)
            if not what.keep_pointers:
                self._pointers.drop_pages(what.did, what.page, what.mask_bits)


def _scope(kind: DescriptorType, word: int) -> Invalidation:
    """What a good invalidation descriptor drops (I6)."""
    if kind == DescriptorType.CONTEXT:
        return _context_scope(word)
    if kind == DescriptorType.PASID_CACHE:
        granularity = PASID_CACHE_INV.get(word, "g")
        did = None if granularity == PasidGranularity.GLOBAL else PASID_CACHE_INV.get(word, "did")
        pasid = PASID_CACHE_INV.get(word, "pasid") if granularity == PasidGranularity.PASID else None
        return Invalidation(Apply.CONTEXT, did=did, pasid=pasid)
    form = IOTLB_INV if kind == DescriptorType.IOTLB else PASID_IOTLB_INV
    granularity = form.get(word, "g")
    if granularity == Granularity.GLOBAL:
        return Invalidation(Apply.IOTLB)
    what = Invalidation(Apply.IOTLB, did=form.get(word, "did"))
    if granularity == Granularity.SELECTIVE:
        what.page, what.mask_bits = form.get(word, "address"), form.get(word, "am")
        what.keep_pointers = bool(form.get(word, "ih"))
    return what


def _context_scope(word: int) -> Invalidation:
    granularity = CONTEXT_INV.get(word, "g")
    if granularity == Granularity.GLOBAL:
        return Invalidation(Apply.CONTEXT)
    if granularity == Granularity.DOMAIN:
        return Invalidation(Apply.CONTEXT, did=CONTEXT_INV.get(word, "did"), legacy_domain=True)
    mask = _FUNCTION_MASKS[CONTEXT_INV.get(word, "fm")]
    return Invalidation(Apply.CONTEXT, sid=CONTEXT_INV.get(word, "sid"), function_mask=mask)
