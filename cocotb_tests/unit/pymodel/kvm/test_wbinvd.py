"""WBINVD of the guest: which physical CPUs write back, as a function of the devices now (facts C11, D6)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import Machine
from pymodel.kvm import memory_type, wbinvd
from pymodel.kvm.effects import Wbinvd
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_12


def _machine(**params: bool) -> Machine:
    return Machine(V6_12, fmt=ept(suppress_ve_empty=True), **params)


def _written_back(machine: Machine) -> list[int]:
    found = [one.cpu for one in machine.log if isinstance(one, Wbinvd)]
    machine.log.clear()
    return found


def test_every_cpu_since_the_last_time_is_written_back() -> None:
    machine = _machine()
    machine.run(memory_type.register_noncoherent(machine.vm))
    for cpu in (3, 1, 3, 2):
        machine.run(wbinvd.load_cpu(machine.vm, machine.vcpu, cpu))
    assert _written_back(machine) == []
    machine.run(wbinvd.emulate_wbinvd(machine.vm, machine.vcpu))
    assert _written_back(machine) == [1, 2, 3]
    machine.run(wbinvd.emulate_wbinvd(machine.vm, machine.vcpu))
    assert _written_back(machine) == [2], "only where it runs now"


def test_cpu_without_the_exit_writes_back_when_the_vcpu_leaves_it() -> None:
    machine = _machine(wbinvd_exit=False)
    machine.run(memory_type.register_noncoherent(machine.vm))
    for cpu in (3, 3, 1):
        machine.run(wbinvd.load_cpu(machine.vm, machine.vcpu, cpu))
    assert _written_back(machine) == [3]
    machine.run(wbinvd.emulate_wbinvd(machine.vm, machine.vcpu))
    assert _written_back(machine) == [1]


def test_emulation_follows_the_devices_and_not_history() -> None:
    machine = _machine()
    for change, emulated in ((memory_type.register_noncoherent, True), (memory_type.unregister_noncoherent, False)) * 2:
        machine.run(change(machine.vm))
        assert wbinvd.wbinvd_emulated(machine.vm) is emulated
        machine.log.clear()
        machine.run(wbinvd.load_cpu(machine.vm, machine.vcpu, 1))
        machine.run(wbinvd.emulate_wbinvd(machine.vm, machine.vcpu))
        assert bool(_written_back(machine)) is emulated


def test_wbinvd_wrong_on_no_cpu() -> None:
    machine = _machine()
    machine.run(memory_type.register_noncoherent(machine.vm))
    with pytest.raises(ValueError, match="vCPU 0 must run on a physical CPU"):
        machine.run(wbinvd.emulate_wbinvd(machine.vm, machine.vcpu))
