"""Invalidation-queue descriptors (facts B2).

A 256-bit descriptor (IQA.DW=1) is the 128-bit one with a reserved upper half. The type sits in bits 3:0.
"""

from enum import IntEnum

from pymodel.spec.fields import Field, Format

__all__ = ["CONTEXT_INV", "DESCRIPTORS", "INTERRUPT_INV", "IOTLB_INV", "PASID_CACHE_INV", "PASID_IOTLB_INV", "WAIT",
           "DescriptorType", "Granularity", "PasidGranularity"]  # fmt: skip


class DescriptorType(IntEnum):
    """Bits 3:0 of a descriptor."""

    CONTEXT = 1
    IOTLB = 2
    DEVICE_TLB = 3
    INTERRUPT = 4
    WAIT = 5
    PASID_IOTLB = 6
    PASID_CACHE = 7
    PASID_DEVICE_TLB = 8
    PAGE_GROUP_RESPONSE = 9


class Granularity(IntEnum):
    """G of context-cache and IOTLB invalidations; 0 is reserved."""

    GLOBAL = 1
    DOMAIN = 2
    SELECTIVE = 3
    """Device for the context cache, page for the IOTLB."""


class PasidGranularity(IntEnum):
    """G of PASID-cache invalidations (0, 1, 3); PASID-IOTLB uses 2 (PASID) and 3 (page in PASID)."""

    DOMAIN = 0
    PASID = 1
    IOTLB_PASID = 2
    GLOBAL = 3


_SOURCE = "facts B2: Linux intel/iommu.h, QEMU"
_TYPE = Field("type", 0, 4)
_G = Field("g", 4, 2, "granularity")
_DID = Field("did", 16, 16, "domain id")
_RANGE = (
    Field("am", 64, 6, "address mask: log2 of the number of 4 KiB pages"),
    Field("ih", 70, 1, "invalidation hint: 1 keeps the paging-structure caches"),
    Field("address", 76, 52, "IOVA bits 63:12, aligned to 2**AM pages"),
)

CONTEXT_INV = Format(
    "CONTEXT_INV",
    128,
    _TYPE,
    _G,
    _DID,
    Field("sid", 32, 16, "source id"),
    Field("fm", 48, 2, "function mask: bits of the function that are not compared: 1 bit 2, 2 bits 2:1, 3 bits 2:0"),
    source=_SOURCE,
)

IOTLB_INV = Format(
    "IOTLB_INV",
    128,
    _TYPE,
    _G,
    Field("dw", 6, 1, "drain writes"),
    Field("dr", 7, 1, "drain reads"),
    _DID,
    *_RANGE,
    source=_SOURCE,
)

INTERRUPT_INV = Format(
    "INTERRUPT_INV",
    128,
    _TYPE,
    Field("g", 4, 1, "0 global, 1 index"),
    Field("im", 27, 5, "index mask"),
    Field("index", 32, 16, "interrupt index"),
    source=_SOURCE + "; interrupt remapping is not built: accepted, no effect",
)

WAIT = Format(
    "WAIT",
    128,
    _TYPE,
    Field("interrupt", 4, 1, "IF: set ICS.IWC and raise the completion event"),
    Field("status_write", 5, 1, "SW: write the status dword"),
    Field("fence", 6, 1, "FN: later descriptors start only after this wait completed"),
    Field("page_drain", 7, 1, "PD: also drain page requests (none are built yet: no effect)"),
    Field("data", 32, 32, "status dword"),
    Field("address", 66, 62, "status address bits 63:2"),
    source=_SOURCE,
)

PASID_IOTLB_INV = Format(
    "PASID_IOTLB_INV",
    128,
    _TYPE,
    _G,
    _DID,
    Field("pasid", 32, 20),
    *_RANGE,
    source=_SOURCE,
)

PASID_CACHE_INV = Format(
    "PASID_CACHE_INV",
    128,
    _TYPE,
    _G,
    _DID,
    Field("pasid", 32, 20),
    source=_SOURCE,
)

DESCRIPTORS = {
    DescriptorType.CONTEXT: CONTEXT_INV,
    DescriptorType.IOTLB: IOTLB_INV,
    DescriptorType.INTERRUPT: INTERRUPT_INV,
    DescriptorType.WAIT: WAIT,
    DescriptorType.PASID_IOTLB: PASID_IOTLB_INV,
    DescriptorType.PASID_CACHE: PASID_CACHE_INV,
}
"""Formats of the descriptor types that this IOMMU accepts; any other type is an invalidation queue error."""
