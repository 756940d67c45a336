"""Notifiers for tests: one writes down what it is told, one sees that no entry changes behind its back."""

from collections.abc import Iterator
from typing import Any

from pymodel.host import entries
from pymodel.host.effects import HostPteChanged
from pymodel.host.notifier import MmuEvent
from pymodel.host.process import Process

__all__ = ["Call", "Guard", "Spy"]

Call = tuple[str, int, int, int]
"""(notifier, start, end, event); change_pte and the ageing calls have event -1."""


class Spy:
    """A notifier that writes down what it is told."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def _note(self, name: str, start: int, end: int, event: int) -> Iterator[None]:
        self.calls.append((name, start, end, event))
        yield from ()

    def invalidate_range_start(self, start: int, end: int, event: MmuEvent) -> Any:
        return self._note("start", start, end, int(event))

    def invalidate_range_end(self, start: int, end: int, event: MmuEvent) -> Any:
        return self._note("end", start, end, int(event))

    def change_pte(self, hva: int, frame: int, writable: bool) -> Any:
        return self._note("change_pte", hva, hva + 4096, -1)

    def clear_flush_young(self, start: int, end: int) -> Any:
        return self._note("young", start, end, -1)

    def clear_young(self, start: int, end: int) -> Any:
        return self._note("clear_young", start, end, -1)

    def test_young(self, hva: int) -> Any:
        return self._note("test_young", hva, hva + 4096, -1)

    def release(self) -> Any:
        return self._note("release", 0, 0, -1)


class Guard(Spy):
    """The last notifier of `mm`: an entry that maps less than before must have changed between a start and an end.

    An entry that loses D counts: who still writes to the page by an old translation leaves no trace. This is the order
    of call and store: the start has been heard by all when it is heard here, the end by some.
    """

    def __init__(self, mm: Process) -> None:
        super().__init__()
        self._mm = mm
        self.taken = 0
        """Changes that took something away."""
        mm.notifiers.append(self)

    def see(self, effect: Any) -> None:
        """For every effect, before it is done. Raises `AssertionError`."""
        if not isinstance(effect, HostPteChanged) or effect.mm != self._mm.ident or not _takes(effect):
            return
        self.taken += 1
        size = entries.page_size(effect.level)
        open_ranges = self._open()
        if open_ranges is not None and not any(low <= effect.hva and effect.hva + size <= high
                                               for low, high in open_ranges):  # fmt: skip
            raise AssertionError(f"hva {effect.hva:#x} level {effect.level} went from {effect.old:#x} to "
                                 f"{effect.new:#x} outside every invalidation")  # fmt: skip

    def _open(self) -> list[tuple[int, int]] | None:
        """Ranges between start and end; None after a release, which covers everything."""
        ranges: list[tuple[int, int]] = []
        for name, start, end, _ in self.calls:
            if name == "start":
                ranges.append((start, end))
            elif name == "end":
                ranges.remove((start, end))
            elif name == "release":
                return None
        self.calls = [("start", *found, 0) for found in ranges]
        return ranges


def _takes(change: HostPteChanged) -> bool:
    if not change.old & entries.PRESENT:
        return False
    if not change.new & entries.PRESENT or entries.frame_of(change.old) != entries.frame_of(change.new):
        return True
    if entries.is_dirty(change.old) and not entries.is_dirty(change.new):
        return True
    return bool(change.old & ~change.new & entries.WRITABLE)
