"""The invalidation queue: descriptors (written out by hand, facts B2), widths, errors."""

import pytest

from pymodel.iommu.queue import (
    ContextInvalidation,
    Ignored,
    InvalidationQueue,
    IotlbInvalidation,
    PasidCacheInvalidation,
    Wait,
    decode,
)
from pymodel.memory import PhysMem
from pymodel.spec.descriptors import Granularity, PasidGranularity
from pymodel.spec.params import IommuParams

PARAMS = IommuParams()


@pytest.mark.parametrize(("low", "high", "meaning"), [
    (0x11, 0, ContextInvalidation(Granularity.GLOBAL)),
    (0x0003_0018_0007_0031, 0, ContextInvalidation(Granularity.SELECTIVE, 7, 0x18, 3)),
    (0x12, 0, IotlbInvalidation(Granularity.GLOBAL)),
    (0x0007_00E2, 0, IotlbInvalidation(Granularity.DOMAIN, 7)),
    (0x0007_0032, 0x12_3440_00C9, "reserved"),
    (0x0007_0032, 0x12_3440_0049, IotlbInvalidation(Granularity.SELECTIVE, 7, 0x12_3440_0000, 9, True)),
    (0x0007_0032, 0x12_3440_1000, IotlbInvalidation(Granularity.SELECTIVE, 7, 0x12_3440_1000)),
    (0x0007_0032, 0x12_3440_1001, "reserved"),
    (0x0007_0032, 19, "reserved"),
    (0x02, 0, "reserved"),
    (0x01, 0, "reserved"),
    (0x4, 0, Ignored()),
    (0xABCD_0025, 0x8000_1234, "reserved"),
    (0x0000_0025, 0x8000_1234, Wait(status_write=True, address=0x8000_1234)),
    (0x0000_0077_0000_0075, 0x1000, Wait(True, True, True, 0x1000, 0x77)),
    (0x0007_0026, 0, IotlbInvalidation(Granularity.DOMAIN, 7)),
    (0x0007_0016, 0, "reserved"),
    (0x0000_0005_0007_0017, 0, PasidCacheInvalidation(PasidGranularity.PASID, 7, 5)),
    (0x27, 0, "reserved"),
    (0x3, 0, "bad_type"),
    (0x0, 0, "bad_type"),
    (0xF, 0, "bad_type"),
])  # fmt: skip
def test_decode(low: int, high: int, meaning: object) -> None:
    assert decode(high << 64 | low, PARAMS) == meaning


def test_pasid_descriptors_need_scalable_mode() -> None:
    plain = IommuParams(scalable=False)
    assert decode(0x0007_0026, plain) == "bad_type"
    assert decode(0x37, plain) == "bad_type"


def test_function_mask() -> None:
    assert set(ContextInvalidation(Granularity.SELECTIVE, 0, 0x18, 0).sids()) == {0x18}
    assert set(ContextInvalidation(Granularity.SELECTIVE, 0, 0x1A, 1).sids()) == {0x1A, 0x1E}
    assert set(ContextInvalidation(Granularity.SELECTIVE, 0, 0x1B, 2).sids()) == {0x19, 0x1B, 0x1D, 0x1F}
    assert set(ContextInvalidation(Granularity.SELECTIVE, 0, 0x1B, 3).sids()) == set(range(0x18, 0x20))


def queue(wide: bool = False) -> tuple[PhysMem, InvalidationQueue]:
    """An enabled queue of 4 KiB at 0x8000."""
    memory = PhysMem([(0, 0x10000)])
    found = InvalidationQueue(PARAMS, memory)
    found.write_iqa(0x8000 | (0x800 if wide else 0))
    found.enable(True)
    return memory, found


def test_order_wrap_and_doorbells() -> None:
    memory, found = queue()
    for index in range(256):
        memory.store(0x8000 + 16 * index, 0x12)
    found.write_iqt(0xFF0)
    assert len(found.poll()) == 255
    assert found.poll() == []
    memory.store(0x8000, 0x0009_0022)
    found.write_iqt(0x10)
    assert found.poll() == [IotlbInvalidation(Granularity.GLOBAL), IotlbInvalidation(Granularity.DOMAIN, 9)]


def test_wide_descriptors() -> None:
    memory, found = queue(wide=True)
    memory.store(0x8000, 0x12)
    memory.store(0x8020, 0x12)
    memory.store(0x8038, 1)
    found.write_iqt(0x40)
    assert len(found.poll()) == 1
    assert found.stop is not None
    assert (found.stop.error, found.stop.head, found.stop.iqei) == ("reserved", 0x20, 4)


def test_a_stopped_queue_goes_on_when_software_has_mended_it() -> None:
    memory, found = queue()
    memory.store(0x8000, 0x12)
    memory.store(0x8010, 0xF)
    memory.store(0x8020, 0x11)
    found.write_iqt(0x30)
    assert len(found.poll()) == 1
    assert found.stop is not None
    assert found.poll() == []
    memory.store(0x8010, 0x4)
    assert found.poll() == []
    found.clear_error()
    assert found.poll() == [Ignored(), ContextInvalidation(Granularity.GLOBAL)]


@pytest.mark.parametrize(("tail", "wide"), [(0x1000, False), (0x30, True)])
def test_bad_tails(tail: int, wide: bool) -> None:
    _, found = queue(wide)
    found.write_iqt(tail)
    assert found.poll() == []
    assert found.stop is not None
    assert found.stop.error == "bad_tail"


def test_unreadable_queue_and_reenabling() -> None:
    _, found = queue()
    found.write_iqa(0x20000)
    found.write_iqt(0x10)
    assert found.poll() == []
    assert found.stop is not None
    assert found.stop.error == "fetch"
    found.head = 0x40
    found.enable(False)
    found.enable(True)
    assert found.head == 0
