"""A small VM for tests: model, memory, a host that maps what it is told, and a log of what the agents did."""

from collections.abc import Callable
from typing import Any

from pymodel.effects import CompareExchange, Store
from pymodel.kvm import roots, slot_ops
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, KvmEffect, SpteChanged, TlbFlush, Trace, run_kvm
from pymodel.kvm.fault import Outcome, page_fault
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.spte import ADDRESS, SpteFormat
from pymodel.kvm.version import KvmVersion
from pymodel.kvm.vm import KvmParams, Vcpu, Vm
from pymodel.memory import PhysMem

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
        self.during_fault: Callable[[], None] | None = None
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

    def _handle(self, effect: KvmEffect) -> HostPage | None:
        self.log.append(effect)
        if isinstance(effect, HostFault):
            if self.during_fault is not None:
                action, self.during_fault = self.during_fault, None
                action()
            return HostPage(0x100000 + (effect.hva - HVA >> 12), self.writable)
        return None

    def fault(self, gfn: int, error: int = WRITE) -> Outcome:
        """One nested page fault."""
        outcome = self.run(page_fault(self.vm, self.vcpu, gfn << 12, error))
        assert isinstance(outcome, Outcome)
        return outcome

    def entry(self, gfn: int) -> tuple[int, int]:
        """(level, value) at which a walk ends."""
        assert self.vcpu.root is not None
        table, level = self.vcpu.root.frame << 12, self.vcpu.root.level
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


def effects_of(machine: Machine, agent: KvmAgent[Any]) -> list[KvmEffect]:
    """Run an agent and return everything that it yielded, memory effects too."""
    seen: list[KvmEffect] = []

    def listen() -> KvmAgent[Any]:
        answer: Any = None
        while True:
            try:
                effect = agent.send(answer)
            except StopIteration as stop:
                return stop.value
            seen.append(effect)
            answer = yield effect

    machine.run(listen())
    return [effect for effect in seen if isinstance(effect, CompareExchange | Store | TlbFlush | SpteChanged | Trace)]
