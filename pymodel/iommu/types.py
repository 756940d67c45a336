"""What the architectural IOMMU is asked and answers, and the little it wants from memory."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from pymodel.spec.faults import Reason

__all__ = ["Observer", "Outcome", "Request", "TableMemory"]

Observer = Callable[[int, int, int], None]
"""Called after every store that changes a 64-bit word: address, old value, new value."""


class TableMemory(Protocol):
    """Memory as a table walker sees it: aligned 64-bit words, and which addresses answer at all."""

    def load(self, address: int, /) -> int:
        """The 64-bit word at an aligned address."""
        ...

    def readable(self, address: int, /) -> bool:
        """False where a table read ends with an access error."""
        ...


class Request(NamedTuple):
    """One untranslated access of a device."""

    sid: int
    """Source id: bus << 8 | device << 3 | function."""
    pasid: int | None
    """None for a request without PASID."""
    iova: int
    write: bool

    def __str__(self) -> str:
        pasid = "" if self.pasid is None else f" pasid {self.pasid:#x}"
        return f"{'write' if self.write else 'read'} of {self.iova:#x} by {self.sid:#06x}{pasid}"


class Outcome(NamedTuple):
    """The answer to a request; two outcomes are the same answer where all fields but `recorded` agree."""

    reason: Reason
    """`Reason.NONE` for a translation."""
    address: int = 0
    """Translated address with the offset inside the page; the IOVA where nothing was translated."""
    level: int = 0
    """0: 4 KiB page, 1: 2 MiB, 2: 1 GiB; 0 for a fault and where nothing was translated."""
    r: bool = False
    w: bool = False
    snoop: bool = False
    recorded: bool = False
    """A refused request has to be put into the fault log (while there is room)."""

    def __str__(self) -> str:
        if self.reason:
            return f"{self.reason.name} ({self.reason:#x}{'' if self.recorded else ', not recorded'})"
        permission = f"{'r' if self.r else '-'}{'w' if self.w else '-'}{' snoop' if self.snoop else ''}"
        return f"{self.address:#x} level {self.level} {permission}"

    @property
    def answer(self) -> "Outcome":
        """The same without `recorded`, which no response carries."""
        return self._replace(recorded=False) if self.recorded else self
