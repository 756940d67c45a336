"""MMU notifiers against faults and against DMA: L14, L15, L16 (facts C1 step 5, C2, C10, F1 and F2 of C1)."""

from collections.abc import Callable

from pymodel.effects import Store, WaitFor, changed
from pymodel.explore import Outcome, World
from pymodel.kvm.effects import KvmAgent, MmuLock, MmuUnlock, TlbFlush
from pymodel.kvm.fast_fault import Fault as KvmFault
from pymodel.kvm.fault import tdp_fault
from pymodel.kvm.hardware import READ as GUEST_READ
from pymodel.kvm.hardware import WRITE as GUEST_WRITE
from pymodel.kvm.notifier import invalidate_range_end, invalidate_range_start
from pymodel.kvm.version import V6_7, V6_12
from pymodel.kvm.vm import Vm
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.kvm_agents import (
    Body,
    device,
    guest,
    host_moves,
    importer,
    io_request,
    left_out,
    page_requests,
    patient,
    task,
)
from pymodel.litmus.kvm_checks import invariants
from pymodel.litmus.kvm_layout import (
    DATA,
    EPT,
    FINISHED,
    HVA,
    LEGEND,
    MOVED,
    NEW,
    NPT,
    WRITTEN,
    A,
    B,
    host_entry,
    host_page,
    names,
)
from pymodel.litmus.kvm_machine import LOCK, QUIET, READ, SRCU, WRITE, HostMmu, Kvm, build, cpu, iommu
from pymodel.litmus.machine import REUSED, Queue, access, domain_selective, faults, read_of, reuse_forbidden
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE

__all__ = ["fault_outside", "import_flush", "late_install"]

_GFN, _NEXT = 3, 4
_PAGE, _MOVED = A + _GFN * PAGE, B + _GFN * PAGE


class _NoSequence(Vm):
    """Only an invalidation in progress makes a fault retry, not one that has come and gone."""

    def retry(self, seq: int, gfn: int, hva: int) -> bool:
        return super().retry(self.mmu_invalidate_seq, gfn, hva)


class _NoProgress(Vm):
    """Only the sequence is looked at."""

    def retry(self, seq: int, gfn: int, hva: int) -> bool:
        return self.mmu_invalidate_seq != seq


def _early_end(vm: Vm, start: int, end: int) -> KvmAgent[None]:
    """The count falls before the sequence grows, and the lock is given up in between."""
    yield MmuLock(write=True)
    vm.mmu_invalidate_in_progress -= 1
    yield MmuUnlock(write=True)
    yield MmuLock(write=True)
    vm.mmu_invalidate_seq += 1
    yield MmuUnlock(write=True)


def _late_snapshot(kvm: Kvm, gfn: int, write: bool) -> Body:
    """The sequence is read after the page was looked up, with the lock held."""
    fault = KvmFault(gfn << 12, READ)

    def look(effect: object) -> Body | None:
        def locked() -> Body:
            yield effect
            fault.mmu_seq = kvm.vm.mmu_invalidate_seq

        return locked() if isinstance(effect, MmuLock) else None

    return (yield from changed(tdp_fault(kvm.vm, kvm.tdp.context, fault), look)) == kvm.vm.version.ret_retry


@litmus(
    id="L14",
    seed="S1",
    title="a page request has looked its page up when the host takes the page away (PRI itself is left)",
    forbidden="the entry of the old page is installed, or the device reaches it after it was used again",
    twin="the sequence is not compared, or read too late, or grows after the invalidation counts as done; "
    "or only the sequence is compared",
    cases=("6.7", "6.12"),
    twins=("sequence not compared", "sequence read after the lookup", "sequence grows late", "progress not looked at"),
)
def late_install(twin: bool, case: str) -> Scenario:
    """F1: a leaf may only be installed where no invalidation that covers it began or ended since the lookup."""
    version = V6_12 if case == "6.12" else V6_7
    make_vm: type[Vm] = {"sequence not compared": _NoSequence, "progress not looked at": _NoProgress}.get(case, Vm)
    late = case == "sequence read after the lookup"
    end = _early_end if case == "sequence grows late" else invalidate_range_end

    def fault(kvm: Kvm, gfn: int, write: bool) -> Body:
        return _late_snapshot(kvm, gfn, write) if late else patient(io_request(kvm, gfn, write), MOVED)

    def make() -> World:
        kvm, _ = build(version=version, mapped={_NEXT: READ}, make=make_vm)
        moves = host_moves(kvm, _GFN, host_page(_MOVED), end=end, reuse=_PAGE, value=REUSED)
        agents = {
            "handler": task(kvm, page_requests(kvm, _GFN, fault=fault)),
            "host": task(kvm, moves, importer(Queue())),
        }
        return World(agents, kvm, Kvm.picture, {"device": lambda: device(_GFN)})

    def forbidden(outcome: Outcome) -> str:
        if outcome.word("page") != REUSED:
            return "the old page was written after it was used again"
        reads = [seen.get("data") for name in ("first", "retry") for seen in outcome.named(name)]
        return "the device read the old page after it was used again" if REUSED in reads else ""

    return Scenario(
        make,
        build(version=version, mapped={_NEXT: READ})[1],
        forbidden,
        (LOCK, SRCU, HostMmu(), iommu()),
        {"page": _PAGE},
        quiet=(*QUIET, TlbFlush),
        covers={
            "the old page": lambda outcome: DATA in [seen.get("data") for seen in outcome.named("retry")],
            "the new page": lambda outcome: NEW in [seen.get("data") for seen in outcome.named("retry")],
        },
        servers=("handler",),
        check=invariants(),
        names=names(),
        legend=LEGEND,
    )


class _OneForAll(Vm):
    """Any invalidation anywhere makes every fault retry, as before 5.12."""

    def retry(self, seq: int, gfn: int, hva: int) -> bool:
        return bool(self.mmu_invalidate_in_progress) or self.mmu_invalidate_seq != seq


class _MixedUnits(Vm):
    """The range holds gfns, but the fault is compared by its host address."""

    def retry(self, seq: int, gfn: int, hva: int) -> bool:
        return super().retry(seq, hva, hva)


class _LastRange(Vm):
    """A second invalidation replaces the range of the first instead of widening it."""

    def widen_invalidation(self, start: int, end: int, *, first: bool) -> None:
        super().widen_invalidation(start, end, first=True)


@litmus(
    id="L15",
    seed="S1",
    title="faults while an invalidation is in progress: inside it, in a huge page that it cuts, and outside",
    forbidden="a fault inside installs the old page, or the fault outside cannot finish before the invalidation",
    twin="every fault retries whatever the range; or units are mixed up; or a nested range replaces the first",
    cases=("small page", "small page, 6.7 by hva", "small page, NPT", "huge page cut", "huge page cut, page itself"),
    twins=("every fault retries", "units mixed up", "nested range replaces"),
)
def fault_outside(twin: bool, case: str) -> Scenario:
    """C2: the range decides who waits. A huge page that the range cuts is inside with all its pages."""
    huge = case.startswith("huge") or case == "nested range replaces"
    gfn = _GFN if not huge or case.endswith("itself") else 5
    version = V6_7 if "6.7" in case else V6_12
    fmt = NPT if "NPT" in case else EPT
    make_vm: type[Vm] = {
        "every fault retries": _OneForAll,
        "units mixed up": _MixedUnits,
        "nested range replaces": _LastRange,
    }.get(case, Vm)
    outside = 512 + _GFN if huge else 6
    pages = 1024 if huge else 8

    def made() -> tuple[Kvm, SparseMem]:
        level = 2 if huge else 1
        return build(
            version=version, pages=pages, level=level, mapped={_NEXT: READ}, fmt=fmt, exported=fmt is EPT, make=make_vm
        )

    def small(kvm: Kvm) -> Body:
        """One page goes; the host is not done before the fault outside is."""
        yield from invalidate_range_start(kvm.vm, HVA + _GFN * PAGE, HVA + (_GFN + 1) * PAGE)
        yield Store(host_entry(_GFN), host_page(_MOVED))
        yield WaitFor(FINISHED, 1, 1)
        yield from invalidate_range_end(kvm.vm, HVA + _GFN * PAGE, HVA + (_GFN + 1) * PAGE)
        yield Store(MOVED, 1)

    def cut(kvm: Kvm) -> Body:
        """munmap of one page of a huge page: the host splits its own entry first, for all 512 pages (THP)."""
        low, high = HVA, HVA + 512 * PAGE
        yield from invalidate_range_start(kvm.vm, low, high)
        yield from invalidate_range_start(kvm.vm, HVA + _GFN * PAGE, HVA + (_GFN + 1) * PAGE)
        yield Store(host_entry(_GFN), 0)
        kvm.host.levels[0] = 1
        yield WaitFor(FINISHED, 1, 1)
        yield from invalidate_range_end(kvm.vm, HVA + _GFN * PAGE, HVA + (_GFN + 1) * PAGE)
        yield from invalidate_range_end(kvm.vm, low, high)
        yield Store(MOVED, 1)

    def inside(kvm: Kvm) -> Body:
        yield from patient(io_request(kvm, gfn, True), MOVED, "inside retries")

    def other(kvm: Kvm) -> Body:
        yield from patient(io_request(kvm, outside, True), MOVED, "outside retries")
        yield Store(FINISHED, 1)

    def make() -> World:
        kvm, _ = made()
        agents = {
            "host": task(kvm, (cut if huge else small)(kvm)),
            "inside": task(kvm, inside(kvm)),
            "outside": task(kvm, other(kvm)),
        }
        return World(agents, kvm, Kvm.picture)

    def forbidden(outcome: Outcome) -> str:
        if outcome.named("outside retries"):
            return "the fault outside has to wait for an invalidation that does not concern it"
        return ""

    memory = made()[1]
    memory.store(host_entry(outside), host_page(B + outside * PAGE))
    return Scenario(
        make,
        memory,
        forbidden,
        (LOCK, SRCU, HostMmu()),
        quiet=(*QUIET, TlbFlush),
        covers={
            "inside retries": lambda outcome: bool(outcome.named("inside retries")),
            "inside was first": lambda outcome: not outcome.named("inside retries"),
        },
        check=invariants(),
        names=names(fmt),
        legend=LEGEND,
    )


def _asynchronous(queue: Queue) -> Callable[[TlbFlush], Body]:
    """The importer queues its invalidation and does not wait for it."""

    def flush(effect: TlbFlush) -> Body:
        yield from queue.submit(domain_selective())

    return flush


@litmus(
    id="L16",
    seed="S1",
    title="the host takes a page away from an exported table and uses it again (the ATC's part is left to the device)",
    forbidden="a device or a vCPU reaches the page after it was used again",
    twin="the importer is not told, or does not wait for its invalidation; or KVM does not flush at all",
    cases=("device", "vCPU", "vCPU, NPT"),
    twins=("importer not told", "importer does not wait", "no flush for the vCPU", "flushed after the notifier"),
)
def import_flush(twin: bool, case: str) -> Scenario:
    """C10: every translation is gone from every cache when the notifier returns; the importer has to be synchronous."""
    by_cpu = "vCPU" in case
    fmt = NPT if "NPT" in case else EPT

    def made() -> tuple[Kvm, SparseMem]:
        return build(mapped={_GFN: WRITE}, fmt=fmt, exported=fmt is EPT)

    def late_start(vm: Vm, low: int, high: int) -> KvmAgent[None]:
        """The flush comes after the lock was given up, and after the host went on."""
        return changed(invalidate_range_start(vm, low, high), left_out(TlbFlush))

    def late_end(vm: Vm, low: int, high: int) -> KvmAgent[None]:
        yield TlbFlush()
        yield from invalidate_range_end(vm, low, high)

    def make() -> World:
        kvm, _ = made()
        flush = importer(Queue())
        if case == "importer does not wait":
            flush = _asynchronous(Queue())
        late = case == "flushed after the notifier"
        moves = host_moves(
            kvm,
            _GFN,
            host_page(_MOVED),
            start=late_start if late else invalidate_range_start,
            end=late_end if late else invalidate_range_end,
            reuse=_PAGE,
            value=REUSED,
        )
        if case == "no flush for the vCPU":
            moves = changed(moves, left_out(TlbFlush))
        agents = {"host": task(kvm, moves, None if by_cpu or case == "importer not told" else flush)}
        if by_cpu:
            agents["vcpu"] = task(kvm, vcpu(kvm))
            return World(agents, kvm, Kvm.picture)
        return World(agents, kvm, Kvm.picture, {"device": dma})

    def vcpu(kvm: Kvm) -> Body:
        yield from guest(kvm, "read", _GFN, GUEST_READ)
        yield from guest(kvm, "write", _GFN, GUEST_WRITE, WRITTEN)

    def dma() -> Body:
        yield from access("read", _GFN * PAGE)
        yield from access("write", _GFN * PAGE, True, WRITTEN)

    covers: dict[str, Callable[[Outcome], bool]] = {"a read of the old page": read_of(DATA)}
    if by_cpu:
        covers["a read of the new page"] = read_of(NEW)
    else:
        covers["a fault"] = lambda outcome: bool(faults(outcome))
    return Scenario(
        make,
        made()[1],
        reuse_forbidden,
        (LOCK, SRCU, HostMmu(), cpu(fmt), iommu()),
        {"page": _PAGE, "new": _MOVED},
        quiet=QUIET,
        covers=covers,
        check=invariants(),
        names=names(fmt),
        legend=LEGEND,
    )
