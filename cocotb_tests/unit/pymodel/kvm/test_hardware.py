"""The CPU's nested walk next to software that changes the entries under it."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import Machine
from pymodel.effects import CompareExchange
from pymodel.kvm.effects import KvmEffect
from pymodel.kvm.hardware import FINAL, READ, WRITE, nested_walk
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_12

GFN = 5


@pytest.fixture
def machine() -> Machine:
    """gfn 5 mapped writable; A and D are taken away again."""
    machine = Machine(V6_12, fmt=ept(suppress_ve_empty=True))
    machine.fault(GFN)
    machine.memory.store(place(machine), machine.entry(GFN)[1] & ~(machine.vm.fmt.accessed | machine.vm.fmt.dirty))
    return machine


def place(machine: Machine) -> int:
    table = next(table for table in machine.vm.tables.values() if table.level == 1)
    return (table.frame << 12) + 8 * GFN


def test_write_sets_accessed_and_dirty_and_is_logged(machine: Machine) -> None:
    fmt, root = machine.vm.fmt, machine.vcpu.root
    assert root is not None
    log: list[int] = []
    assert machine.run(nested_walk(fmt, root, GFN << 12 | 8, WRITE, log=log)) is None
    assert machine.entry(GFN)[1] & (fmt.accessed | fmt.dirty) == fmt.accessed | fmt.dirty
    assert log == [GFN << 12]


@pytest.mark.parametrize(("kind", "code"), [(READ, FINAL | 4), (WRITE, FINAL | 6)])
def test_entry_that_is_zapped_under_the_walk_gets_no_bits(kind: str, code: int, machine: Machine) -> None:
    """The update compares: an emptied entry stays empty, nothing is logged, and the walk faults."""
    fmt, root = machine.vm.fmt, machine.vcpu.root
    assert root is not None
    log: list[int] = []

    def zap(effect: KvmEffect) -> None:
        if isinstance(effect, CompareExchange):
            machine.memory.store(place(machine), fmt.empty)

    assert machine.watched(nested_walk(fmt, root, GFN << 12, kind, log=log), zap) == code
    assert machine.entry(GFN) == (1, fmt.empty)
    assert not log
