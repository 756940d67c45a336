"""guest_memfd: pages of their own, holes announced to the VMs."""

from collections.abc import Iterator

import pytest

from cocotb_tests.unit.pymodel.host.support import Setting, balance
from pymodel.host.errors import BadRange
from pymodel.host.guest_memfd import GuestMemfd


class Told:
    """A VM that writes down what it is told, and how many pages the file had then."""

    def __init__(self, file: GuestMemfd) -> None:
        self.file = file
        self.calls: list[tuple[str, int, int, int]] = []

    def invalidate_begin(self, first: int, end: int) -> Iterator[None]:
        self.calls.append(("begin", first, end, len(self.file.pages)))
        yield from ()

    def invalidate_end(self, first: int, end: int) -> Iterator[None]:
        self.calls.append(("end", first, end, len(self.file.pages)))
        yield from ()


@pytest.mark.parametrize(("huge", "level"), [(False, 1), (True, 2)])
def test_page_is_cleared_found_again_and_dropped(huge: bool, level: int) -> None:
    setting = Setting()
    file = GuestMemfd(setting.host, huge=huge)
    told = Told(file)
    file.notifiers.append(told)  # type: ignore[arg-type]
    setting.memory.store((setting.host.frames.base + 5) << 12, 0x5EC2E7)
    found = setting.run(file.page(1030))
    assert found is not None
    frame, got = found
    assert got == level
    assert setting.memory.load(frame << 12) == 0
    assert setting.run(file.page(1030)) == (frame, level)
    first, end = (1024, 1536) if huge else (1030, 1031)
    setting.run(file.punch_hole(first, end))
    assert told.calls == [("begin", first, end, 1), ("end", first, end, 0)]
    assert len(setting.reused) == end - first
    balance(setting.host)


def test_huge_page_needs_room_and_memory() -> None:
    setting = Setting(frames=1024)
    file = GuestMemfd(setting.host)
    setting.run(file.page(3))
    file.huge = True
    assert setting.run(file.page(4)) == (file.find(4)[0], 1)  # type: ignore[index]
    while setting.host.frames.free_count:
        setting.host.frames.allocate(0)
    assert setting.run(file.page(600)) is None


def test_hole_wrong() -> None:
    setting = Setting()
    file = GuestMemfd(setting.host, huge=True)
    setting.run(file.page(0))
    with pytest.raises(BadRange, match="must not be empty"):
        setting.run(file.punch_hole(3, 3))
    with pytest.raises(BadRange, match="page 0x5 lies inside a huge page"):
        setting.run(file.punch_hole(0, 5))
