"""A vCPU's run: requests at entry, emulation, exits, interrupts (facts C1, K)."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.kvm.support import HVA, Machine
from pymodel.kvm import roots, slot_ops
from pymodel.kvm.effects import KvmEffect, SrcuEnter, SrcuLeave, Trace
from pymodel.kvm.memslots import READONLY, Memslot
from pymodel.kvm.vcpu import EMULATION_FAILED, Access, Instruction, run_guest
from pymodel.kvm.version import V6_1, V6_10, V6_12, KvmVersion
from pymodel.kvm.vm import FLUSH_GUEST


def _named(machine: Machine, name: str) -> list[dict[str, Any]]:
    return [dict(one.fields) for one in machine.log if isinstance(one, Trace) and one.name == name]


@pytest.mark.parametrize(("version", "faults"), [(V6_1, 2), (V6_10, 2), (V6_12, 1)])
def test_emulated_write_is_first_retried_by_the_guest_before_6_12(version: KvmVersion, faults: int) -> None:
    machine = Machine(version, flags=READONLY)
    assert machine.guest((5, "write"), (6, "read")) == 0
    assert len(_named(machine, "page_fault")) == faults + 1
    assert _named(machine, "exit") == [{"exit": "mmio", "gpa": 0x5000, "write": 1}]


def test_mmio_access_leaves_to_userspace_and_goes_on_behind_it() -> None:
    machine = Machine(V6_12, npages=16)
    assert machine.guest((100, "read"), (3, "write"), (100, "write")) == 0
    assert [one["write"] for one in _named(machine, "exit")] == [0, 1]


def test_code_outside_of_memory_fails() -> None:
    machine = Machine(V6_12, npages=16)
    assert machine.guest((100, "fetch")) == EMULATION_FAILED


def test_refused_page_ends_the_run_with_its_errno() -> None:
    machine = Machine(V6_12)
    machine.refuse = True
    assert machine.guest((3, "read")) == 14


def test_smm_emulates_by_its_own_slots() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(slot_ops.create(machine.vm, Memslot(0, 0x40, 16, HVA + (1 << 30), READONLY, as_id=1)))
    machine.run(roots.switch_role(machine.vm, machine.vcpu, as_id=1))
    assert machine.guest((0x43, "write"), (3, "write")) == 0
    assert [one["gpa"] for one in _named(machine, "exit")] == [0x43000, 0x3000]


@pytest.mark.parametrize(("version", "pending"), [(V6_10, set()), (V6_12, {FLUSH_GUEST})])
def test_new_vcpu_flushes_the_guest_at_its_first_entry_from_6_12_on(version: KvmVersion, pending: set[str]) -> None:
    machine = Machine(version)
    vcpu = machine.vm.add_vcpu()
    assert (vcpu.ident, vcpu.requests) == (1, pending)
    machine.log.clear()
    machine.run(roots.prepare_entry(machine.vm, vcpu))
    first = "call svm_flush_tlb_asid" if pending else "call kvm_tdp_mmu_alloc_root"
    assert machine.calls()[0] == first
    assert vcpu.requests == set()


def test_faults_are_readers_of_the_slots() -> None:
    machine = Machine(V6_12)
    inside = False

    def check(effect: KvmEffect) -> None:
        nonlocal inside
        if isinstance(effect, SrcuEnter | SrcuLeave):
            assert inside is isinstance(effect, SrcuLeave)
            inside = not inside
        assert inside or type(effect).__name__ not in ("HostFault", "CompareExchange")

    program = [Instruction((Access(0x3000, "write"),))]
    assert machine.watched(run_guest(machine.vm, machine.vcpu, program), check) == 0
    assert not inside
