"""Two VMs that agents can tell apart have different pictures: every field of every object is tried."""

import copy
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import HVA, Machine
from pymodel.kvm import nx, spte
from pymodel.kvm.gfn_set import GfnSet
from pymodel.kvm.memslots import Memslot, Memslots
from pymodel.kvm.snapshot import snapshot
from pymodel.kvm.tracked_gfns import TrackedGfns
from pymodel.kvm.version import V6_7, V6_12
from pymodel.kvm.vm import KvmParams, Table, Vcpu, Vm

NOT_STATE = {"host", "_new_frame", "_release"}
"""What a VM is given: the host and the source of table pages, which whoever explores pictures beside it."""


def make() -> Vm:
    """A VM with something of everything."""
    machine = Machine(V6_12, npages=16)
    machine.fault(3)
    vm = machine.vm
    machine.run(nx.track(vm, table_of(vm)))
    return vm


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if value is None or isinstance(value, int):
        return (value or 0) + 7
    if isinstance(value, set):
        return value | {77}
    if isinstance(value, list):
        return [*value, (1, 2, 3)]
    if isinstance(value, TrackedGfns):
        tracked = TrackedGfns()
        tracked.add(77)
        return tracked
    raise AssertionError(f"no other value is known for {value!r}")


def changed(where: Callable[[Vm], Any], name: str, value: Callable[[Any], Any] = other) -> Vm:
    vm = make()
    target = where(vm)
    setattr(target, name, value(getattr(target, name)))
    return vm


def table_of(vm: Vm) -> Table:
    return next(table for table in vm.tables.values() if table.level == 2)


def root_of(vm: Vm) -> Table:
    return vm.roots[0]


def vcpu_of(vm: Vm) -> Vcpu:
    return vm.vcpus[0]


def slot_of(vm: Vm) -> Memslot:
    return vm.slots.existing(0)


def test_equal_states_have_equal_pictures() -> None:
    """VMs that went the same way look the same."""
    vm = make()
    assert snapshot(vm) == snapshot(make())
    assert hash(snapshot(vm)) == hash(snapshot(make()))


@pytest.mark.parametrize("where", [table_of, root_of], ids=["table", "root"])
@pytest.mark.parametrize("name", [field.name for field in fields(Table)])
def test_every_field_of_a_table_counts(where: Callable[[Vm], Table], name: str) -> None:
    assert snapshot(changed(where, name)) != snapshot(make())


@pytest.mark.parametrize("name", [field.name for field in fields(Vcpu)])
def test_every_field_of_a_vcpu_counts(name: str) -> None:
    """Of a vCPU, and of a fault context beside the vCPUs."""

    def another(value: Any) -> Any:
        if name == "root":
            return Table(77, 4, 0)
        return other(value)

    assert snapshot(changed(vcpu_of, name, another)) != snapshot(make())
    vm, context, same = make(), Vcpu(-1), Vcpu(-1)
    setattr(context, name, another(getattr(context, name)))
    assert snapshot(vm, context) != snapshot(vm, same)
    assert snapshot(vm, Vcpu(-1)) == snapshot(vm, same)


@pytest.mark.parametrize("name", [field.name for field in fields(Memslot)])
def test_every_field_of_a_memslot_counts(name: str) -> None:
    assert snapshot(changed(slot_of, name)) != snapshot(make())


@pytest.mark.parametrize("name", [field.name for field in fields(KvmParams)])
def test_every_parameter_counts(name: str) -> None:
    assert snapshot(changed(lambda vm: vm.params, name)) != snapshot(make())


def _instead(name: str, value: Any) -> Any:
    """Another value of an attribute of a VM."""
    if name == "version":
        return V6_7
    if name == "fmt":
        return spte.ept(suppress_ve_empty=True)
    if name == "params":
        return KvmParams(nx_huge_pages=True)
    if name == "slots":
        return Memslots()
    if name == "private":
        other_set = GfnSet()
        other_set.change(3, 5, True)
        return other_set
    if name in ("roots", "possible_nx", "vcpus", "tables"):
        return type(value)()
    return other(value)


@pytest.mark.parametrize("name", sorted(set(vars(make())) - NOT_STATE))
def test_every_attribute_of_a_vm_counts(name: str) -> None:
    """An attribute that is added later comes here by itself and fails until the picture shows it."""
    assert snapshot(changed(lambda vm: vm, name, lambda value: _instead(name, value))) != snapshot(make())


@pytest.mark.parametrize("name", sorted(vars(Memslots())))
def test_every_attribute_of_the_slots_counts(name: str) -> None:
    """Both indices hold the same slots, so that all of them change together; the generations stand alone."""
    vm = make()
    if name == "_generations":
        vm.slots.advance(1)
    else:
        vm.slots.install(Memslot(1, 64, 4, HVA + (1 << 30), 0))
        assert getattr(vm.slots, name) != getattr(make().slots, name)
    assert snapshot(vm) != snapshot(make())


def test_order_counts_where_kvm_goes_by_it() -> None:
    """The list of roots and that of NX recovery are walked in order."""
    one, two = make(), make()
    one.roots.insert(0, Table(77, 4, 0))
    two.roots.append(Table(77, 4, 0))
    assert snapshot(one) != snapshot(two)
    three, four = Machine(V6_12), Machine(V6_12)
    tables = Table(77, 1, 0), Table(78, 1, 0)
    for machine, order in ((three, tables), (four, tables[::-1])):
        for table in order:
            machine.run(nx.track(machine.vm, table))
    assert snapshot(three.vm) != snapshot(four.vm)


def test_a_root_that_left_the_list_is_still_seen() -> None:
    """A vCPU that holds a dead root differs from one whose root lives on with equal fields."""
    one, two = make(), make()
    root = two.roots[0]
    vcpu_of(two).root = copy.copy(root)
    assert snapshot(one) != snapshot(two)
