"""Reader of `vtd-linux-snapshot-1` files: the structures of a stopped machine, requests and answers."""

import gzip
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from pydantic_core import PydanticCustomError

from cocotb_tests.inputs.errors import InputError
from cocotb_tests.inputs.values import Address, Hex, PageAddress, hex_integer, input_error
from cocotb_tests.inputs.vtd_events import (
    Access,
    AddressWidth,
    Level,
    PageRuns,
    ReasonCode,
    SourceId,
    page_words,
)
from cocotb_tests.inputs.vtd_trace import open_input
from pymodel.memory import PhysMem

__all__ = ["SNAPSHOT_FORMAT", "Device", "Snapshot", "SnapshotRequest", "read_snapshot"]

SNAPSHOT_FORMAT = "vtd-linux-snapshot-1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Device(_Part):
    """A function whose context entry is present."""

    bdf: SourceId
    name: str = ""
    levels: Annotated[int, hex_integer(5)] = 0


class SnapshotRequest(_Part):
    """An access and its answer: `pa`, `mask`, `perm`, `pte`, `lvl`, `dom`, or `fault`."""

    bdf: SourceId
    iova: Hex
    rw: Access
    pa: Address | None = None
    mask: Hex | None = None
    perm: Annotated[int, hex_integer(3)] | None = None
    pte: Hex | None = None
    lvl: Level = 0
    dom: Hex = 0
    fault: ReasonCode | None = None
    qemu: bool = False

    def model_post_init(self, context: Any, /) -> None:
        """Either a fault, or an address with mask and permission."""
        if self.fault is None and (self.pa is None or self.mask is None or self.perm is None):
            raise PydanticCustomError("refused", "{allowed}", {"allowed": "pa, mask and perm, or fault"})


def _page(value: object) -> object:
    """[level, runs] as the runs."""
    if not isinstance(value, list) or len(value) != 2:
        raise PydanticCustomError("refused", "{allowed}", {"allowed": "[level, runs]"})
    return value[1]


class Snapshot(_Part):
    """The whole file."""

    format: Literal["vtd-linux-snapshot-1"]
    trace: str = ""
    t: int = 0
    rtaddr: Hex
    address_width: AddressWidth
    pages: dict[PageAddress, Annotated[PageRuns, BeforeValidator(_page)]]
    devices: list[Device] = []
    requests: list[SnapshotRequest]

    def memory(self) -> PhysMem:
        """Memory that holds the pages."""
        memory = PhysMem()
        for address, runs in self.pages.items():
            for number, word in enumerate(page_words(runs)):
                if word:
                    memory.store(address + 8 * number, word)
        return memory


def read_snapshot(path: Path) -> Snapshot:
    """Read and check a snapshot, gzip'd or plain."""
    with open_input(path) as source:
        try:
            text = source.read()
        except (EOFError, zlib.error, gzip.BadGzipFile, OSError) as error:
            raise InputError(path, None, "", str(error), "a complete gzip file") from None
    try:
        return Snapshot.model_validate_json(text)
    except ValidationError as error:
        raise input_error(path, None, error, first="format") from None
