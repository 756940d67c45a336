"""The machine seen by devices, by the CPU cache, and through private memory."""

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, A
from cocotb_tests.unit.pymodel.machine_operations import CASES, machine, settled, somebody_else, wbinvd
from pymodel.host import madvise, mapping
from pymodel.host.guest_memfd import GuestMemfd
from pymodel.host.mprotect import mprotect
from pymodel.kvm.attributes import set_private
from pymodel.machine import Machine


def test_private_pages_come_from_the_guest_memfd_and_a_hole_takes_them() -> None:
    made = Machine()
    made.on_effect.append(made.check_reuse)
    made.run(mapping.mmap(made.process, A, HUGE, "anon4k"))
    file = GuestMemfd(made.host)
    made.add_slot(0, 0, 512, A, private=file)
    made.write(0, 1)
    made.run(set_private(made.vm, 0, 16, True))
    assert made.read(0) == 0
    made.write(0, 7)
    made.check()
    assert made.load(A) == 1
    made.run(madvise.dont_need(made.process, A, HUGE))
    assert made.read(0) == 7
    made.run(file.punch_hole(0, 8))
    assert made.read(0) == 0
    made.run(set_private(made.vm, 0, 16, False))
    made.check()
    assert made.read(0) == 0


def test_hole_in_a_guest_memfd_without_the_calls_leaves_the_page_with_the_guest() -> None:
    made = Machine()
    made.run(mapping.mmap(made.process, A, HUGE, "anon4k"))
    file = GuestMemfd(made.host)
    made.add_slot(0, 0, 512, A, private=file)
    made.run(set_private(made.vm, 0, 16, True))
    made.write(0, 7)
    file.notifiers.clear()
    made.run(file.punch_hole(0, 8))
    somebody_else(made)
    assert made.read(0) == 0x5EC2E7


def test_unsnooped_dma_reads_stale_data_until_wbinvd() -> None:
    """The CPU wrote, the line is dirty: memory, which is what the device reads, is older (facts D6)."""
    made = machine(cached=True)
    made.write(0, 1)
    made.run(wbinvd())
    assert made.dma_read(0, snooped=False) == 1
    made.write(0, 2)
    assert (made.dma_read(0, snooped=False), made.read(0)) == (1, 2)
    made.run(wbinvd())
    assert made.dma_read(0, snooped=False) == 2


def test_unsnooped_dma_reads_what_the_cpu_has_not_written_back() -> None:
    """A fresh page is cleared in the cache: an unsnooped device still sees whose page it was before (facts D6)."""
    made = machine(cached=True)
    for frame in range(0x10_0000, 0x10_4000):
        made.memory.store(frame << 12 | 8, 0x5EC2E7)
    made.write(0, 1)
    assert made.read(8) == 0
    assert (made.dma_read(0, snooped=False), made.dma_read(8, snooped=False)) == (0, 0x5EC2E7)
    assert (made.dma_read(0), made.dma_read(8)) == (1, 0)
    assert (made.dma_read(0, snooped=False), made.dma_read(8, snooped=False)) == (1, 0)


def test_unsnooped_dma_write_is_not_seen_until_caches_are_written_back() -> None:
    made = machine(cached=True)
    made.write(0, 1)
    assert made.dma_read(0) == 1
    assert made.dma_write(0, 5, snooped=False)
    assert made.read(0) == 1
    made.run(wbinvd())
    assert made.read(0) == 5
    assert made.dma_write(0, 6)
    assert made.read(0) == 6


def test_dma_goes_where_the_guest_goes() -> None:
    made = machine()
    assert made.dma_read(0) is None
    assert not made.dma_write(0, 1)
    made.write(0, 1)
    made.run(mprotect(made.process, A, HUGE, write=False))
    assert made.read(0) == 1
    assert (made.dma_read(0), made.dma_write(0, 5)) == (1, False)


@pytest.mark.parametrize("case", ["migrate 4K", "fork", "KSM", "swap", "collapse"])
def test_everything_also_works_through_the_cpu_cache(case: str) -> None:
    kind, operate, expected = CASES[case]
    made = machine(kind, cached=True)
    made.write(0, 1)
    assert operate(made) == expected
    settled(made)
