"""A vCPU running a small guest program: entry, accesses, nested faults, exits (facts C1; x86.c vcpu_run)."""

from collections.abc import Iterable
from dataclasses import dataclass

from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.dirty_ring import ring_full
from pymodel.kvm.effects import HostInterrupt, KvmAgent, SrcuEnter, SrcuLeave, Trace
from pymodel.kvm.fault import page_fault
from pymodel.kvm.hardware import FETCH, FINAL, PML_FULL, WRITE, nested_walk
from pymodel.kvm.mmio import is_cached
from pymodel.kvm.pml import flush_buffer
from pymodel.kvm.roots import prepare_entry
from pymodel.kvm.vm import Vcpu, Vm, returned

__all__ = ["EMULATION_FAILED", "RING_FULL", "Access", "Instruction", "run_guest"]

EMULATION_FAILED = 1
"""Result of a run that ended with KVM_EXIT_INTERNAL_ERROR."""
RING_FULL = 2
"""Result of a run that ended with KVM_EXIT_DIRTY_RING_FULL."""


@dataclass(frozen=True, slots=True)
class Access:
    """One access of an instruction: READ, WRITE or FETCH at a guest-physical address."""

    gpa: int
    kind: str
    origin: int = FINAL


@dataclass(frozen=True, slots=True)
class Instruction:
    """An instruction: what it touches in order (its own fetch first); it starts anew after a fault."""

    accesses: tuple[Access, ...]
    page_table_write: bool = False
    """Of a kind with which guests write page tables (x86_page_table_writing_insn): a plain store, an exchange."""


def run_guest(vm: Vm, vcpu: Vcpu, program: Iterable[Instruction]) -> KvmAgent[int]:
    """KVM_RUN until the guest halts: 0, the errno of a run that failed, `EMULATION_FAILED` or `RING_FULL`.

    An emulated MMIO access leaves to userspace, which completes it; the guest goes on behind the instruction.
    """
    instructions = list(program)
    index = 0
    entered = False
    while index < len(instructions):
        if not entered:
            if ring_full(vm, vcpu):
                yield Trace("exit", (("exit", "dirty_ring_full"),))
                return RING_FULL
            yield from prepare_entry(vm, vcpu)
            yield Trace("vmentry")
            entered = True
        assert vcpu.root is not None
        fault: tuple[Access, int] | None = None
        if (yield HostInterrupt()):
            entered = False
            yield from flush_buffer(vm, vcpu)
            continue
        log = vcpu.pml if vcpu.pml_enabled else None
        for access in instructions[index].accesses:
            error = yield from nested_walk(vm.fmt, vcpu.root, access.gpa, access.kind, origin=access.origin, log=log)
            if error is not None:
                fault = access, error
                break
        if fault is None:
            index += 1
            continue
        access, error = fault
        entered = False
        yield Trace("vmexit", (("reason", "pml_full" if error == PML_FULL else "npf"),))
        yield from flush_buffer(vm, vcpu)
        if error == PML_FULL:
            continue
        yield SrcuEnter()
        outcome = yield from page_fault(vm, vcpu, access.gpa, error)
        yield SrcuLeave()
        if outcome.error:
            yield Trace("exit", (("exit", "error"), ("errno", outcome.error)))
            return outcome.error
        if outcome.emulate:
            if _retried(vm, vcpu, instructions[index], access):
                yield returned("kvm_mmu_page_fault", 1)
                continue
            if not (yield from _emulate(vm, vcpu, instructions[index])):
                return EMULATION_FAILED
            index += 1
    while not entered or (yield HostInterrupt()):
        yield from prepare_entry(vm, vcpu)
        yield Trace("vmentry")
        entered = True
    yield Trace("vmexit", (("reason", "hlt"),))
    yield from flush_buffer(vm, vcpu)
    return 0


def _retried(vm: Vm, vcpu: Vcpu, instruction: Instruction, access: Access) -> bool:
    """retry_instruction: let the guest try once more, in case a write-protected page was in the way."""
    place = (instruction.accesses[0].gpa, access.gpa)
    last, vcpu.last_retry = vcpu.last_retry, None
    cached = is_cached(vm, vcpu, access.gpa >> 12)
    if not vm.version.emulator_retries or cached or instruction.page_table_write or last == place:
        return False
    vcpu.last_retry = place
    return True


def _emulate(vm: Vm, vcpu: Vcpu, instruction: Instruction) -> KvmAgent[bool]:
    """x86_emulate_instruction: accesses without memory behind them leave to userspace; False without code.

    What the emulator itself writes, to a page whose writes are tracked, is dirty as if the guest had written it.
    """
    yield returned("kvm_mmu_page_fault", 0)
    for access in instruction.accesses:
        slot = vm.slots.find(access.gpa >> 12, vcpu.as_id)
        if access.kind == FETCH and slot is None:
            yield Trace("exit", (("exit", "internal_error"),))
            return False
        write = access.kind == WRITE
        if access.kind != FETCH and (slot is None or (write and slot.readonly)):
            yield Trace("exit", (("exit", "mmio"), ("gpa", access.gpa), ("write", int(write))))
        elif write and access.origin == FINAL:
            yield from mark_dirty(vm, slot, access.gpa >> 12, vcpu)
    return True
