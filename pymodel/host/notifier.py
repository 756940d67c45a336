"""MMU notifiers, seen from the primary MMU: what it calls, and with which event (include/linux/mmu_notifier.h)."""

from collections.abc import Generator
from enum import IntEnum
from typing import Any, Protocol

__all__ = ["MmuEvent", "MmuNotifier"]


class MmuEvent(IntEnum):
    """enum mmu_notifier_event, with the values that recordings show."""

    UNMAP = 0
    CLEAR = 1
    PROTECTION_VMA = 2
    PROTECTION_PAGE = 3


class MmuNotifier(Protocol):
    """A secondary MMU. Addresses are host virtual, ranges half-open; each method is an agent that runs to its end."""

    def invalidate_range_start(self, start: int, end: int, event: MmuEvent) -> Generator[Any, Any, None]:
        """The entries are about to change; on return nothing reaches their pages through this MMU."""

    def invalidate_range_end(self, start: int, end: int, event: MmuEvent) -> Generator[Any, Any, None]:
        """They have changed; new translations may be made."""

    def change_pte(self, hva: int, frame: int, writable: bool) -> Generator[Any, Any, None]:
        """The page at `hva` becomes `frame` (before 6.10), between a start and an end."""

    def clear_flush_young(self, start: int, end: int) -> Generator[Any, Any, bool]:
        """Forget accesses to the range, TLBs too; True if there were any."""

    def clear_young(self, start: int, end: int) -> Generator[Any, Any, bool]:
        """The same without TLBs."""

    def test_young(self, hva: int) -> Generator[Any, Any, bool]:
        """Whether the page was accessed."""

    def release(self) -> Generator[Any, Any, None]:
        """The process exits; everything goes."""
