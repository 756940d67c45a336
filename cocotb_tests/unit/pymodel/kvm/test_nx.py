"""NX huge pages: splits by execution, the list, recovery under either lock (facts C8, C3)."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, FETCH, READ, WRITE, Machine
from pymodel.effects import CompareExchange
from pymodel.kvm import nx_recovery, roots, slot_ops, tdp_mmu
from pymodel.kvm.effects import KvmEffect, SpteChanged
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.version import V6_1, V6_7, V6_12, V6_13, V6_18, KvmVersion


def _split(version: KvmVersion, *gfns: int, **params: Any) -> Machine:
    machine = Machine(version, nx_huge_pages=True, **{"recovery_ratio": 1, **params})
    machine.level = 2
    for gfn in gfns:
        machine.fault(gfn, WRITE)
        machine.fault(gfn, FETCH | 1)
    machine.log.clear()
    return machine


@ALL
def test_exec_in_an_nx_huge_page(version: KvmVersion) -> None:
    machine = Machine(version, nx_huge_pages=True, recovery_ratio=1)
    machine.level = 2
    machine.fault(3, WRITE)
    assert machine.entry(3) == (2, 0x8000000100000EE7)
    machine.log.clear()
    machine.fault(3, FETCH | 1)
    assert machine.entry(3)[0] == 1
    neighbour, flushes = (0x100004E67, 0) if version.split_on_fault else (machine.vm.fmt.empty, 1)
    assert machine.entry(4) == (1, neighbour)
    assert len(machine.flushes()) == flushes
    machine.fault(600, READ)
    assert len(machine.vm.possible_nx) == 1
    machine.fault(5, READ)
    assert machine.entry(5)[0] == 1
    machine.run(nx_recovery.recover(machine.vm))
    assert not machine.vm.possible_nx
    machine.fault(5, READ)
    assert machine.entry(5)[0] == 2


@pytest.mark.parametrize(("version", "marked"), [(V6_1, False), (V6_7, True)])
def test_table_that_could_not_be_huge_is_marked_from_6_2_on(version: KvmVersion, marked: bool) -> None:
    machine = Machine(version, npages=500, nx_huge_pages=True)
    machine.fault(3, FETCH)
    table = next(table for table in machine.vm.tables.values() if table.level == 1)
    assert (table.nx_disallowed, list(machine.vm.possible_nx)) == (marked, [])


def test_share_of_the_list_goes_oldest_first() -> None:
    machine = _split(V6_12, 0, 512, 1024, recovery_ratio=2)
    machine.run(nx_recovery.recover(machine.vm))
    assert [table.gfn for table in machine.vm.possible_nx] == [1024]
    machine.vm.params.recovery_ratio = 0
    machine.run(nx_recovery.recover(machine.vm))
    assert [table.gfn for table in machine.vm.possible_nx] == [1024]


@pytest.mark.parametrize(("version", "letters"), [(V6_12, "XFx"), (V6_13, "XFx"), (V6_18, "SFs")])
def test_recovery_takes_the_lock_of_its_kernel_and_flushes_inside(version: KvmVersion, letters: str) -> None:
    machine = _split(version, 0, 512)
    machine.run(nx_recovery.recover(machine.vm))
    assert "".join(machine.locks()) == letters
    assert not machine.vm.possible_nx


@pytest.mark.parametrize("version", [V6_12, V6_18], ids=lambda one: one.name)
def test_recovery_flushes_before_it_pauses(version: KvmVersion) -> None:
    machine = _split(version, 0, 512)
    machine.pause_when_due = 1
    machine.run(nx_recovery.recover(machine.vm))
    assert "".join(machine.locks()).upper() in ("XFXXFX", "SFSSFS")


def test_shared_recovery_leaves_a_table_that_was_replaced() -> None:
    """6.18+: another task put a huge page over the table meanwhile; the entry is not this table's any more."""
    machine = _split(V6_18, 0)
    table = next(iter(machine.vm.possible_nx))
    tries: list[KvmEffect] = []

    def replace(effect: KvmEffect) -> None:
        if isinstance(effect, CompareExchange) and effect.address == table.parent:
            tries.append(effect)
            machine.memory.store(table.parent, 0x100000EE7)

    machine.watched(nx_recovery.recover(machine.vm), replace)
    assert len(tries) == 1
    assert machine.entry(3) == (2, 0x100000EE7)
    assert not machine.flushes()
    assert not machine.vm.possible_nx


@pytest.mark.parametrize(("version", "zapped"), [(V6_1, True), (V6_7, False), (V6_18, False)])
def test_tables_of_a_logged_slot_are_only_forgotten_from_6_2_on(version: KvmVersion, zapped: bool) -> None:
    machine = _split(version, 0)
    machine.run(slot_ops.set_flags(machine.vm, 0, LOG_DIRTY))
    machine.log.clear()
    machine.run(nx_recovery.recover(machine.vm))
    assert not machine.vm.possible_nx
    assert bool(machine.transitions()) is zapped


@ALL
def test_switching_the_mitigation_makes_every_page_anew(version: KvmVersion) -> None:
    machine = _split(version, 0)
    machine.run(nx_recovery.set_mitigation(machine.vm, True))
    assert machine.log == []
    machine.run(nx_recovery.set_mitigation(machine.vm, False))
    assert not machine.vm.possible_nx
    machine.run(roots.prepare_entry(machine.vm, machine.vcpu))
    machine.fault(3, FETCH)
    assert machine.entry(3)[0] == 2


def test_table_that_is_zapped_before_it_is_listed_is_never_listed() -> None:
    """Another task under the shared lock takes the new table out between its link and its place on the list."""
    machine = Machine(V6_12, nx_huge_pages=True)
    machine.level = 2

    def zap(effect: KvmEffect) -> None:
        if isinstance(effect, SpteChanged) and effect.level == 2 and machine.vm.fmt.is_table(effect.new, 2):
            machine.run(tdp_mmu.zap_table(machine.vm, machine.vm.tables[machine.vm.fmt.pfn(effect.new)]))

    machine.watched(page_fault(machine.vm, machine.vcpu, 0x5000, FETCH), zap)
    assert not machine.vm.possible_nx
    assert machine.entry(5)[0] == 2
