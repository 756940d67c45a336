"""guest_memfd: a file whose pages only a guest reaches; no process maps it (virt/kvm/guest_memfd.c, facts C9)."""

from collections.abc import Generator
from typing import Any, Protocol

from pymodel.host.effects import ClearPage, HostAgent, PageBusy
from pymodel.host.errors import BadRange, OutOfMemory
from pymodel.host.files import pages_within
from pymodel.host.frames import Folio
from pymodel.host.process import Host

__all__ = ["GmemNotifier", "GuestMemfd"]


class GmemNotifier(Protocol):
    """A VM that shows the file in a memslot; `first`..`end` are 4K pages of the file, half-open."""

    def invalidate_begin(self, first: int, end: int) -> Generator[Any, Any, None]:
        """The pages are about to go; on return the guest does not reach them."""

    def invalidate_end(self, first: int, end: int) -> Generator[Any, Any, None]:
        """They are gone."""


class GuestMemfd:
    """Pages by their index; with `huge`, the first touch of an aligned 2 MiB takes a huge page if one is free."""

    def __init__(self, host: Host, *, huge: bool = False) -> None:
        self.host = host
        self.huge = huge
        self.pages: dict[int, Folio] = {}
        """First index of each folio -> folio; its one reference is the file's."""
        self.notifiers: list[GmemNotifier] = []

    def find(self, index: int) -> tuple[int, Folio] | None:
        """(4K frame, folio) of a page that is there."""
        for first in (index, index & ~511):
            folio = self.pages.get(first)
            if folio is not None and index < first + folio.count:
                return folio.frame + index - first, folio
        return None

    def page(self, index: int) -> HostAgent[tuple[int, int] | None]:
        """kvm_gmem_get_pfn: (4K frame, largest level that maps it), cleared when it is made; None without memory."""
        while (found := self.find(index)) is None:
            try:
                folio, first = self._allocate(index)
            except OutOfMemory:
                return None
            for frame in range(folio.frame, folio.frame + folio.count):
                yield ClearPage(frame)
            if any(other in self.pages for other in range(first, first + folio.count)) or self.find(index) is not None:
                yield from self.host.put(folio)
                yield PageBusy(0, index << 12)
            else:
                self.pages[first] = folio
        return found[0], found[1].level

    def _allocate(self, index: int) -> tuple[Folio, int]:
        first = index & ~511
        if self.huge and not any(other in self.pages for other in range(first, first + 512)):
            try:
                return self.host.frames.allocate(9), first
            except OutOfMemory:
                pass
        return self.host.frames.allocate(0), index

    def punch_hole(self, first: int, end: int) -> HostAgent[None]:
        """kvm_gmem_punch_hole: each VM between its begin and its end; whole folios only.

        Raises `BadRange` for an empty range and for one that cuts a huge page.
        """
        if not 0 <= first < end:
            raise BadRange(f"a hole must not be empty, not pages {first:#x}..{end:#x}")
        for edge in (first, end):
            found = self.pages.get(edge & ~511)
            if found is not None and found.order and edge & 511:
                raise BadRange(f"page {edge:#x} lies inside a huge page of the file")
        for notifier in self.notifiers:
            yield from notifier.invalidate_begin(first, end)
        for index in pages_within(self.pages, first, end):
            yield from self.host.put(self.pages.pop(index))
        for notifier in self.notifiers:
            yield from notifier.invalidate_end(first, end)
