"""Judge 1: the legal outcomes of an access, given stores and completed invalidations (D3; facts F1, B3).

Decisions that the facts leave open, all on the side of allowing more:

- Any value that an entry held since the covering invalidation was submitted may be cached, whether or not the
  address was accessed (speculative fills, F1 A3); different entries may be read at different times (F1 A1).
  Entries of more than 64 bits are read at one instant, because the IOMMU reads whole lines.
- An invalidation counts as complete for answers given after the cycle in which its status write was seen.

And on the side of allowing less: invalidations drain whatever DR and DW say (K8), and an answer after
completion may use nothing older than the submission even if the request came before (a K9=0 IOMMU is caught
by this).
"""

from collections import deque
from dataclasses import dataclass

from pymodel.iommu.coverage import Coverage, Invalidation
from pymodel.iommu.history import ALWAYS, STAMP_SHIFT, Clock, History, Record
from pymodel.iommu.paths import Paths
from pymodel.iommu.translate import REASONS, passed
from pymodel.iommu.types import Outcome, Request, TableMemory
from pymodel.iommu.views import Views
from pymodel.spec.context import RTADDR, TTM_SCALABLE
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams
from pymodel.spec.second_stage import INTERRUPT_FIRST, LEVEL_NAMES

__all__ = ["Judge", "Violation"]

_MAX_SHOWN = 6
_MAX_KNOWN = 1 << 16


@dataclass(frozen=True)
class Violation:
    """An outcome that no conforming IOMMU can give."""

    request: Request
    accepted_at: int
    answered_at: int
    got: Outcome
    expected: frozenset[Outcome]
    text: str

    def __str__(self) -> str:
        return self.text


class Judge:
    """Collects history and judges outcomes; times of successive calls never decrease."""

    def __init__(self, params: IommuParams, memory: TableMemory, *, keep: int = 64) -> None:
        self.params = params
        self.memory = memory
        self.clock = Clock()
        self.history = History(memory, self.clock, keep=keep)
        self.coverage = Coverage(params)
        self.stored = self.history.stored
        """Memory observer."""
        self._keep = keep
        self._paths = Paths(params, memory, self.history, self.coverage)
        self._enabled = Record(0)
        self._root = Record(0)
        self._used = False
        """Translation was on at some time."""
        self._open: deque[tuple[int, int, Invalidation]] = deque()
        """(ticket, submitted, invalidation) not known to be complete."""
        self._due: deque[tuple[int, int, Invalidation]] = deque()
        """(cycle of completion, submitted, invalidation) to be applied for later answers."""
        self._ticket = 0
        self._pruned_to = ALWAYS
        """Submission of the global IOTLB invalidation up to which history was forgotten."""
        self._views = Views(params, memory, self.history, self.coverage, self._root)
        self._known: set[tuple[object, ...]] = set()
        """Translations of pages that were found legal; they stay so until `history.changed` moves."""
        self._known_at = self.history.changed

    # --- history

    def advance(self, time: int) -> None:
        """Events from now on happen in cycle `time`."""
        self.clock.advance(time)

    def enable(self, time: int, on: bool) -> None:
        """Translation is turned on or off (GCMD.TE)."""
        self.clock.advance(time)
        if bool(self._enabled.value) != on:
            self._enabled.change(self.clock.tick(), int(on), self._keep)
            self.history.changed = self.clock.stamp
            self._used = self._used or on

    def set_root(self, time: int, rtaddr: int) -> None:
        """The root pointer is taken over (GCMD.SRTP)."""
        self.clock.advance(time)
        self.history.changed = self.clock.tick()
        if not self._used:  # nothing was ever read through the pointer before
            self._root.value = rtaddr
            self._views.forget()
        elif self._root.value != rtaddr:
            self._root.change(self.clock.tick(), rtaddr, self._keep)
            self._views.forget()

    def submitted(self, time: int, invalidation: Invalidation) -> int:
        """The doorbell released an invalidation; returns its ticket, rising in queue order."""
        self.clock.advance(time)
        self._ticket += 1
        self._open.append((self._ticket, self.clock.tick(), invalidation))
        return self._ticket

    def completed(self, time: int, ticket: int | None = None) -> None:
        """All invalidations up to `ticket` (default: all) were seen to be complete in cycle `time`."""
        self.clock.advance(time)
        while self._open and (ticket is None or self._open[0][0] <= ticket):
            _, submitted, invalidation = self._open.popleft()
            self._due.append((time, submitted, invalidation))

    def prune(self, oldest: int) -> None:
        """Forget the history that cannot matter any more; every request accepted before cycle `oldest` is answered.

        A value that memory ceased to hold before a completed global invalidation was submitted is in no cache and no
        walk: walks that are in flight are restarted (K9). The same holds for context structures after a flush of all
        caches. A request that is still open may have been refused by what memory held since its acceptance.
        """
        self._settle(self.clock.time)
        flushed = self.coverage.leaf_global
        if flushed == self._pruned_to or flushed >= oldest << STAMP_SHIFT:
            return
        self._pruned_to = flushed
        scalable = any(RTADDR.get(root, "ttm") == TTM_SCALABLE for _, _, root in self._root.versions())
        self.history.prune(flushed, self.coverage.flushed_pasids if scalable else self.coverage.flushed)

    def _settle(self, answered_at: int) -> None:
        while self._due and self._due[0][0] < answered_at:
            time, submitted, invalidation = self._due.popleft()
            self.history.changed = self.clock.tick()
            if self.coverage.apply(invalidation, submitted, (time + 1) << STAMP_SHIFT):
                self._views.forget()

    # --- verdicts

    def legal(self, request: Request, accepted_at: int, answered_at: int) -> frozenset[Outcome]:
        """Every outcome that a conforming IOMMU may give to a request accepted and answered in these cycles.

        Call it in the cycle of the answer, before events of later cycles.
        """
        if answered_at > self.clock.time:
            self.clock.advance(answered_at)
        return frozenset(self._outcomes(request, accepted_at << STAMP_SHIFT, answered_at))

    def _outcomes(self, request: Request, accepted: int, answered_at: int) -> set[Outcome]:
        if self._due:
            self._settle(answered_at)
        found: set[Outcome] = set()
        on = False
        for _, end, enabled in self._enabled.versions():
            if end < accepted:
                break
            if enabled:
                on = True
            else:
                found.add(passed(request))
        if on:
            self._translated(request, accepted, found)
        return found

    def _translated(self, request: Request, accepted: int, found: set[Outcome]) -> None:
        view = self._views.get(request, accepted)
        for refusal, end in view.mode_faults:
            if end >= accepted:
                found.add(Outcome(refusal.reason, recorded=not refusal.fpd))
        if request.pasid is None and request.iova >> 20 == INTERRUPT_FIRST >> 20:
            for scalable in view.modes:
                found.add(passed(request) if request.write else Outcome(REASONS[scalable].interrupt))
            return
        for refusal, end in view.faults:
            if end >= accepted:
                found.add(Outcome(refusal.reason, recorded=not refusal.fpd))
        for context in view.contexts:
            if context.pass_through:
                found.add(passed(request, context.snoop))
            elif request.iova >> (12 + 9 * context.levels):
                found.add(Outcome(REASONS[context.scalable].beyond_width, recorded=not context.fpd))
            else:
                self._paths.collect(request, context, self._views.tables(context), accepted, found)

    # --- complaints

    def check(
        self, request: Request, accepted_at: int, answered_at: int, outcome: Outcome
    ) -> Violation | None:
        """None if the answer is legal (`recorded` is not looked at); call it in the cycle of the answer."""
        if answered_at > self.clock.time:
            self.clock.advance(answered_at)
        if self._due:
            self._settle(answered_at)
        key = self._page_key(request, accepted_at, outcome)
        if key in self._known:
            return None
        allowed = self._outcomes(request, accepted_at << STAMP_SHIFT, answered_at)
        if outcome in allowed or outcome.answer in {one.answer for one in allowed}:
            if key is not None:
                self._known.add(key)
            return None
        expected = frozenset(allowed)
        text = (
            f"cycle {answered_at}: {request} (accepted in {accepted_at}): expected {_listing(expected)}, "
            f"got {outcome}; {self.explain(request)}"
        )
        return Violation(request, accepted_at, answered_at, outcome, expected, text)

    def remembers(
        self, sid: int, pasid: int | None, iova: int, write: int, accepted_at: int, answered_at: int,
        address: int, level: int, r: int, w: int, snoop: int,
    ) -> bool:  # fmt: skip
        """True if `check` found this translation of the page legal before and nothing ended that since.

        Saves a lane that judges every answer from making a `Request` and an `Outcome` for most of them. Call it in
        the cycle of the answer.
        """
        if answered_at > self.clock.time:
            self.clock.advance(answered_at)
        if self._due:
            self._settle(answered_at)
        changed = self.history.changed
        return (
            self._known_at == changed < accepted_at << STAMP_SHIFT and not (address ^ iova) & 0xFFF
            and (sid, pasid, iova >> 12, write, address >> 12, level, r, w, snoop) in self._known
        )  # fmt: skip

    def _page_key(self, request: Request, accepted_at: int, outcome: Outcome) -> tuple[object, ...] | None:
        """Identifies the answer for its whole page; None where legality depends on more than the present state.

        Which translations are legal depends on when a request came only if something changed after that (see
        `History.changed`).
        """
        changed = self.history.changed
        if outcome.reason or accepted_at << STAMP_SHIFT <= changed or (outcome.address ^ request.iova) & 0xFFF:
            return None
        if self._known_at != changed or len(self._known) >= _MAX_KNOWN:
            self._known.clear()
            self._known_at = changed
        return (
            request.sid, request.pasid, request.iova >> 12, request.write,
            outcome.address >> 12, outcome.level, outcome.r, outcome.w, outcome.snoop,
        )  # fmt: skip

    def recordable(
        self, request: Request, accepted_at: int, answered_at: int, reason: Reason
    ) -> frozenset[bool]:
        """Whether a refusal has to be recorded: {True}, {False}, or both where history allows either."""
        allowed = self._outcomes(request, accepted_at << STAMP_SHIFT, answered_at)
        return frozenset(one.recorded for one in allowed if one.reason == reason)

    def explain(self, request: Request) -> str:
        """The entries on the current path with the last values they held before, in one short line."""
        parts: list[str] = []
        for context in sorted(self._views.get(request, self.clock.stamp).contexts)[:2]:
            table = context.table
            for level in range(context.levels - 1, -1, -1):
                address = table + 8 * ((request.iova >> (12 + 9 * level)) & 511)
                entry = self.memory.load(address)
                record = self.history.records.get(address)
                past = "" if record is None else "".join(
                    f", {value:#x} until {end >> STAMP_SHIFT}" for _, end, value in record.past[:-4:-1]
                )  # fmt: skip
                parts.append(f"{LEVEL_NAMES[level]} at {address:#x} = {entry:#x}{past}")
                if not entry & 3 or level == 0 or entry & 0x80 or not self.memory.readable(address):
                    break
                table = entry & 0x000F_FFFF_FFFF_F000
        return "; ".join(parts) or "no usable context entry"


def _listing(outcomes: frozenset[Outcome]) -> str:
    shown = [str(one) for one in sorted(outcomes)[:_MAX_SHOWN]]
    if len(outcomes) > _MAX_SHOWN:
        shown.append(f"{len(outcomes) - _MAX_SHOWN} more")
    return " or ".join(shown) or "nothing (no outcome is legal)"
