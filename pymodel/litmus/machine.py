"""The small machine of the litmus tests: one table, one queue, a host that invalidates, devices that access.

IOVAs around `G` are translated by a 3-level table: entry 1 of the root, entry 1 of the table below.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any

from pymodel.effects import Agent, Event, Store, WaitFor, WriteRegister
from pymodel.explore import Attachment, Dma, Fault, IommuAgent, Names, Outcome
from pymodel.paging.formats import SecondStage
from pymodel.paging.geometry import PAGE, Range, cover, entry_address, span
from pymodel.paging.table import PagePool, PageTable
from pymodel.spec.descriptors import IOTLB_INV, WAIT, DescriptorType, Granularity
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import REGISTERS

__all__ = ["A", "B", "CHILD", "DID", "G", "NAMES", "PARAMS", "PD", "QUEUE", "REUSED", "ROOT", "SECRET", "SID",
           "STATUS", "Queue", "access", "child_entry", "domain_selective", "faults", "iommu", "large_table", "leaf",
           "new_table", "page_selective", "pde", "pointer", "read_of", "reuse_forbidden", "small_table", "wait",
           "within"]  # fmt: skip

PARAMS = IommuParams()
SID, DID = 0x10, 7
ROOT, PD, CHILD = 0x1000, 0x2000, 0x3000
"""Tables: of level 2, 1 and 0."""
POOL = 0x8000
"""Where agents take new tables from."""
G = span(2) + span(1)
"""IOVA: entry 1 of the root, entry 1 of the table below, entry 0 of the last."""
A, B = 0x4000_0000, 0x8000_0000
"""Pages of 2 MiB that devices are meant to reach."""
SECRET = 0xC000_0000
"""A page that no device may ever reach."""
QUEUE, STATUS = 0x10_0000, 0x11_0000
"""Invalidation queue, and the words that its waits write."""
REUSED = 0x5EED_BEEF
"""What the next owner keeps in a page that was freed."""

_FORMAT = SecondStage.of(PARAMS)
_IQT = REGISTERS["IQT"].offset


_PLACES = ((ROOT, 1, "root"), (PD, 1, "directory"), (CHILD, 1, "table"), (POOL, 16, "new table"), (A, 512, "page A"),
           (B, 512, "page B"), (SECRET, 512, "secret page"))  # fmt: skip
_ENTRIES = range(ROOT, POOL + 16 * PAGE)


def _place(address: int) -> str:
    for start, count, name in _PLACES:
        if start <= address < start + count * PAGE:
            return name if count == 1 else f"{name}+{(address - start) // PAGE}"
    return hex(address)


def within(place: str, address: int) -> str:
    """Name of a word in the page `place`; only its address where the page has no name."""
    offset = address & PAGE - 1
    return hex(address) if place.startswith("0x") else place + (f":{offset:#x}" if offset else "")


def _word(address: int) -> str:
    index = (address & PAGE - 1) >> 3
    if address in _ENTRIES:
        return f"{_place(address)}[{index}]"
    if address & -PAGE == QUEUE:
        return f"queue+{address & PAGE - 1:#x}"
    if address & -PAGE == STATUS:
        return f"status {index}"
    return within(_place(address), address)


def _value(address: int, word: int) -> str:
    if address not in _ENTRIES:
        return hex(word)
    if not word & 3:
        return "empty" if word == 0 else hex(word)
    target = word & (1 << 52) - PAGE
    large = "2M " if word >> 7 & 1 else ""
    return f"{large}{_place(target)} {'r' if word & 1 else '-'}{'w' if word & 2 else '-'}"


NAMES = Names(_word, _value)
"""For schedules."""


def leaf(address: int, level: int = 0, *, w: bool = True) -> int:
    """A leaf entry."""
    return _FORMAT.make_leaf(address, level, True, w)


def pointer(address: int, level: int = 1) -> int:
    """A table pointer in a table at `level`."""
    return _FORMAT.make_table(address, level)


def pde() -> int:
    """Address of the entry that decides about the 2 MiB at `G`."""
    return entry_address(PD, G, 1)


def child_entry(number: int) -> int:
    """Address of entry `number` in the last table."""
    return CHILD + 8 * number


def large_table() -> dict[int, int]:
    """Words of memory where a 2 MiB leaf maps `G` to `A`."""
    return {entry_address(ROOT, G, 2): pointer(PD, 2), pde(): leaf(A, 1)}


def small_table(numbers: Sequence[int] = range(512), *, w: bool = True) -> dict[int, int]:
    """Words of memory where 4 KiB leaves map pages of `G` to the same pages of `A`."""
    words = {entry_address(ROOT, G, 2): pointer(PD, 2), pde(): pointer(CHILD)}
    return words | {child_entry(number): leaf(A + number * PAGE, w=w) for number in numbers}


def new_table() -> PageTable:
    """The table for `pymodel.paging`; each agent needs one of its own, for it allocates."""
    return PageTable(_FORMAT, ROOT, 3, PagePool(POOL, POOL + 16 * PAGE))


def iommu(params: IommuParams = PARAMS, *flaws: str) -> IommuAgent:
    """The architectural IOMMU with device `SID` on the table."""
    return IommuAgent(params, {SID: Attachment(DID, ROOT, 3)}, QUEUE, flaws=flaws, names=NAMES)


def page_selective(range_: Range, *, ih: bool) -> int:
    """IOTLB invalidation of the smallest block around the range."""
    block = cover(range_)
    return IOTLB_INV.pack(
        type=DescriptorType.IOTLB, g=Granularity.SELECTIVE, did=DID, dw=1, dr=1, am=block.am, ih=ih,
        address=block.start >> 12,
    )  # fmt: skip


def domain_selective() -> int:
    """IOTLB invalidation of the whole domain; takes pointers too."""
    return IOTLB_INV.pack(type=DescriptorType.IOTLB, g=Granularity.DOMAIN, did=DID, dw=1, dr=1)


def wait(status: int, *, fence: bool = False) -> int:
    """Wait that writes 1 to the word at `status`."""
    return WAIT.pack(type=DescriptorType.WAIT, status_write=1, fence=fence, data=1, address=status >> 2)


class Queue:
    """The host's end of the invalidation queue; made by the agent that uses it."""

    def __init__(self) -> None:
        self._tail = 0
        self._waits = 0

    def submit(self, *descriptors: int) -> Agent[None]:
        """Write descriptors and ring the doorbell."""
        for descriptor in descriptors:
            for half in range(2):
                yield Store(QUEUE + self._tail + 8 * half, descriptor >> 64 * half & (1 << 64) - 1)
            self._tail += 16
        yield WriteRegister(_IQT, self._tail, 8)

    def invalidate(self, range_: Range, *, ih: bool) -> Agent[None]:
        """Page-selective invalidation, to its end."""
        yield from self.complete(page_selective(range_, ih=ih))

    def complete(self, descriptor: int) -> Agent[None]:
        """Submit an invalidation and a wait, and wait."""
        status = STATUS + 8 * self._waits
        self._waits += 1
        yield from self.submit(descriptor, wait(status))
        yield WaitFor(status, 0xFFFF_FFFF, 1)


def access(name: str, iova: int, write: bool = False, value: int = 0) -> Generator[Any, Any, Any]:
    """One access of the device; says what came of it."""
    answer = yield Dma(SID, iova, write, value)
    if isinstance(answer, Fault):
        yield Event(name, (("fault", str(answer)),))
    else:
        yield Event(name, (("wrote", value),) if write else (("data", answer),))
    return answer


def faults(outcome: Outcome) -> list[str]:
    """Reasons of all refused accesses of the outcome."""
    return [
        str(value) for events in outcome.events for event in events for name, value in event.details if name == "fault"
    ]


def reuse_forbidden(outcome: Outcome) -> str:
    """A device reached the observed word "page" after its next owner wrote `REUSED` to it."""
    if any(seen.get("data") == REUSED for seen in outcome.named("read")):
        return "a device read the page after it was used again"
    if outcome.word("page") != REUSED:
        return "a device wrote the page after it was used again"
    return ""


def read_of(data: int) -> Callable[[Outcome], bool]:
    """Whether some event "read" of an outcome shows `data`."""
    return lambda outcome: any(seen.get("data") == data for seen in outcome.named("read"))
