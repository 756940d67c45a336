"""What root, context and PASID structures may say about a source of requests (facts A4, B2).

Root and context entries are dropped by context-cache invalidations, PASID directory and entries by
PASID-cache invalidations. A table that served a domain stays reachable by cached pointers and leaves, which
are tagged by domain, until an IOTLB invalidation drops those, also when the context entry is gone.
"""

from pymodel.iommu.context import (
    context_address,
    directory_address,
    mode_refusal,
    pasid_address,
    root_address,
)
from pymodel.iommu.coverage import ALIVE, Coverage, Drop, first_drop
from pymodel.iommu.entries import Context, ContextRules, Refusal
from pymodel.iommu.history import NEVER, History, Record
from pymodel.iommu.types import Request, TableMemory
from pymodel.spec import context as layout
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

__all__ = ["View", "Views"]

_MAX_VIEWS = 4096


class View:
    """The verdicts that are possible for one (source, PASID)."""

    __slots__ = ("accepted", "contexts", "faults", "mode_faults", "modes")

    def __init__(self, accepted: int) -> None:
        self.accepted = accepted
        """Right for requests accepted at or after this stamp."""
        self.mode_faults: list[tuple[Refusal, int]] = []
        """With the stamp up to which memory held what refuses."""
        self.modes: set[bool] = set()
        """Scalable or not, of root pointers that may be used now."""
        self.faults: list[tuple[Refusal, int]] = []
        self.contexts: set[Context] = set()
        """Verdicts that may be used now."""

    def refuse(self, refusal: Refusal, usable: Drop, end: int) -> None:
        """What refuses is never cached: all above must be usable, and it must have held since acceptance."""
        if usable is ALIVE and end >= self.accepted:
            self.faults.append((refusal, end))


class Views:
    """Views by source, built on demand and forgotten when anything that they read changes."""

    def __init__(
        self, params: IommuParams, memory: TableMemory, history: History, coverage: Coverage, root: Record
    ) -> None:
        self._params = params
        self._memory = memory
        self._history = history
        self._coverage = coverage
        self._root = root
        self._rules = ContextRules(params)
        self._views: dict[tuple[int, int | None], View] = {}
        self._tables: dict[int, dict[tuple[int, int], Drop]] = {}
        """did -> (root, levels) -> until when it was certainly usable."""

    def get(self, request: Request, accepted: int) -> View:
        """What may be said about the source of a request accepted at or after the stamp `accepted`."""
        if self._history.disturbed or len(self._views) > _MAX_VIEWS:
            self.forget()
        key = (request.sid, request.pasid)
        view = self._views.get(key)
        if view is None or view.accepted > accepted:
            view = self._views[key] = View(accepted)
            self._build(view, request)
        return view

    def forget(self) -> None:
        """Something changed: build all views anew."""
        self._views.clear()
        self._history.unwatch()
        now = self._history.clock.tick()
        for tables in self._tables.values():
            for key, until in tables.items():
                if until is ALIVE:
                    tables[key] = (now, now)

    def tables(self, context: Context) -> list[tuple[int, int, Drop]]:
        """Page tables that cached entries of the domain may stem from, the context's own included."""
        tables = self._tables[context.did]
        if len(tables) == 1:
            return [(context.table, context.levels, ALIVE)]
        bound = self._coverage.everything(context.did)
        for key in [key for key, until in tables.items() if until[0] <= bound]:
            del tables[key]
        return [(table, levels, until) for (table, levels), until in tables.items()]

    def _candidate(self, view: View, context: Context, until: Drop) -> None:
        """A verdict that caches may hold until it is dropped."""
        if until is ALIVE:
            view.contexts.add(context)
        if not context.pass_through and until[0] > self._coverage.everything(context.did):
            tables = self._tables.setdefault(context.did, {})
            key = (context.table, context.levels)
            if key not in tables or until > tables[key]:
                tables[key] = until

    def _build(self, view: View, request: Request) -> None:
        history, coverage, sid = self._history, self._coverage, request.sid
        for _, end, rtaddr in self._root.versions():
            usable = ALIVE if end == NEVER else first_drop(coverage.context_global, end)
            refusal = mode_refusal(self._params, rtaddr, request)
            if refusal is not None:
                view.mode_faults.append((refusal, end))
                continue
            scalable = layout.RTADDR.get(rtaddr, "ttm") == layout.TTM_SCALABLE
            if usable is ALIVE:
                view.modes.add(scalable)
            address = root_address(self._params, rtaddr, sid)
            if not self._memory.readable(address):
                refusal = Refusal(Reason.SM_ROOT_ACCESS if scalable else Reason.ROOT_ACCESS)
                view.refuse(refusal, usable, NEVER)
                continue
            history.watch(address)
            for start, root_end, entry in history.entries(address, 1 if scalable else 2):
                if start > usable[1]:
                    continue
                root = self._rules.scalable_root(entry) if scalable else self._rules.legacy_root(entry)
                if isinstance(root, Refusal):
                    view.refuse(root, usable, root_end)
                    continue
                last = min(end, root_end)
                reach = ALIVE if last == NEVER else coverage.context(sid, None, scalable, last)
                place = context_address(root, scalable, sid)
                if not self._memory.readable(place):
                    refusal = Refusal(Reason.SM_CONTEXT_ACCESS if scalable else Reason.CONTEXT_ACCESS)
                    view.refuse(refusal, reach, NEVER)
                    continue
                history.watch(place)
                if scalable:
                    self._scalable_context(view, request, place, last, reach)
                else:
                    self._legacy_context(view, request, place, last, reach)

    def _legacy_context(self, view: View, request: Request, address: int, last: int, usable: Drop) -> None:
        """Context entries; `last`: up to when what led here held, `usable`: what ended its use."""
        for start, end, entry in self._history.entries(address, 2):
            if start > usable[1]:
                continue
            context = self._rules.legacy_context(entry)
            if isinstance(context, Refusal):
                view.refuse(context, usable, end)
                continue
            read = min(last, end)
            until = ALIVE
            if read != NEVER:
                until = self._coverage.context(request.sid, context.did, False, read)
            self._candidate(view, context, until)

    def _scalable_context(self, view: View, request: Request, address: int, last: int, usable: Drop) -> None:
        for start, end, entry in self._history.entries(address, 4):
            if start > usable[1]:
                continue
            found = self._rules.scalable_context(entry, request.pasid)
            if isinstance(found, Refusal):
                view.refuse(found, usable, end)
                continue
            directory, pasid, fpd = found
            read = min(last, end)
            reach = ALIVE if read == NEVER else self._coverage.context(request.sid, None, True, read)
            place = directory_address(directory, pasid)
            if not self._memory.readable(place):
                view.refuse(Refusal(Reason.SM_DIRECTORY_ACCESS, fpd), reach, NEVER)
                continue
            self._history.watch(place)
            self._directory(view, place, pasid, fpd, reach)

    def _directory(self, view: View, address: int, pasid: int, fpd: bool, usable: Drop) -> None:
        history, coverage = self._history, self._coverage
        for start, end, entry in history.entries(address, 1):
            if start > usable[1]:
                continue
            table = self._rules.directory(entry, fpd)
            if isinstance(table, Refusal):
                view.refuse(table, usable, end)
                continue
            last = min(end, usable[0])
            reach = ALIVE if last == NEVER else coverage.pasid(None, pasid, last)
            both = min(usable, reach)
            place = pasid_address(table[0], pasid)
            if not self._memory.readable(place):
                view.refuse(Refusal(Reason.SM_PASID_ACCESS, table[1]), both, NEVER)
                continue
            history.watch(place)
            for begin, over, words in history.entries(place, 8):
                if begin > reach[1]:
                    continue
                context = self._rules.pasid(words, table[1])
                if isinstance(context, Refusal):
                    view.refuse(context, both, over)
                    continue
                read = min(last, over)
                until = ALIVE if read == NEVER else coverage.pasid(context.did, pasid, read)
                self._candidate(view, context, until)
