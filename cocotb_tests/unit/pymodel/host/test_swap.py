"""Swap slots: where they lie, reuse, exhaustion, misuse."""

import pytest

from pymodel.host.errors import DoubleFree, OutOfMemory
from pymodel.host.swap import Swap


def test_slots_lie_one_after_the_other_and_are_reused() -> None:
    swap = Swap(0x500, 2)
    first, second = swap.allocate(), swap.allocate()
    assert (first.frame, second.frame, swap.used) == (0x500, 0x501, 2)
    with pytest.raises(OutOfMemory, match="all 2 swap slots"):
        swap.allocate()
    swap.release(first)
    assert swap.allocate().number == first.number
    assert swap.slot(second.number) is second


def test_slot_in_use_or_unknown_wrong() -> None:
    swap = Swap(0x500, 2)
    slot = swap.allocate()
    slot.refs = 1
    with pytest.raises(DoubleFree, match="in use by 1"):
        swap.release(slot)
    slot.refs = 0
    swap.release(slot)
    with pytest.raises(DoubleFree, match="free already"):
        swap.release(slot)
    with pytest.raises(DoubleFree, match="slot 0 is not in use"):
        swap.slot(0)
