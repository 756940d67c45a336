"""What the IOMMU gets next: requests of agents and sources, register accesses of agents."""

from typing import Protocol

from cocotb_tests.harness.ledger import Ledger
from cocotb_tests.harness.scheduler import Translate, Translation
from pymodel.effects import WriteRegister

__all__ = ["Offers", "Source"]


class Source(Protocol):
    """A device that streams requests without being an agent: cheaper, one method call for each request."""

    done: bool
    """No more requests will come."""

    def next(self, cycle: int) -> Translate | None:
        """The request to offer from this cycle on, or None."""

    def answered(self, translation: Translation) -> None:
        """A request of this source was answered."""


class Offers(Ledger):
    """The part of `LockStep` that chooses what goes in."""

    sources: list[Source]
    stopping: bool
    """True once the run drains; agents that run for ever look at it and end."""
    _turn = 0

    def add_source(self, source: Source) -> None:
        """Let `source` offer requests."""
        self.sources.append(source)

    def _next_request(self, now: int) -> tuple[int, int, int, int, int, int] | None:
        """The request to offer from this cycle on: agents first, then the sources in turn."""
        if not self._tags:
            return None
        translates = self.scheduler.translates
        if translates:
            self._request_owner, wanted = translates.popleft()
        else:
            sources, count = self.sources, len(self.sources)
            if self.stopping:
                return None
            for step in range(count):
                position = (self._turn + step) % count
                found = sources[position].next(now)
                if found is not None:
                    self._turn = position + 1
                    self._request_owner, wanted = sources[position], found
                    break
            else:
                return None
        sid, iova, write, pasid, junk = wanted
        if pasid is None:
            return self._tags.popleft(), sid, 0, junk, iova, int(write)
        return self._tags.popleft(), sid, 1, pasid, iova, int(write)

    def _next_access(self) -> tuple[int, int, int, int]:
        """The register access to offer from this cycle on."""
        self._access = _run, effect = self.scheduler.accesses.popleft()
        lane = effect.offset & 7
        if type(effect) is WriteRegister:
            return 1, effect.offset, effect.value << 8 * lane, (1 << effect.size) - 1 << lane
        return 0, effect.offset, 0, 0
