"""The machine of the litmus tests with KVM: a VM with one exported root, a host, table pages, an IOMMU on the root.

Guest-physical space is as small as a test needs.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

from pymodel.explore import Attachment, CpuAgent, IommuAgent, Pending, RwLock, Srcu, Unit, UnitMove
from pymodel.kvm import export, roots, slot_ops
from pymodel.kvm.effects import (
    AllocateNow,
    AwaitInvalidations,
    HostFault,
    HostPage,
    KvmAgent,
    MmuLock,
    MmuUnlock,
    Resched,
    SpteChanged,
    SrcuEnter,
    SrcuLeave,
    SrcuSynchronize,
    Trace,
    run_kvm,
)
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.snapshot import snapshot
from pymodel.kvm.spte import SpteFormat
from pymodel.kvm.version import V6_7, KvmVersion
from pymodel.kvm.vm import KvmParams, Vcpu, Vm
from pymodel.litmus.kvm_layout import DATA, EPT, HVA, NEW, TABLES, A, B, host_entry, host_page, names, page_name
from pymodel.litmus.machine import DID, PARAMS, QUEUE, SID
from pymodel.memory import SparseMem
from pymodel.spec.params import IommuParams

__all__ = ["FETCH", "LOCK", "QUIET", "READ", "SRCU", "WRITE", "Frames", "Host", "HostMmu", "Kvm", "Yielding", "build",
           "cpu", "iommu"]  # fmt: skip

READ, WRITE, FETCH = 4, 6, 0x14
"""Error codes of nested page faults at entries that are not present."""
LOCK = RwLock("mmu_lock", MmuLock, MmuUnlock, lambda effect: effect.write)
SRCU = Srcu("srcu", SrcuEnter, SrcuLeave, SrcuSynchronize)
QUIET = (Trace, SpteChanged, Resched, AllocateNow, AwaitInvalidations)
"""Effects that only tell something, and such that nothing comes of here: nobody wants the lock, there are free pages,
and no notifier runs beside a change of slots."""


class Frames:
    """Table pages: each is given out once; what a task frees waits until the task leaves its RCU section (call_rcu).

    The grace period may be longer, for other tasks are readers too. That an IOMMU is none is the point of C10.
    """

    def __init__(self) -> None:
        self.next = TABLES
        self.free: set[int] = set()
        self.waiting: dict[int, tuple[int, ...]] = {}
        """Frames by the number of the task that freed them."""
        self.running = 0
        """Number of the task whose step it is; no state, for it is set before each step."""

    def allocate(self) -> int:
        """A zeroed page that never held anything."""
        self.next += 1
        return self.next - 1

    def release(self, frame: int) -> None:
        """call_rcu."""
        self.waiting[self.running] = (*self.waiting.get(self.running, ()), frame)

    def leave(self, task: int) -> None:
        """The task gives mmu_lock back, and with it leaves its RCU section."""
        self.free.update(self.waiting.pop(task, ()))


class Host:
    """The primary MMU: level of the mapping of each 2 MiB by number, and frames that it may use again."""

    def __init__(self) -> None:
        self.levels: dict[int, int] = {}
        self.free: set[int] = set()

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        """See `pymodel.kvm.vm.Host`."""
        return self.levels.get(slot.hva_of(gfn) - HVA >> 21, 1)


class HostMmu:
    """Answers `HostFault` by the host's entry of now."""

    name = "host"
    threads: tuple[str, ...] = ()

    def start(self, agents: int) -> None:
        """See `Unit`."""

    def takes(self, effect: object) -> bool:
        """See `Unit`."""
        return isinstance(effect, HostFault)

    def agent_moves(self, who: int, effect: Any, state: None, memory: SparseMem) -> Pending:
        """See `Unit`."""
        address = host_entry(effect.hva - HVA >> 12)
        entry = memory.load(address)
        page = HostPage(entry >> 12 if entry & 1 else None, bool(entry & 2))
        label = f"get_user_pages: {page_name(entry & ~0xFFF) if entry & 1 else 'refused'}"
        return Pending(frozenset({address}), frozenset(), (UnitMove(label, None, answer=page),))

    def own_moves(self, which: int, state: None, memory: SparseMem) -> Pending:
        """See `Unit`; there are no threads."""
        raise NotImplementedError

    def own_position(self, which: int, state: None) -> int:
        """See `Unit`; there are no threads."""
        raise NotImplementedError


class Yielding:
    """Answers `Resched` with no and with yes: the lock may be wanted at any time."""

    name = "scheduler"
    threads: tuple[str, ...] = ()

    def start(self, agents: int) -> None:
        """See `Unit`."""

    def takes(self, effect: object) -> bool:
        """See `Unit`."""
        return isinstance(effect, Resched)

    def agent_moves(self, who: int, effect: Any, state: None, memory: SparseMem) -> Pending:
        """See `Unit`."""
        keep, give = UnitMove("keeps the lock", None, answer=False), UnitMove("gives the lock up", None, answer=True)
        return Pending(frozenset(), frozenset(), (keep, give))

    def own_moves(self, which: int, state: None, memory: SparseMem) -> Pending:
        """See `Unit`; there are no threads."""
        raise NotImplementedError

    def own_position(self, which: int, state: None) -> int:
        """See `Unit`; there are no threads."""
        raise NotImplementedError


@dataclass
class Kvm:
    """What the software of a test shares besides memory."""

    vm: Vm
    vcpu: Vcpu
    tdp: export.TdpExport
    """What the importer has: the root, and the context in which page requests are handled (facts C1, D1)."""
    frames: Frames
    host: Host
    tasks: int = 0
    """How many were made, to number them."""

    def picture(self) -> Hashable:
        """Equal for equal states."""
        frames, host = self.frames, self.host
        return (
            snapshot(self.vm, self.tdp.context),
            self.tdp.root.frame,
            (frames.next, frozenset(frames.free), frozenset(frames.waiting.items())),
            (frozenset(host.levels.items()), frozenset(host.free)),
        )


def build(
    *,
    version: KvmVersion = V6_7,
    pages: int = 8,
    level: int = 1,
    mapped: Mapping[int, int] | None = None,
    exported: bool = True,
    writable: bool = True,
    fmt: SpteFormat = EPT,
    make: Callable[..., Vm] = Vm,
    **params: Any,
) -> tuple[Kvm, SparseMem]:
    """A fresh machine and its memory; slot 0 is `pages` from gfn 0 on.

    `mapped`: error codes of faults by gfn that have happened already. `exported` False: an IOMMU walks the root all
    the same, without KVM's knowing. `level` and `writable`: of the host's mappings. `make`: the class of the VM, which
    other hardware than an IOMMU may walk in `fmt`. `params`: of `KvmParams`.
    """
    frames, host = Frames(), Host()
    memory = SparseMem({host_entry(gfn): host_page(A + (gfn << 12), writable) for gfn in range(8)})
    for gfn in range(8):
        memory.store(A + (gfn << 12), DATA)
        memory.store(B + (gfn << 12), NEW)
    settings = KvmParams(gfn_bits=32, **params)
    vm = make(version, host, frames.allocate, fmt=fmt, params=settings, release=frames.release)
    vm.traced = False
    vcpu = Vcpu(0)
    vm.vcpus.append(vcpu)
    host.levels = dict.fromkeys(range(max(1, pages >> 9)), level)

    def run(agent: KvmAgent[Any]) -> Any:
        return run_kvm(agent, memory, lambda effect: _answer(effect, memory))

    run(slot_ops.create(vm, Memslot(0, 0, pages, HVA, 0)))
    run(roots.prepare_entry(vm, vcpu))
    assert vcpu.root is not None
    tdp = run(export.export(vm)) if exported else export.TdpExport(vcpu.root, Vcpu(-1, root=vcpu.root))
    for gfn, error in (mapped or {}).items():
        run(page_fault(vm, vcpu, gfn << 12, error))
    return Kvm(vm, vcpu, tdp, frames, host), memory


def _answer(effect: Any, memory: SparseMem) -> Any:
    if isinstance(effect, HostFault):
        return HostMmu().agent_moves(0, effect, None, memory).moves[0].answer
    return None


def iommu(params: IommuParams = PARAMS, *flaws: str) -> IommuAgent:
    """The IOMMU with device `SID` on KVM's root."""
    return IommuAgent(params, {SID: Attachment(DID, TABLES << 12, 4)}, QUEUE, flaws=flaws, names=names())


def cpu(fmt: SpteFormat = EPT) -> Unit:
    """The CPUs of the guest."""
    return CpuAgent(fmt, names(fmt))
