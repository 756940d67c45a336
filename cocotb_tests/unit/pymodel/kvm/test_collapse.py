"""Logging ends: zap or recover, windows, flushes, pauses (facts C4, C6, C10)."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, WRITE, Machine, effects_of
from pymodel.effects import CompareExchange, Store
from pymodel.kvm import slot_ops
from pymodel.kvm.effects import SpteChanged, TlbFlush
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_10, V6_12, V6_13, V6_18, KvmVersion

_ZAPS = pytest.mark.parametrize("version", [V6_1, V6_7, V6_8, V6_10, V6_12], ids=lambda one: one.name)
_RECOVERS = pytest.mark.parametrize("version", [V6_13, V6_18], ids=lambda one: one.name)


def _collapse(version: KvmVersion, **params: Any) -> tuple[Machine, list[Any]]:
    machine = Machine(version, flags=LOG_DIRTY, **params)
    machine.level = 2
    machine.fault(3)
    machine.fault(4)
    machine.log.clear()
    return machine, effects_of(machine, slot_ops.set_flags(machine.vm, 0, 0))


@_ZAPS
def test_zap_is_frozen_flush_empty_and_the_next_fault_is_huge(version: KvmVersion) -> None:
    machine, effects = _collapse(version)
    fmt = machine.vm.fmt
    kinds = [type(effect) for effect in effects]
    freeze = kinds.index(CompareExchange)
    assert effects[freeze].new == fmt.frozen
    flush = kinds.index(TlbFlush)
    empty = next(index for index, one in enumerate(effects) if isinstance(one, Store) and one.value == fmt.empty)
    first = kinds.index(SpteChanged)
    if version.flush_before_children:
        assert freeze < flush < empty < first, "6.10+: children and trace after the flush"
    else:
        assert freeze < first < flush < empty, "before: children frozen ahead of the flush"
    assert (effects[empty].address, effects[empty].value) == (effects[freeze].address, fmt.empty)
    assert machine.entry(3) == (2, fmt.empty), "a window without translation"
    machine.fault(3)
    assert machine.entry(3) == (2, 0x100000EE7)


@_RECOVERS
def test_recovery_in_place_has_no_window(version: KvmVersion) -> None:
    machine, effects = _collapse(version)
    changes = [(one.gfn, one.level, one.new) for one in effects if isinstance(one, SpteChanged)]
    assert changes[0] == (0, 2, 0x100000EE7)
    assert all(level == 1 and new == machine.vm.fmt.frozen for _, level, new in changes[1:])
    assert len(changes) == 513
    assert [type(one) for one in effects].index(TlbFlush) > 500
    assert machine.entry(3) == (2, 0x100000EE7)
    assert machine.locks() == ["S", "F", "s"]


@_RECOVERS
def test_recovery_flushes_before_it_pauses(version: KvmVersion) -> None:
    machine = Machine(version, flags=LOG_DIRTY)
    for gfn in (3, 512):
        machine.fault(gfn)
    machine.level = 2
    machine.pause_when_due = 1
    machine.log.clear()
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert machine.locks() == ["S", "F", "s", "S", "F", "s"]
    assert machine.entry(3)[0] == machine.entry(512)[0] == 2


@_RECOVERS
def test_table_without_a_live_page_stays(version: KvmVersion) -> None:
    machine = Machine(version, flags=LOG_DIRTY)
    machine.fault(3)
    table = next(table for table in machine.vm.tables.values() if table.level == 1)
    machine.memory.store((table.frame << 12) + 24, machine.vm.fmt.empty)
    machine.level = 2
    machine.log.clear()
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert machine.transitions() == []


@ALL
def test_what_cannot_be_huge_stays_small(version: KvmVersion) -> None:
    machine = Machine(version, npages=500, flags=LOG_DIRTY)
    machine.level = 2
    machine.fault(3)
    before = machine.entry(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert machine.entry(3) == before


@_RECOVERS
def test_write_protection_is_inherited_and_repaired_by_the_fast_path(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.level = 2
    machine.run(slot_ops.set_flags(machine.vm, 0, 0))
    assert machine.entry(3) == (2, 0x100000EE5)
    assert machine.fault(3, WRITE | 1).code == version.ret_fixed
    assert machine.entry(3) == (2, 0x100000EE7)
