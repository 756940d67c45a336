"""Events of a `vtd-linux-trace-1` recording: what Linux, devices and an emulated VT-d unit did."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, TypeAdapter
from pydantic_core import PydanticCustomError

from cocotb_tests.inputs.values import Address, DwordAddress, Hex, PageAddress, WordAddress, hex_integer

__all__ = [
    "Access",
    "AddressWidth",
    "EVENT",
    "FORMAT",
    "WIDTHS",
    "Descriptor",
    "Dma",
    "Drop",
    "End",
    "Event",
    "Fault",
    "FaultRecord",
    "Header",
    "Invalidation",
    "Message",
    "Level",
    "Note",
    "Page",
    "PageRuns",
    "Phase",
    "ReasonCode",
    "RegisterWrite",
    "Snapshot",
    "SourceId",
    "StoreEvent",
    "Translated",
    "Wait",
    "page_words",
]

FORMAT = "vtd-linux-trace-1"
WIDTHS = {0x27: 3, 0x30: 4, 0x39: 5}
"""Address width in bits -> paging levels."""

SourceId = Annotated[int, hex_integer(0xFFFF)]
Level = Annotated[int, hex_integer(9)]
ReasonCode = Annotated[int, hex_integer(0xFF)]
Access = Literal["r", "w"]


def _runs(value: object) -> tuple[tuple[int, int, int, int], ...]:
    """Runs [offset, value, count, step] of words in a page."""
    wanted = "runs [offset, value, count, step] of hex strings inside a page of 512 words"
    found = []
    try:
        for offset, first, count, step in value:  # type: ignore[attr-defined]
            run = (int(offset, 16), int(first, 16), int(count, 16), int(step, 16))
            if (
                run[0] & 7
                or run[0] < 0
                or run[2] < 1
                or (run[0] >> 3) + run[2] > 512
                or run[1] >> 64
                or run[1] < 0
            ):
                raise ValueError
            found.append(run)
    except (TypeError, ValueError):
        raise PydanticCustomError("refused", "{allowed}", {"allowed": wanted}) from None
    return tuple(found)


PageRuns = Annotated[tuple[tuple[int, int, int, int], ...], BeforeValidator(_runs)]
"""The words of a page that are not zero."""


def page_words(runs: tuple[tuple[int, int, int, int], ...]) -> list[int]:
    """The 512 words of a page: all zero but those in `runs`; word i of a run holds value + step * i."""
    words = [0] * 512
    for offset, value, count, step in runs:
        for position in range(count):
            words[(offset >> 3) + position] = (value + step * position) & ((1 << 64) - 1)
    return words


def _levels(value: object) -> int:
    wanted = ", ".join(f'"{width:#x}"' for width in WIDTHS)
    try:
        width = int(value, 16)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        width = 0
    if width not in WIDTHS:
        raise PydanticCustomError("refused", "{allowed}", {"allowed": f"one of {wanted}"})
    return int(width)


AddressWidth = Annotated[int, BeforeValidator(_levels)]
"""Bits of an I/O virtual address that the unit translates."""


class _Event(BaseModel):
    """`t` is the number of the line, counted from 0; it gives the order, there are no times."""

    model_config = ConfigDict(extra="ignore", strict=True)
    t: int


class Header(_Event):
    """The first line."""

    ev: Literal["header"]
    format: Literal["vtd-linux-trace-1"]
    name: str = ""
    kernel: str = ""
    qemu: str = ""
    iommu: str = ""
    cap: Hex
    ecap: Hex
    address_width: AddressWidth
    workload: str = ""


class Phase(_Event):
    """A step of the workload starts."""

    ev: Literal["phase"]
    name: str


class RegisterWrite(_Event):
    """A CPU wrote a register of the unit."""

    ev: Literal["reg"]
    off: Annotated[int, hex_integer(0xFFC, 4)]
    size: Annotated[int, hex_integer(8, 4, 'one of "0x4", "0x8"')]
    val: Hex
    name: str = ""

    def model_post_init(self, context: Any, /) -> None:
        """A 4-byte write has a 4-byte value and 8-byte writes are aligned."""
        if self.size == 0 or self.off % self.size:
            raise PydanticCustomError(
                "refused", "{allowed}", {"allowed": "an access of 4 or 8 bytes at a multiple of its size"}
            )
        if self.val >> 8 * self.size:
            raise PydanticCustomError("refused", "{allowed}", {"allowed": f"a value of {self.size} bytes"})


class Page(_Event):
    """A 4 KiB page becomes a live structure; `words` is all of its content."""

    ev: Literal["page"]
    pa: PageAddress
    lvl: Level
    words: PageRuns


class Drop(_Event):
    """The page is no structure any more."""

    ev: Literal["drop"]
    pa: PageAddress


class StoreEvent(_Event):
    """A 64-bit store into a table."""

    ev: Literal["root", "ctx", "pasid_dir", "pasid", "map", "unmap", "link", "unlink"]
    pa: WordAddress
    val: Hex
    lvl: Level
    iova: Hex = 0
    dom: Hex = 0


class Dma(_Event):
    """One access of a device."""

    ev: Literal["dma"]
    bdf: SourceId
    iova: Hex
    len: Hex
    rw: Access


class Translated(_Event):
    """What the recorded unit answered for one page of the DMA before it."""

    ev: Literal["xlate"]
    bdf: SourceId
    iova: Hex
    rw: Access
    pa: Address | None = None
    mask: Hex | None = None
    perm: Annotated[int, hex_integer(3)] | None = None
    pte: Hex | None = None
    """None for a device that is passed through, and for a fault."""
    dom: Hex = 0
    hit: bool = False
    rpt: bool = False
    """The unit looked up the same bytes again; no access of its own."""
    stale: bool = False
    fault: ReasonCode | None = None

    def model_post_init(self, context: Any, /) -> None:
        """Either a fault, or an address; with `pte` also mask and permission."""
        if self.fault is not None:
            return
        if self.pa is None or (self.pte is not None and (self.mask is None or self.perm is None)):
            raise PydanticCustomError("refused", "{allowed}", {"allowed": "pa, mask and perm, or fault"})


class Fault(_Event):
    """The access before it was refused."""

    ev: Literal["fault"]
    bdf: SourceId
    reason: ReasonCode
    iova: Hex
    rw: Access


class FaultRecord(_Event):
    """A fault recording register of the recorded unit was filled."""

    ev: Literal["frr"]
    index: Annotated[int, hex_integer(0xFF)]
    hi: Hex
    lo: Hex


class Invalidation(_Event):
    """An invalidation descriptor that an IQT write before it released."""

    ev: Literal["inv"]
    type: str
    hi: Hex
    lo: Hex


class Wait(_Event):
    """A wait descriptor that an IQT write before it released."""

    ev: Literal["wait"]
    iflag: Hex
    sw: Hex
    fn: Hex
    data: Annotated[int, hex_integer(0xFFFF_FFFF)]
    addr: DwordAddress
    hi: Hex
    lo: Hex


class Message(_Event):
    """A write into the interrupt range, which is not translated."""

    ev: Literal["msi"]
    bdf: SourceId
    addr: Hex


class Snapshot(_Event):
    """The machine stood still here and its structures were saved."""

    ev: Literal["snapshot"]
    file: str


class Note(_Event):
    """Something the recorded unit did on its own."""

    ev: Literal["note"]
    text: str


class End(_Event):
    """The last line: how many lines of each kind there are, this one not counted."""

    ev: Literal["end"]
    counts: dict[str, Hex]


Descriptor = Invalidation | Wait
Event = (
    Header
    | Phase
    | RegisterWrite
    | Page
    | Drop
    | StoreEvent
    | Dma
    | Translated
    | Fault
    | FaultRecord
    | Invalidation
    | Wait
    | Message
    | Snapshot
    | Note
    | End
)

EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Discriminator("ev")])
"""Validates one line."""
