"""Private pages that leave the file: zapped, flushed, and not mapped again meanwhile (facts C9)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import Machine
from pymodel.kvm import guest_memfd
from pymodel.kvm.attributes import set_private
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import GUEST_MEMFD
from pymodel.kvm.version import V6_12


def test_punched_pages_are_gone_before_the_call_returns_and_stay_so_until_its_end() -> None:
    machine = Machine(V6_12, npages=64, flags=GUEST_MEMFD)
    machine.run(set_private(machine.vm, 0, 64, True))
    for gfn in (4, 5, 9):
        machine.fault(gfn)
    machine.log.clear()
    machine.run(guest_memfd.invalidate_begin(machine.vm, machine.slot, 4, 8))
    assert [gfn for gfn, _, _, _ in machine.transitions()] == [4, 5]
    assert machine.locks() == ["X", "F", "x"]
    assert machine.fault(5).code == V6_12.ret_retry
    machine.run(guest_memfd.invalidate_end(machine.vm, machine.slot, 4, 8))
    assert machine.fault(5).code == V6_12.ret_fixed


def test_lookup_before_the_hole_does_not_map_after_it() -> None:
    machine = Machine(V6_12, npages=64, flags=GUEST_MEMFD)
    machine.run(set_private(machine.vm, 0, 64, True))

    def punch() -> None:
        machine.run(guest_memfd.invalidate_begin(machine.vm, machine.slot, 5, 6))
        machine.run(guest_memfd.invalidate_end(machine.vm, machine.slot, 5, 6))

    machine.during_fault = punch
    assert machine.fault(5).code == V6_12.ret_retry


@pytest.mark.parametrize(
    ("flags", "first", "end", "text"),
    [
        (0, 4, 8, "slot must be one with a guest_memfd, not 0"),
        (GUEST_MEMFD, 8, 8, "range must be not empty and within the slot's 0x40 pages, not '0x8..0x8'"),
        (GUEST_MEMFD, 8, 65, "range must be not empty and within the slot's 0x40 pages, not '0x8..0x41'"),
    ],
)
def test_hole_wrong_range(flags: int, first: int, end: int, text: str) -> None:
    machine = Machine(V6_12, npages=64, flags=flags)
    for call in (guest_memfd.invalidate_begin, guest_memfd.invalidate_end):
        with pytest.raises(KvmError) as caught:
            machine.run(call(machine.vm, machine.slot, first, end))
        assert (str(caught.value), caught.value.errno) == (text, EINVAL)
