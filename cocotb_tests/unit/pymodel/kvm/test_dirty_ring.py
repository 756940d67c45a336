"""Dirty rings: full exits, collection, reset and how neighbours are joined (facts C7)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cocotb_tests.unit.pymodel.kvm.support import Machine
from pymodel.kvm import dirty_ring, slot_ops
from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.vcpu import RING_FULL
from pymodel.kvm.version import V6_12

_PAGES = (3, 70, 5, 4, 9)


def _machine(**params: Any) -> Machine:
    return Machine(V6_12, flags=LOG_DIRTY, dirty_ring_size=256, dirty_ring_reserved=252, **params)


def test_dirty_ring_fills_and_is_reset() -> None:
    machine = _machine()
    writes = [(gfn, "write") for gfn in _PAGES]
    assert machine.guest(*writes) == RING_FULL
    assert machine.slot.dirty == set()
    assert dirty_ring.collect(machine.vcpu) == [(0, 3), (0, 70), (0, 5), (0, 4)]
    assert machine.guest(*writes) == RING_FULL, "not reset yet"
    machine.log.clear()
    assert machine.run(dirty_ring.reset_rings(machine.vm)) == 4
    assert machine.locks() == ["X", "x", "X", "x", "X", "x", "F"], "one hold a group, one flush"
    assert [gfn for gfn, _, _, _ in machine.transitions()] == [3, 70, 4, 5]
    assert machine.guest(*writes[:2]) == 0


def test_entries_of_a_slot_that_is_gone_or_smaller_are_passed_over() -> None:
    machine = _machine()
    machine.guest((3, "write"))
    dirty_ring.collect(machine.vcpu)
    machine.run(slot_ops.delete(machine.vm, 0))
    machine.log.clear()
    assert machine.run(dirty_ring.reset_rings(machine.vm)) == 1
    assert machine.transitions() == []
    assert machine.flushes()


def test_ring_without_room_is_a_defect() -> None:
    machine = _machine()
    machine.vcpu.ring = [(0, 1)] * 200
    machine.vcpu.ring_collected = [(0, 1)] * 56
    with pytest.raises(AssertionError, match="the dirty ring of vCPU 0 has no entry left of 256"):
        machine.run(mark_dirty(machine.vm, machine.slot, 3, machine.vcpu))


def test_reset_wrong_without_rings() -> None:
    machine = Machine(V6_12)
    with pytest.raises(KvmError, match="dirty_ring_size must be set for a VM whose rings are reset, not 0") as caught:
        machine.run(dirty_ring.reset_rings(machine.vm))
    assert caught.value.errno == EINVAL


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 300)), max_size=40))
def test_joining_loses_and_adds_no_page(entries: list[tuple[int, int]]) -> None:
    joined = dirty_ring._coalesced(entries)
    pages = {(slot, first + bit) for slot, first, mask in joined for bit in range(64) if mask >> bit & 1}
    assert pages == set(entries)
    assert all(0 < mask < 1 << 64 for _, _, mask in joined)
    assert len(joined) <= len(entries)
