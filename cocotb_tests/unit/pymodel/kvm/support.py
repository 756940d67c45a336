"""A small VM for tests: model, memory, a host that maps what it is told, and a log of what the agents did."""

from collections.abc import Callable
from typing import Any

import pytest

from pymodel.effects import CompareExchange, FetchAnd, Store, changed
from pymodel.kvm import roots, slot_ops
from pymodel.kvm.effects import (
    AllocateNow,
    HostFault,
    HostPage,
    KvmAgent,
    KvmEffect,
    MmuLock,
    MmuUnlock,
    Resched,
    SpteChanged,
    TlbFlush,
    Trace,
    run_kvm,
)
from pymodel.kvm.fault import Outcome, page_fault
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import ADDRESS, SpteFormat
from pymodel.kvm.vcpu import Access, Instruction, run_guest
from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_10, V6_12, V6_13, V6_18, KvmVersion
from pymodel.kvm.vm import KvmParams, Table, Vcpu, Vm
from pymodel.memory import PhysMem

ALL = pytest.mark.parametrize("version", [V6_1, V6_7, V6_8, V6_10, V6_12, V6_13, V6_18], ids=lambda one: one.name)
"""Every version of the model."""
HVA = 0x2000_0000_0000
FINAL = 1 << 32
READ, WRITE, FETCH = FINAL | 4, FINAL | 6, FINAL | 0x14


class Machine:
    """Slot 0 maps gfn 0.. to HVA..; host frame of a page is 0x100000 + its number, level as in `levels`."""

    def __init__(
        self, version: KvmVersion, npages: int = 4096, *, flags: int = 0, fmt: SpteFormat | None = None, **params: Any
    ) -> None:
        self.memory = PhysMem()
        self.level = 1
        self.writable = True
        self.device = self.refuse = False
        self.gmem_level = 3
        self.during_fault: Callable[[], None] | None = None
        self.pauses: list[bool] = []
        """Answers to the next questions whether the lock is to be given up; then it is not."""
        self.pause_when_due = 0
        """How often to give it up from now on where a flush is owed."""
        self.short_of_pages = False
        self.log: list[KvmEffect] = []
        self.after: Callable[[KvmEffect], None] | None = None
        self._frame = 1 << 30
        self.vm = Vm(version, self, self._new_frame, fmt=fmt, params=KvmParams(**params), release=self._free)
        self.vcpu = Vcpu(0)
        self.vm.vcpus.append(self.vcpu)
        self.run(slot_ops.create(self.vm, Memslot(0, 0, npages, HVA, flags)))
        self.run(roots.prepare_entry(self.vm, self.vcpu))
        self.log.clear()

    def _new_frame(self) -> int:
        self._frame += 1
        return self._frame

    def _free(self, frame: int) -> None:
        self.memory.clear_page(frame << 12)

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """What the host maps with."""
        return self.level

    def run(self, agent: KvmAgent[Any]) -> Any:
        """Run an agent; its effects but loads land in the log."""
        return run_kvm(agent, self.memory, self._handle)

    def _handle(self, effect: KvmEffect) -> HostPage | bool | None:
        if isinstance(effect, Resched):
            if effect.flush and self.pause_when_due:
                self.pause_when_due -= 1
                return True
            return self.pauses.pop(0) if self.pauses else False
        self.log.append(effect)
        if isinstance(effect, AllocateNow):
            return self.short_of_pages
        if isinstance(effect, HostFault):
            if self.during_fault is not None:
                action, self.during_fault = self.during_fault, None
                action()
            base = 0x900000 if effect.private else 0x100000
            if self.refuse:
                return HostPage(None)
            return HostPage(base + (effect.hva - HVA >> 12), self.writable, self.device, self.gmem_level)
        return None

    def watched(self, agent: KvmAgent[Any], before: Callable[[KvmEffect], None]) -> Any:
        """Run an agent, with a call of `before` ahead of each effect; what that does, others did in the meantime."""
        return self.run(changed(agent, before))

    def fault(self, gfn: int, error: int = WRITE) -> Outcome:
        """One nested page fault."""
        outcome = self.run(page_fault(self.vm, self.vcpu, gfn << 12, error))
        assert isinstance(outcome, Outcome)
        return outcome

    def entry(self, gfn: int, root: Table | None = None) -> tuple[int, int]:
        """(level, value) at which a walk ends, of the vCPU's root or another."""
        root = self.vcpu.root if root is None else root
        assert root is not None
        table, level = root.frame << 12, root.level
        while True:
            value = self.memory.load(table + 8 * (gfn >> 9 * (level - 1) & 511))
            if not self.vm.fmt.is_table(value, level):
                return level, value
            table, level = value & ADDRESS, level - 1

    def transitions(self) -> list[tuple[int, int, int, int]]:
        """(gfn, level, old, new) of the log."""
        return [(one.gfn, one.level, one.old, one.new) for one in self.log if isinstance(one, SpteChanged)]

    def flushes(self) -> list[TlbFlush]:
        """The flushes of the log."""
        return [one for one in self.log if isinstance(one, TlbFlush)]

    def calls(self) -> list[str]:
        """The traced names of the log."""
        return [one.name for one in self.log if isinstance(one, Trace)]


    @property
    def slot(self) -> Memslot:
        """Slot 0."""
        return self.vm.slots.existing(0)

    def guest(self, *accesses: tuple[int, str]) -> int:
        """The vCPU makes these accesses, (gfn, kind), and halts."""
        program = [Instruction((Access(gfn << 12, kind),)) for gfn, kind in accesses]
        result = self.run(run_guest(self.vm, self.vcpu, program))
        assert isinstance(result, int)
        return result

    def locks(self) -> list[str]:
        """Lock, unlock and flush of the log as letters: S and s shared, X and x exclusive, F a flush."""
        shown = {MmuLock(False): "S", MmuUnlock(False): "s", MmuLock(True): "X", MmuUnlock(True): "x"}
        letters = []
        for one in self.log:
            if isinstance(one, TlbFlush):
                letters.append("F")
            elif isinstance(one, MmuLock | MmuUnlock):
                letters.append(shown[one])
        return letters


def effects_of(machine: Machine, agent: KvmAgent[Any]) -> list[KvmEffect]:
    """Run an agent and return everything that it yielded, memory effects too."""
    seen: list[KvmEffect] = []
    machine.watched(agent, seen.append)
    shown = CompareExchange | FetchAnd | Store | TlbFlush | SpteChanged | Trace
    return [effect for effect in seen if isinstance(effect, shown)]
