"""Tables that KVM makes and takes away under accesses: L24, L29 (facts C5, C7, C8, F3 U5 and U11, F4 H1 and H8)."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from pymodel.effects import CompareExchange, Event, Load, Store, WaitFor, changed
from pymodel.explore import Fault, GuestAccess, Outcome, World
from pymodel.kvm.dirty import get_dirty_log
from pymodel.kvm.effects import MmuLock, MmuUnlock, TlbFlush
from pymodel.kvm.hardware import FETCH as GUEST_FETCH
from pymodel.kvm.hardware import WRITE as GUEST_WRITE
from pymodel.kvm.memslots import LOG_DIRTY
from pymodel.kvm.nx_recovery import recover
from pymodel.kvm.split import try_split
from pymodel.kvm.spte import ADDRESS, LARGE, SpteFormat
from pymodel.kvm.version import V6_1, V6_7, V6_12, V6_18, KvmVersion
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.kvm_agents import (
    SUCCESS,
    Body,
    guest,
    importer,
    io_request,
    left_out,
    page_requests,
    patient,
    task,
)
from pymodel.litmus.kvm_checks import invariants
from pymodel.litmus.kvm_layout import DATA, EPT, FINISHED, LEGEND, NPT, REQUEST, RESPONSE, WRITTEN, A, names
from pymodel.litmus.kvm_machine import FETCH, LOCK, QUIET, READ, SRCU, HostMmu, Kvm, build, cpu, iommu
from pymodel.litmus.machine import SECRET, Queue, access, page_selective
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE, Range, span

__all__ = ["dirty_split", "recovery_stream"]

_GFN, _OTHER = 3, 5
_PAGE = A + _GFN * PAGE
_STOLEN = 0x5EC2E7


def _leaf(kvm: Kvm, gfn: int) -> Body:
    """Look a gfn up as software does: (address of its leaf, value)."""
    table, level = kvm.tdp.root.frame << 12, kvm.tdp.root.level
    while True:
        address = table + 8 * (gfn >> 9 * (level - 1) & 511)
        value = yield Load(address)
        if level == 1 or value & LARGE or not kvm.vm.fmt.is_present(value):
            return address, value
        table, level = value & ADDRESS, level - 1


class _CleanChildren(SpteFormat):
    """Children of a split never have D."""

    def split_child(self, huge: int, child_level: int, index: int, executable: bool) -> int:
        return super().split_child(huge, child_level, index, executable) & ~self.dirty


def _with_store(effect: object) -> Body | None:
    """The table is linked with a plain store."""

    def store(exchange: CompareExchange) -> Body:
        yield Store(exchange.address, exchange.new)
        return exchange.expected

    return store(effect) if isinstance(effect, CompareExchange) else None


@litmus(
    id="L24",
    seed="S2",
    title="a huge page is split, then its D is read and cleared, while a CPU writes (D of a device is left: SSADE)",
    forbidden="a write that nobody is told of",
    twin="the table is linked with a plain store; or children are made without D; or D is cleared without a flush",
    cases=("split", "split, NPT", "split and read"),
    twins=("plain store", "children without D", "no flush"),
)
def dirty_split(twin: bool, case: str) -> Scenario:
    """H8: hardware sets D between the read of the leaf and the exchange, which fails then; children inherit D.

    What is reported is the D bits that are found, as for a table that an IOMMU walks, whose writes no PML logs (C7).
    """
    read = case in ("split and read", "no flush")
    fmt = NPT if case.endswith("NPT") else EPT

    def made() -> tuple[Kvm, SparseMem]:
        kvm, memory = build(version=V6_12, pages=512, level=2, mapped={_OTHER: READ}, fmt=fmt, exported=fmt is EPT,
                            log_by_dirty_bit=fmt is EPT)  # fmt: skip
        slot = kvm.vm.slots.existing(0)
        slot.flags |= LOG_DIRTY
        slot.dirty = {_GFN} if read else set()
        entry = next(address for address, value in memory.items() if value & LARGE and value & fmt.live)
        memory.fetch_and(entry, ~fmt.dirty & (1 << 64) - 1)
        if case == "children without D":
            kvm.vm.fmt = _CleanChildren(**{one.name: getattr(EPT, one.name) for one in fields(EPT)})
        return kvm, memory

    def tracker(kvm: Kvm) -> Body:
        slot = kvm.vm.slots.existing(0)
        yield MmuLock(write=False)
        yield from try_split(kvm.vm, slot, 0, 512, 1, shared=True)
        yield MmuUnlock(write=False)
        if read:
            yield from get_dirty_log(kvm.vm, slot)
        copied = yield Load(_PAGE)
        yield WaitFor(FINISHED, 1, 1)
        _, entry = yield from _leaf(kvm, _GFN)
        dirty, small = int(bool(entry & fmt.dirty)), int(not entry & LARGE)
        yield Event("log", (("copied", copied), ("dirty", dirty), ("small", small)))

    def make() -> World:
        kvm, _ = made()
        agent = tracker(kvm)
        if case == "plain store":
            agent = changed(agent, _with_store)
        if case == "no flush":
            agent = changed(agent, left_out(TlbFlush))
        root, levels = kvm.tdp.root.frame << 12, kvm.tdp.root.level
        return World({"tracker": task(kvm, agent)}, kvm, Kvm.picture, {"vcpu": lambda: writer(root, levels)})

    def writer(root: int, levels: int) -> Body:
        for count in range(2):
            yield GuestAccess(root, levels, _GFN << 12, GUEST_WRITE, WRITTEN + count)
        yield Store(FINISHED, 1)

    def forbidden(outcome: Outcome) -> str:
        seen = outcome.named("log")
        if not read:
            lost = any(not one["dirty"] for one in seen)
        else:
            lost = any(one["copied"] != outcome.word("page") and not one["dirty"] for one in seen)
        return "the page was written and nothing says so" if lost else ""

    return Scenario(
        make,
        made()[1],
        forbidden,
        (LOCK, SRCU, HostMmu(), cpu(fmt), iommu()),
        {"page": _PAGE},
        quiet=QUIET,
        covers={
            "small pages": lambda outcome: any(one["small"] for one in outcome.named("log")),
            "a write before the copy": lambda outcome: any(one["copied"] != DATA for one in outcome.named("log")),
            "a write after the copy": lambda outcome: any(one["copied"] == DATA for one in outcome.named("log")),
        },
        check=invariants((_GFN, _OTHER)),
        names=names(fmt),
        legend=LEGEND,
    )


def _stream(gfn: int, accesses: int) -> Body:
    """Reads of a device that asks for a page where it is refused; tells how often it had to."""
    requests = 0
    for _ in range(accesses):
        while isinstance((yield from access("read", gfn * PAGE)), Fault):
            if requests == 1:
                break
            requests += 1
            yield Store(REQUEST, requests)
            yield WaitFor(RESPONSE, ~0xFF & 0xFFFF, requests << 8)
            assert (yield Load(RESPONSE)) & 0xFF == SUCCESS, "the request was refused"
    yield Event("requests", (("count", requests),))


def _keep_pointers(queue: Queue) -> Callable[[TlbFlush], Body]:
    """The importer takes every flush for one of leaves (RFC bug B2)."""

    def flush(effect: TlbFlush) -> Body:
        yield from queue.complete(page_selective(Range(0, span(1)), ih=True))

    return flush


_VERSIONS: dict[str, KvmVersion] = {"6.7": V6_7, "6.12": V6_12, "6.18, shared lock": V6_18}
_EXEC: dict[str, KvmVersion] = {
    "6.1: exec zaps": V6_1,
    "6.12: exec splits": V6_12,
    "zapped, not split": replace(V6_12, split_on_fault=False),
}


@litmus(
    id="L29",
    seed="S1",
    title="an exec fault breaks an NX huge page up, NX recovery zaps the table, under a device's stream (PRI is left)",
    forbidden="a read from elsewhere; a page request where the page is split in place, or the root is without NX",
    twin="the importer keeps pointers (IH=1, RFC bug B2); or the table's page is used again before the flush; "
    "or the exec fault zaps where it should split",
    cases=(*_VERSIONS, "6.1: exec zaps", "6.12: exec splits", "IO root without NX"),
    twins=("pointers kept", "used before the flush", "zapped, not split"),
)
def recovery_stream(twin: bool, case: str) -> Scenario:
    """C8: recovery costs a device page requests (`requests` of the outcomes), although it never executes.

    So does the exec fault that comes before, where the huge page is zapped and not split in place (K).
    """
    nx = case != "IO root without NX"
    hitless = not nx or case in ("6.12: exec splits", "zapped, not split")
    version = (_VERSIONS | _EXEC).get(case, V6_7)
    settings: dict[str, Any] = {"version": version, "nx_huge_pages": nx, "recovery_ratio": 1}
    accesses = 1 if case == "6.18, shared lock" else 2  # the handler runs beside the worker: enough states

    def made() -> tuple[Kvm, SparseMem]:
        kvm, memory = build(pages=512, level=2, mapped={_OTHER: READ if case in _EXEC else FETCH}, **settings)
        memory.store(SECRET, _STOLEN)
        return kvm, memory

    def worker(kvm: Kvm) -> Body:
        """Recovery; then the page of the table holds somebody's data, which happen to look like a leaf."""
        listed = [table.frame for table in kvm.vm.possible_nx]
        zapping = recover(kvm.vm)
        late = case == "used before the flush"
        yield from changed(zapping, left_out(TlbFlush)) if late else zapping
        for frame in listed:
            yield Store((frame << 12) + 8 * _OTHER, EPT.leaf(SECRET >> 12, 1, 0, host_writable=True))
        if late:
            yield TlbFlush()

    def make() -> World:
        kvm, _ = made()
        queue = Queue()
        flush = _keep_pointers(queue) if case == "pointers kept" else importer(queue)
        if case in _EXEC:
            agents = {
                "vcpu": task(kvm, executing(kvm), flush),
                "handler": task(kvm, page_requests(kvm, _OTHER, fault=waiting)),
            }
        else:
            agents = {"worker": task(kvm, worker(kvm), flush), "handler": task(kvm, page_requests(kvm, _OTHER))}
        return World(agents, kvm, Kvm.picture, {"device": lambda: _stream(_OTHER, accesses)})

    def executing(kvm: Kvm) -> Body:
        yield from guest(kvm, "guest", _OTHER, GUEST_FETCH)
        yield Store(FINISHED, 1)

    def waiting(kvm: Kvm, gfn: int, write: bool) -> Body:
        """Does not spin on a frozen entry, which 6.1 leaves there while it flushes."""
        return patient(io_request(kvm, gfn, write), FINISHED)

    def forbidden(outcome: Outcome) -> str:
        for seen in outcome.named("read"):
            if seen.get("data", DATA) != DATA:
                return f"the device read {seen['data']:#x}, which is not at its page"
        if hitless and any(seen["count"] for seen in outcome.named("requests")):
            return "a page request, although the page was mapped all the time"
        return ""

    covers: dict[str, Callable[[Outcome], bool]] = {"a read": lambda outcome: bool(outcome.named("read"))}
    if not hitless:
        covers["a page request"] = lambda outcome: any(seen["count"] for seen in outcome.named("requests"))
    return Scenario(
        make,
        made()[1],
        forbidden,
        (LOCK, SRCU, HostMmu(), cpu(), iommu()),
        quiet=QUIET,
        covers=covers,
        servers=("handler",),
        check=invariants((_OTHER,)),
        names=names(),
        legend=LEGEND,
    )
