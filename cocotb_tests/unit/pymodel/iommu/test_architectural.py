"""The whole object as a bench uses it: registers, queue in memory, status writes."""

import pytest

from cocotb_tests.unit.pymodel.iommu.setting import BASE, CONTEXTS, DID, PT, ROOT, SID, Setting, words
from pymodel.iommu import ArchitecturalIommu, Outcome, Request
from pymodel.memory import PhysMem
from pymodel.spec import context as layout
from pymodel.spec.faults import Reason
from pymodel.spec.params import IommuParams

QUEUE, STATUS = 0x8000, 0x9000
ONE_READ = Request(SID, None, 0x5000, False)
OLD, NEW = (Outcome(Reason.NONE, address, 0, True, True) for address in (BASE + 0x5000, 0x7777_0000))


class Host:
    """Tables of `Setting`, a queue, and registers set up as Linux does it."""

    def __init__(self, params: IommuParams | None = None, wide: bool = False) -> None:
        self.memory: PhysMem = Setting().memory
        self.memory.observers.clear()
        self.iommu = ArchitecturalIommu(params or IommuParams(), self.memory)
        self.memory.observers.append(self.iommu.stored)
        self.iommu.register_write(1, 0x90, QUEUE | (0x800 if wide else 0), 8)
        self.iommu.register_write(2, 0x18, 1 << 26, 4)
        self.iommu.register_write(3, 0x20, ROOT, 4)
        self.iommu.register_write(3, 0x24, 0, 4)
        self.iommu.register_write(4, 0x18, 1 << 30 | 1 << 26, 4)
        self.iommu.register_write(5, 0x18, 1 << 31 | 1 << 26, 4)
        self.tail = 0
        self.step = 32 if wide else 16

    def push(self, low: int, high: int = 0) -> None:
        """Write a descriptor."""
        words(self.memory, QUEUE + self.tail, low | high << 64, 4)
        self.tail += self.step

    def ring(self, time: int) -> None:
        """The doorbell."""
        self.iommu.register_write(time, 0x88, self.tail, 8)


@pytest.mark.parametrize("wide", [False, True])
def test_a_page_is_replaced(wide: bool) -> None:
    host = Host(wide=wide)
    iommu = host.iommu
    assert iommu.check(ONE_READ, 10, 12, OLD) is None
    iommu.advance(20)
    host.memory.store(PT + 40, 0x7777_0003)
    assert iommu.legal(ONE_READ, 22, 22) == {OLD, NEW}
    host.push(DID << 16 | 0x32, 0x5000)
    host.push(0x25 | 0x77 << 32, STATUS)
    iommu.advance(24)
    host.ring(25)
    assert iommu.waits_pending == 1
    assert iommu.legal(ONE_READ, 26, 26) == {OLD, NEW}
    wrong = iommu.wait_completed(29, STATUS, 0x78)
    assert wrong == f"cycle 29: status write of 0x78 to {STATUS:#x}; expected 0x77 to {STATUS:#x}"
    assert iommu.wait_completed(30, STATUS, 0x77) is None
    assert iommu.waits_pending == 0
    assert iommu.legal(ONE_READ, 26, 30) == {OLD, NEW}
    assert iommu.check(ONE_READ, 26, 31, NEW) is None
    violation = iommu.check(ONE_READ, 26, 31, OLD)
    assert violation is not None
    assert violation.expected == {NEW}


def test_a_wait_completes_only_what_is_ahead_of_it() -> None:
    host = Host()
    iommu = host.iommu
    iommu.advance(20)
    host.memory.store(PT + 40, 0x7777_0003)
    host.push(0x25 | 1 << 32, STATUS)
    host.push(0x12)
    host.push(0x25 | 2 << 32, STATUS)
    host.ring(21)
    assert iommu.wait_completed(22, STATUS, 1) is None
    assert iommu.legal(ONE_READ, 23, 23) == {OLD, NEW}
    assert iommu.wait_completed(24, STATUS, 2) is None
    assert iommu.legal(ONE_READ, 25, 25) == {NEW}


def test_overtaking_waits() -> None:
    host = Host()
    host.push(0x25 | 1 << 32, STATUS)
    host.push(0x25 | 2 << 32, STATUS)
    host.ring(21)
    text = host.iommu.wait_completed(22, STATUS, 2)
    assert text == (
        f"cycle 22: expected the status write of an earlier wait (0x1 to {STATUS:#x}), got 0x2 to {STATUS:#x}"
    )
    again = host.iommu.wait_completed(23, STATUS, 2)
    assert again == f"cycle 23: status write of 0x2 to {STATUS:#x}; expected none"


def test_a_status_write_also_completes_a_wait_for_an_interrupt_ahead_of_it() -> None:
    host = Host()
    iommu = host.iommu
    iommu.advance(20)
    host.memory.store(PT + 40, 0x7777_0003)
    host.push(0x12)
    host.push(0x15)
    host.push(0x25 | 9 << 32, STATUS)
    host.ring(21)
    assert iommu.waits_pending == 2
    assert iommu.wait_completed(25, STATUS, 9) is None
    assert iommu.waits_pending == 0
    assert iommu.legal(ONE_READ, 26, 26) == {NEW}


def test_queue_errors() -> None:
    host = Host()
    iommu = host.iommu
    iommu.advance(20)
    host.memory.store(PT + 40, 0x7777_0003)
    host.push(0xF)
    host.push(0x12)
    host.ring(21)
    stops = [iommu.queue.stop]
    assert [stop and stop.iqei for stop in stops] == [3]
    host.memory.store(QUEUE, 4)
    iommu.all_completed(22)
    assert iommu.legal(ONE_READ, 23, 23) == {OLD, NEW}
    iommu.register_write(24, 0x34, 1 << 4, 4)
    assert iommu.queue.stop is None
    iommu.all_completed(25)
    assert iommu.legal(ONE_READ, 26, 26) == {NEW}


def test_translation_off_and_register_misuse() -> None:
    host = Host()
    host.iommu.register_write(20, 0x18, 1 << 26, 4)
    assert host.iommu.legal(ONE_READ, 21, 21) == {Outcome(Reason.NONE, 0x5000, 0, True, True)}
    with pytest.raises(ValueError, match="4 or 8 bytes"):
        host.iommu.register_write(22, 0x18, 0, 2)


def test_scalable_mode_and_pasid_cache() -> None:
    host = Host(wide=True)
    iommu, memory = host.iommu, host.memory
    iommu.advance(20)
    words(memory, CONTEXTS + 16 * SID, 0, 2)
    words(memory, CONTEXTS + 32 * SID, layout.SCALABLE_CONTEXT.pack(p=1, pasid_directory=0x30), 4)
    memory.store(0x30000, 0x31001)
    entry = layout.PASID_ENTRY.pack(p=1, aw=2, pgtt=2, table=0x10, did=DID)
    words(memory, 0x31000, entry, 8)
    iommu.register_write(21, 0x20, ROOT | 1 << 10, 8)
    iommu.register_write(22, 0x18, 1 << 31 | 1 << 30 | 1 << 26, 4)
    host.push(0x11)
    host.push(0x37)
    host.push(0x12)
    host.ring(23)
    iommu.all_completed(24)
    assert iommu.legal(ONE_READ, 30, 30) == {OLD}
    memory.store(0x31000, 0)
    refused = Outcome(Reason.SM_PASID_NOT_PRESENT, recorded=True)
    assert iommu.legal(ONE_READ, 32, 32) == {OLD, refused}
    host.push(0x11)
    host.ring(33)
    iommu.all_completed(34)
    assert iommu.legal(ONE_READ, 35, 35) == {OLD, refused}
    host.push(DID << 16 | 0x17)
    host.ring(36)
    iommu.all_completed(37)
    assert iommu.legal(ONE_READ, 38, 38) == {refused}
