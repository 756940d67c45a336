"""Dirty logging: protection, the log read and cleared, its order of locks and flushes, refusals (facts C7, C10)."""

from collections.abc import Callable
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, WRITE, Machine, effects_of
from pymodel.effects import CompareExchange, FetchAnd, Store
from pymodel.kvm import dirty, roots, slot_ops
from pymodel.kvm.effects import KvmAgent, KvmEffect, TlbFlush
from pymodel.kvm.errors import EINVAL, ENOENT, ENXIO, KvmError
from pymodel.kvm.memslots import LOG_DIRTY, READONLY
from pymodel.kvm.spte import WRITABLE, ept
from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_12, V6_13, KvmVersion

_EPT = ept(suppress_ve_empty=True)


@ALL
def test_dirty_log_round(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.fault(70)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3) == (1, 0x100003E65)
    machine.fault(3, WRITE | 1)
    assert machine.entry(3) == (1, 0x100003E67)
    machine.log.clear()
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == {3}
    assert machine.entry(3) == (1, 0x100003E65)
    assert machine.locks() == ["X", "x", "F"], "the flush comes before the bitmap is given out"
    machine.log.clear()
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == set()
    assert not machine.flushes()


@ALL
def test_enabling_flushes_after_the_protection(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.level = 2
    machine.fault(3)
    machine.log.clear()
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    pause = ["s", "S"] if version.split_unlocks else []
    assert machine.locks() == ["S", *pause, "s", "S", "s", "F"]
    assert machine.entry(77)[1] & WRITABLE == 0


def test_lazy_enabling_protects_the_huge_page_and_the_next_write_is_small() -> None:
    machine = Machine(V6_12, eager_page_split=False)
    machine.level = 2
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3) == (2, 0x100000EE5)
    assert machine.fault(3, WRITE | 1).code == V6_12.ret_fixed
    assert machine.entry(3) == (1, 0x100003E67)
    assert machine.slot.dirty == {3}


def test_manual_protection_reads_without_a_change_and_clears_only_what_is_asked() -> None:
    machine = Machine(V6_12, flags=LOG_DIRTY, manual_protect=True)
    for gfn in (3, 64, 65, 130):
        machine.fault(gfn)
    machine.log.clear()
    assert machine.run(dirty.get_dirty_log(machine.vm, machine.slot)) == {3, 64, 65, 130}
    assert machine.log == []
    machine.run(dirty.clear_dirty_log(machine.vm, machine.slot, 64, [0, 5, 66], 128))
    assert machine.slot.dirty == {3, 65}
    assert [machine.entry(gfn)[1] & WRITABLE for gfn in (3, 64, 65, 130)] == [2, 0, 2, 0]
    assert machine.locks() == ["X", "x", "F"]
    machine.log.clear()
    machine.run(dirty.clear_dirty_log(machine.vm, machine.slot, 64, [0, 5]))
    assert machine.locks() == ["X", "x"], "nothing was cleared"


@pytest.mark.parametrize(("version", "split_to"), [(V6_7, 62), (V6_8, 63)])
def test_initially_set_log_splits_at_clear(version: KvmVersion, split_to: int) -> None:
    """Before 6.8 the range of the split ends one page too early: seen where that page is in the next huge page."""
    machine = Machine(version, manual_protect=True, initially_set=True)
    machine.level = 2
    machine.fault(3)
    machine.fault(512)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3)[0] == machine.entry(512)[0] == 2
    machine.run(dirty.clear_dirty_log(machine.vm, machine.slot, 448, [0, 63]))
    assert machine.entry(448) == (1, 0x1001C0E65)
    machine.run(dirty.clear_dirty_log(machine.vm, machine.slot, 512, [0]))
    assert (machine.entry(512)[0] == 1) is (split_to == 63), "a mask of one page is an empty range before 6.8"


def test_initially_set_log_protects_huge_pages_at_a_lazy_clear() -> None:
    machine = Machine(V6_12, manual_protect=True, initially_set=True, eager_page_split=False)
    machine.level = 2
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3) == (2, 0x100000EE7)
    assert len(machine.run(dirty.get_dirty_log(machine.vm, machine.slot))) == 4096
    machine.run(dirty.clear_dirty_log(machine.vm, machine.slot, 0, range(64)))
    assert machine.entry(3) == (2, 0x100000AE5)
    assert machine.fault(3, WRITE | 1).code == V6_12.ret_fixed
    assert machine.entry(3) == (1, 0x100003E67)


def test_dirty_bit_log_clears_d_of_pages_and_w_of_huge_pages() -> None:
    machine = Machine(V6_12, fmt=_EPT, log_by_dirty_bit=True, eager_page_split=False)
    machine.fault(3)
    machine.level = 2
    machine.fault(512)
    small, huge = machine.entry(3)[1], machine.entry(512)[1]
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3)[1] == small & ~_EPT.dirty
    assert machine.entry(512)[1] == huge & ~_EPT.dirty & ~WRITABLE


def test_dirty_bit_log_write_protects_for_the_guest_of_a_guest() -> None:
    machine = Machine(V6_12, fmt=_EPT, log_by_dirty_bit=True)
    machine.fault(3)
    outer = machine.vcpu.root
    machine.run(roots.switch_role(machine.vm, machine.vcpu, guest_mode=True))
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    machine.fault(3)
    assert machine.entry(3)[1] >> 52 & 3 == 2, "A/D scheme: write protection only"
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    assert machine.entry(3)[1] & (WRITABLE | _EPT.dirty) == _EPT.dirty
    assert machine.entry(3, outer)[1] & (WRITABLE | _EPT.dirty) == WRITABLE


@pytest.mark.parametrize(("version", "atomic"), [(V6_1, False), (V6_12, True)])
def test_clearing_is_atomic_only_where_hardware_may_write_too(version: KvmVersion, atomic: bool) -> None:
    """D loss (facts C7): an entry whose A or D hardware may set is never overwritten with an older value."""
    for volatile in (False, True):
        machine = Machine(version, flags=LOG_DIRTY)
        machine.fault(3)
        if volatile:
            table = next(table for table in machine.vm.tables.values() if table.level == 1)
            address = (table.frame << 12) + 8 * 3
            machine.memory.store(address, machine.memory.load(address) & ~machine.vm.fmt.accessed)
        effects = effects_of(machine, dirty.get_dirty_log(machine.vm, machine.slot))
        writes = [type(one) for one in effects if isinstance(one, CompareExchange | FetchAnd | Store)]
        expected = Store if not volatile else FetchAnd if atomic else CompareExchange
        assert writes == [expected]


def test_write_between_bitmap_and_flush_is_logged_again() -> None:
    """The page is taken out of the bitmap before it is protected, so that no write falls between."""
    machine = Machine(V6_12, flags=LOG_DIRTY)
    machine.fault(3)

    def write(effect: KvmEffect) -> None:
        if isinstance(effect, TlbFlush):
            machine.fault(3, WRITE | 1)

    assert machine.watched(dirty.get_dirty_log(machine.vm, machine.slot), write) == {3}
    assert machine.slot.dirty == {3}


def test_two_vcpus_share_one_bitmap() -> None:
    machine = Machine(V6_13, flags=LOG_DIRTY)
    machine.fault(3)
    machine.fault(3, WRITE)
    assert machine.slot.dirty == {3}


@pytest.mark.parametrize(
    ("call", "params", "flags", "errno", "text"),
    [
        (lambda m: dirty.get_dirty_log(m.vm, m.slot), {}, 0, ENOENT,
         "slot must be a memslot of address space 0 whose dirty pages are logged, not 0"),
        (lambda m: dirty.clear_dirty_log(m.vm, m.slot, 0, []), {}, READONLY, ENOENT,
         "slot must be a memslot of address space 0 whose dirty pages are logged, not 0"),
        (lambda m: dirty.get_dirty_log(m.vm, m.slot), {"dirty_ring_size": 256}, 1, ENXIO,
         "dirty_ring_size must be 0 for a VM whose bitmaps are asked for, not 0x100"),
        (lambda m: dirty.clear_dirty_log(m.vm, m.slot, 32, []), {}, 1, EINVAL,
         "first_page must be a multiple of 64, not 0x20"),
        (lambda m: dirty.clear_dirty_log(m.vm, m.slot, 0, [], 65), {}, 1, EINVAL,
         "num_pages must be a multiple of 64, or 0x82 up to the slot's end, not 0x41"),
        (lambda m: dirty.clear_dirty_log(m.vm, m.slot, 64, [], 67), {}, 1, EINVAL,
         "num_pages must be at most what the slot's 0x82 pages leave, not 0x43"),
        (lambda m: dirty.clear_dirty_log(m.vm, m.slot, 192, []), {}, 1, EINVAL,
         "num_pages must be at most what the slot's 0x82 pages leave, not -0x3e"),
    ],
)  # fmt: skip
def test_log_wrong_request_is_one_line(
    call: Callable[[Machine], KvmAgent[Any]], params: dict[str, Any], flags: int, errno: int, text: str
) -> None:
    machine = Machine(V6_12, npages=130, flags=flags, **params)
    with pytest.raises(KvmError) as caught:
        machine.run(call(machine))
    assert (str(caught.value), caught.value.errno) == (text, errno)
    assert machine.log == []
