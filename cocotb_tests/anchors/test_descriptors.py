"""Invalidation descriptors (facts B2) and those that Linux queued on a machine with VT-d."""

import pytest

from cocotb_tests.anchors.positions import check
from pymodel.spec import descriptors
from pymodel.spec.descriptors import DescriptorType, Granularity, PasidGranularity
from pymodel.spec.fields import Format

ONES = 0xFFFF_FFFF_FFFF_FFFF
TYPE, G, DID = (3, 0), (5, 4), (31, 16)
RANGE = {"am": (69, 64), "ih": (70, 70), "address": (127, 76)}


def test_numbers() -> None:
    assert {kind.name: kind.value for kind in DescriptorType} == {
        "CONTEXT": 1, "IOTLB": 2, "DEVICE_TLB": 3, "INTERRUPT": 4, "WAIT": 5, "PASID_IOTLB": 6,
        "PASID_CACHE": 7, "PASID_DEVICE_TLB": 8, "PAGE_GROUP_RESPONSE": 9,
    }  # fmt: skip
    assert (Granularity.GLOBAL, Granularity.DOMAIN, Granularity.SELECTIVE) == (1, 2, 3)
    assert (PasidGranularity.DOMAIN, PasidGranularity.PASID, PasidGranularity.GLOBAL) == (0, 1, 3)
    assert PasidGranularity(2) is PasidGranularity.IOTLB_PASID
    assert sorted(descriptors.DESCRIPTORS) == [1, 2, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("format_", "fields", "high", "low"),
    [
        (descriptors.CONTEXT_INV, {"type": TYPE, "g": G, "did": DID, "sid": (47, 32), "fm": (49, 48)},
         ONES, 0xFFFC_0000_0000_FFC0),
        (descriptors.IOTLB_INV, {"type": TYPE, "g": G, "dw": (6, 6), "dr": (7, 7), "did": DID, **RANGE},
         0xF80, 0xFFFF_FFFF_0000_FF00),
        (descriptors.INTERRUPT_INV, {"type": TYPE, "g": (4, 4), "im": (31, 27), "index": (47, 32)},
         ONES, 0xFFFF_0000_07FF_FFE0),
        (descriptors.WAIT, {"type": TYPE, "interrupt": (4, 4), "status_write": (5, 5), "fence": (6, 6),
                            "page_drain": (7, 7), "data": (63, 32), "address": (127, 66)},
         0x3, 0xFFFF_FF00),
        (descriptors.PASID_IOTLB_INV, {"type": TYPE, "g": G, "did": DID, "pasid": (51, 32), **RANGE},
         0xF80, 0xFFF0_0000_0000_FFC0),
        (descriptors.PASID_CACHE_INV, {"type": TYPE, "g": G, "did": DID, "pasid": (51, 32)},
         ONES, 0xFFF0_0000_0000_FFC0),
    ],
    ids=lambda value: value.name if isinstance(value, Format) else None,
)  # fmt: skip
def test_positions(format_: Format, fields: dict[str, tuple[int, int]], high: int, low: int) -> None:
    check(format_, 128, fields, high << 64 | low)


@pytest.mark.parametrize(
    ("kind", "low", "high", "fields"),
    [
        # recorded from Linux 6.1
        ("CONTEXT", 0x11, 0, {"g": 1}),
        ("IOTLB", 0xD2, 0, {"g": 1, "dw": 1, "dr": 1}),
        ("IOTLB", 0x300F2, 0xFFFFD000, {"g": 3, "dw": 1, "dr": 1, "did": 3, "address": 0xFFFFD}),
        ("IOTLB", 0x300F2, 0xFFF60004, {"g": 3, "dw": 1, "dr": 1, "did": 3, "am": 4, "address": 0xFFF60}),
        ("IOTLB", 0x300F2, 0xFF80000A, {"g": 3, "dw": 1, "dr": 1, "did": 3, "am": 10, "address": 0xFF800}),
        ("IOTLB", 0x500F2, 0xFFFFFFFE2001,
         {"g": 3, "dw": 1, "dr": 1, "did": 5, "am": 1, "address": 0xFFFFFFFE2}),
        ("INTERRUPT", 0x800000014, 0, {"g": 1, "index": 8}),
        ("WAIT", 0x200000025, 0x523B004, {"status_write": 1, "data": 2, "address": 0x148EC01}),
        ("WAIT", 0x200000025, 0x485200C, {"status_write": 1, "data": 2, "address": 0x1214803}),
        # written down from the layout
        ("CONTEXT", 0x0003_0020_0003_0031, 0, {"g": 3, "did": 3, "sid": 0x20, "fm": 3}),
        ("IOTLB", 0xABCD_0022, 0, {"g": 2, "did": 0xABCD}),
        ("IOTLB", 0x1_0032, 0x1234_5678_9000_0040, {"g": 3, "did": 1, "ih": 1, "address": 0x1234567890000}),
        ("WAIT", 0xDEADBEEF_000000F5, 0x1000,
         {"interrupt": 1, "status_write": 1, "fence": 1, "page_drain": 1, "data": 0xDEADBEEF,
          "address": 0x400}),
        ("PASID_IOTLB", 0x000A_BCDE_0005_0026, 0, {"g": 2, "did": 5, "pasid": 0xABCDE}),
        ("PASID_IOTLB", 0x0000_0001_0005_0036, 0x20_0049,
         {"g": 3, "did": 5, "pasid": 1, "am": 9, "ih": 1, "address": 0x200}),
        ("PASID_CACHE", 0x000F_FFFF_0002_0017, 0, {"g": 1, "did": 2, "pasid": 0xFFFFF}),
        ("PASID_CACHE", 0x37, 0, {"g": 3}),
    ],
)  # fmt: skip
def test_words(kind: str, low: int, high: int, fields: dict[str, int]) -> None:
    type_ = DescriptorType[kind]
    format_ = descriptors.DESCRIPTORS[type_]
    word = high << 64 | low
    assert format_.pack(type=type_, **fields) == word
    assert format_.unpack(word) == {**{f.name: 0 for f in format_}, "type": type_, **fields}
    assert word & format_.reserved == 0
