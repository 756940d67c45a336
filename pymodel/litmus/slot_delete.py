"""A memslot is deleted while an IOMMU walks the root: L17, L18 (facts C3, C10, F4 H13, RFC:36)."""

from typing import Any

from pymodel.effects import Store, changed
from pymodel.explore import Outcome, World
from pymodel.kvm import roots, slot_ops
from pymodel.kvm.effects import Resched, SrcuEnter, SrcuLeave, SrcuSynchronize, TlbFlush
from pymodel.kvm.version import V6_7, V6_12
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.kvm_agents import Body, code_of, importer, io_request, left_out, patient, respond, task
from pymodel.litmus.kvm_checks import invariants
from pymodel.litmus.kvm_layout import DATA, EPT, LEGEND, MOVED, TABLES, WRITTEN, A, names
from pymodel.litmus.kvm_machine import LOCK, QUIET, READ, SRCU, WRITE, HostMmu, Kvm, Yielding, build, iommu
from pymodel.litmus.machine import REUSED, Queue, access, faults, read_of, reuse_forbidden
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE

__all__ = ["deleted_slot", "exported_root"]

_GFN, _NEXT = 3, 4
_PAGE = A + _GFN * PAGE


@litmus(
    id="L17",
    seed="S1",
    title="a memslot is deleted and its memory used again (the ATC's part is left to the device)",
    forbidden="DMA through the deleted slot, or the page of the root is freed under the IOMMU",
    twin="the root dies without a flush, as for CPUs, which flush when they load another; or the importer is not told",
    cases=("6.7: all leaves", "6.12: only the slot's leaves"),
    twins=("CPU rule", "importer not told"),
)
def deleted_slot(twin: bool, case: str) -> Scenario:
    """H13: flushes may be left out for CPUs only. An exported root stays, its leaves are zapped and flushed."""
    exported = case != "CPU rule"
    some: dict[str, Any] = {"version": V6_12, "slot_zap_all": False} if case.startswith("6.12") else {}

    def made() -> tuple[Kvm, SparseMem]:
        return build(mapped={_GFN: WRITE}, exported=exported, **some)

    def userspace(kvm: Kvm) -> Body:
        """The ioctl, munmap and reuse; the vCPU enters the guest again and lets go of a root that died."""
        yield from slot_ops.delete(kvm.vm, 0)
        kvm.host.free.add(_PAGE >> 12)
        yield Store(_PAGE, REUSED)
        yield from roots.prepare_entry(kvm.vm, kvm.vcpu)

    def make() -> World:
        kvm, _ = made()
        flush = None if case == "importer not told" else importer(Queue())
        return World({"userspace": task(kvm, userspace(kvm), flush)}, kvm, Kvm.picture, {"device": device})

    def device() -> Body:
        if exported:  # three tables are frozen otherwise: states enough
            yield from access("read", _GFN * PAGE)
        yield from access("write", _GFN * PAGE, True, WRITTEN)

    return Scenario(
        make,
        made()[1],
        reuse_forbidden,
        (LOCK, SRCU, HostMmu(), iommu()),
        {"page": _PAGE},
        quiet=(*QUIET, TlbFlush),
        covers={"a read before": read_of(DATA), "a fault after": lambda outcome: bool(faults(outcome))},
        check=invariants(),
        names=names(),
        legend=LEGEND,
    )


@litmus(
    id="L18",
    seed="S1",
    title="a memslot of an exported table is deleted while a page request for it is handled (PRI itself is left)",
    forbidden="a leaf of the deleted slot survives, or the root goes",
    twin="the handler of page requests holds neither srcu nor slots_lock; or readers are not waited for",
    cases=("all leaves are zapped", "only the slot's leaves, lock given up in between"),
    twins=("handler without srcu", "no synchronize_srcu"),
)
def exported_root(twin: bool, case: str) -> Scenario:
    """RFC:36: the root stays valid, so that only SRCU tells a fault that its memslot is gone.

    A fault of a vCPU on an ordinary root is saved by the death of the root.
    """
    some = case.startswith("only")
    params: dict[str, Any] = {"version": V6_12, "slot_zap_all": False} if some else {"version": V6_7}

    def made() -> tuple[Kvm, SparseMem]:
        return build(mapped={_NEXT: READ}, **params)

    def userspace(kvm: Kvm) -> Body:
        yield from slot_ops.delete(kvm.vm, 0)
        yield Store(MOVED, 1)

    def handler(kvm: Kvm) -> Body:
        error = yield from patient(io_request(kvm, _GFN, True), MOVED)
        yield from respond(1, code_of(error))

    def make() -> World:
        kvm, _ = made()
        deleting, handling = userspace(kvm), handler(kvm)
        if case == "handler without srcu":
            handling = changed(handling, left_out(SrcuEnter, SrcuLeave))
        if case == "no synchronize_srcu":
            deleting = changed(deleting, left_out(SrcuSynchronize))
        agents = {"userspace": task(kvm, deleting, importer(Queue())), "handler": task(kvm, handling)}
        return World(agents, kvm, Kvm.picture)

    def forbidden(outcome: Outcome) -> str:
        left = outcome.word("entry")
        return f"the deleted slot is still mapped ({left:#x})" if EPT.is_present(left) else ""

    leaf = (TABLES + 3 << 12) + 8 * _GFN  # the tables are there before, for gfn 4
    return Scenario(
        make,
        made()[1],
        forbidden,
        (LOCK, SRCU, HostMmu(), iommu(), *((Yielding(),) if some else ())),
        {"entry": leaf},
        quiet=(*(kind for kind in QUIET if not some or kind is not Resched), TlbFlush),
        covers={
            "mapped before": lambda outcome: any(not seen["code"] for seen in outcome.named("response")),
            "refused after": lambda outcome: any(seen["code"] for seen in outcome.named("response")),
        },
        check=invariants(),
        names=names(),
        legend=LEGEND,
    )
