"""The invalidation queue as software wrote it: typed descriptors, in order, until one stops it (facts B2)."""

from collections.abc import Iterator
from dataclasses import dataclass

from pymodel.iommu.types import TableMemory
from pymodel.spec import descriptors as d
from pymodel.spec.fields import Format
from pymodel.spec.params import IommuParams
from pymodel.spec.registers import IQA, QUEUE_ERROR

__all__ = ["ContextInvalidation", "Descriptor", "Ignored", "InvalidationQueue", "IotlbInvalidation",
           "PasidCacheInvalidation", "QueueStop", "Wait", "decode"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class ContextInvalidation:
    """Context-cache invalidation."""

    granularity: d.Granularity
    did: int = 0
    sid: int = 0
    function_mask: int = 0

    def sids(self) -> Iterator[int]:
        """Source ids that a device-selective invalidation matches (facts B2: FM)."""
        bits = (0, 0b100, 0b110, 0b111)[self.function_mask]
        for low in range(8):
            if not low & ~bits & 7:
                yield (self.sid & ~bits) | low


@dataclass(frozen=True, slots=True)
class IotlbInvalidation:
    """IOTLB invalidation, plain or PASID-based (second-stage entries are tagged by domain only, facts A4)."""

    granularity: d.Granularity
    did: int = 0
    address: int = 0
    am: int = 0
    ih: bool = False


@dataclass(frozen=True, slots=True)
class PasidCacheInvalidation:
    """PASID-cache invalidation."""

    granularity: d.PasidGranularity
    did: int = 0
    pasid: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """Invalidation wait."""

    status_write: bool = False
    interrupt: bool = False
    fence: bool = False
    address: int = 0
    data: int = 0


@dataclass(frozen=True, slots=True)
class Ignored:
    """A descriptor that is accepted and has no effect here (interrupt entry cache)."""


@dataclass(frozen=True, slots=True)
class QueueStop:
    """An invalidation queue error: the queue stands at `head` until software clears FSTS.IQE."""

    error: str
    """Key of `pymodel.spec.registers.QUEUE_ERROR`."""
    head: int

    @property
    def iqei(self) -> int:
        """Value of IQER.IQEI."""
        return QUEUE_ERROR[self.error]


Descriptor = ContextInvalidation | IotlbInvalidation | PasidCacheInvalidation | Wait | Ignored


def _pages(fmt: Format, word: int, params: IommuParams) -> tuple[int, int, bool] | None:
    """Address, AM and IH of a page-selective descriptor; None where AM > MAMV or it is not aligned."""
    am, page = fmt.get(word, "am"), fmt.get(word, "address")
    if am > params.max_address_mask or page & ((1 << am) - 1):
        return None
    return page << 12, am, bool(fmt.get(word, "ih"))


def decode(word: int, params: IommuParams) -> Descriptor | str:
    """One descriptor (128 or 256 bits), or the name of the queue error that it is."""
    kind = word & 15
    if kind not in d.DESCRIPTORS:
        return "bad_type"
    kind = d.DescriptorType(kind)
    pasid_kind = kind in (d.DescriptorType.PASID_CACHE, d.DescriptorType.PASID_IOTLB)
    if pasid_kind and not params.scalable:
        return "bad_type"
    fmt = d.DESCRIPTORS[kind]
    if word & fmt.reserved or word >> 128:
        return "reserved"
    if kind is d.DescriptorType.INTERRUPT:
        return Ignored()
    if kind is d.DescriptorType.WAIT:
        return Wait(
            bool(fmt.get(word, "status_write")),
            bool(fmt.get(word, "interrupt")),
            bool(fmt.get(word, "fence")),
            fmt.get(word, "address") << 2,
            fmt.get(word, "data"),
        )
    granularity, did = fmt.get(word, "g"), fmt.get(word, "did")
    if kind is d.DescriptorType.PASID_CACHE:
        if granularity == 2:
            return "reserved"
        return PasidCacheInvalidation(d.PasidGranularity(granularity), did, fmt.get(word, "pasid"))
    if granularity == 0 or (kind is d.DescriptorType.PASID_IOTLB and granularity == 1):
        return "reserved"
    if kind is d.DescriptorType.CONTEXT:
        return ContextInvalidation(d.Granularity(granularity), did, fmt.get(word, "sid"), fmt.get(word, "fm"))
    if granularity != d.Granularity.SELECTIVE:
        return IotlbInvalidation(d.Granularity(granularity), did)
    pages = _pages(fmt, word, params)
    if pages is None:
        return "reserved"
    return IotlbInvalidation(d.Granularity.SELECTIVE, did, *pages)


class InvalidationQueue:
    """Head, tail and memory of the queue; `poll` hands out what a doorbell released."""

    def __init__(self, params: IommuParams, memory: TableMemory) -> None:
        self._params = params
        self._memory = memory
        self.iqa = 0
        self.head = 0
        """Byte offset of the next descriptor to be read here; the hardware's head may be behind it."""
        self.tail = 0
        self.enabled = False
        self.stop: QueueStop | None = None
        """The error at which the queue stands."""

    def write_iqa(self, value: int) -> None:
        """IQA; the descriptor width is 128 bits without scalable mode."""
        self.iqa = value & ~(0 if self._params.scalable else IQA.mask("dw"))

    def write_iqt(self, value: int) -> None:
        """The doorbell."""
        self.tail = value & 0x7FFF0

    def enable(self, on: bool) -> None:
        """GCMD.QIE; turning the queue on sets the head to 0."""
        if on and not self.enabled:
            self.head = 0
        self.enabled = on

    def clear_error(self) -> None:
        """FSTS.IQE written with 1: the queue goes on from its head, reading the descriptor again."""
        self.stop = None

    def poll(self) -> list[Descriptor]:
        """Descriptors between head and tail that the IOMMU may execute now; sets `stop` at an error."""
        found: list[Descriptor] = []
        if not self.enabled or self.stop is not None:
            return found
        width = 32 if IQA.get(self.iqa, "dw") else 16
        size = 1 << (IQA.get(self.iqa, "qs") + 12)
        base = IQA.get(self.iqa, "address") << 12
        while self.head != self.tail:
            if self.tail % width or self.tail >= size:
                self.stop = QueueStop("bad_tail", self.head)
                break
            address = (base + self.head) & ((1 << self._params.haw) - 1)
            if not self._memory.readable(address):
                self.stop = QueueStop("fetch", self.head)
                break
            word = 0
            for index in range(width // 8):
                word |= self._memory.load(address + 8 * index) << (64 * index)
            descriptor = decode(word, self._params)
            if isinstance(descriptor, str):
                self.stop = QueueStop(descriptor, self.head)
                break
            found.append(descriptor)
            self.head = (self.head + width) % size
        return found
