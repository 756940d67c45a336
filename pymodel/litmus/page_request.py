"""Page requests answered by KVM: L12, L13 (facts A4 of F1, B4, C1, D4 B1)."""

from pymodel.effects import CompareExchange, Store, WaitFor, changed
from pymodel.explore import Outcome, World
from pymodel.kvm.effects import TlbFlush
from pymodel.kvm.export import EFAULT
from pymodel.kvm.fast_fault import Fault as KvmFault
from pymodel.kvm.fault import tdp_fault
from pymodel.kvm.hardware import READ as GUEST_READ
from pymodel.kvm.hardware import WRITE as GUEST_WRITE
from pymodel.kvm.version import V6_7, V6_13
from pymodel.litmus.catalogue import Scenario, litmus
from pymodel.litmus.kvm_agents import (
    FAILURE,
    SUCCESS,
    Body,
    device,
    guest,
    io_request,
    page_requests,
    respond,
    task,
)
from pymodel.litmus.kvm_checks import invariants
from pymodel.litmus.kvm_layout import DATA, LEGEND, REQUEST, WRITTEN, names
from pymodel.litmus.kvm_machine import LOCK, QUIET, READ, SRCU, WRITE, HostMmu, Kvm, build, cpu, iommu

__all__ = ["early_success", "spurious_failure"]

_GFN = 3


def _retry_refused(outcome: Outcome) -> str:
    for seen in outcome.named("retry"):
        if "fault" in seen:
            return f"the retry after Success was refused ({seen['fault']})"
        if seen.get("data", DATA) != DATA:
            return f"the retry read {seen['data']:#x}"
    return ""


@litmus(
    id="L12",
    seed="S1",
    title="a page request is answered with Success; the device tries again (no K3; its ATS side is left to the device)",
    forbidden="the retry finds a not-present entry",
    twin="the entry is written with a plain store, which is still in the store buffer when the response is sent; "
    "or the response is sent first",
    cases=("empty root", "table exists"),
    twins=("store buffered", "answered first"),
)
def early_success(twin: bool, case: str) -> Scenario:
    """A4: the entry has to be visible to the walker before the response is queued; a locked exchange is."""
    mapped = {} if case == "empty root" else {_GFN + 1: READ}

    def make() -> World:
        kvm, _ = build(mapped=mapped)
        buffered: list[Store] = []

        def late(effect: object) -> Body | None:
            """The store waits in the buffer while the response, to uncached memory, goes ahead."""

            def buffer(exchange: CompareExchange) -> Body:
                yield from ()
                buffered.append(Store(exchange.address, exchange.new))
                return exchange.expected

            def drain(response: Store) -> Body:
                yield response
                yield buffered.pop()

            if isinstance(effect, CompareExchange):
                return buffer(effect)
            return drain(effect) if isinstance(effect, Store) and buffered else None

        def hasty() -> Body:
            yield WaitFor(REQUEST, 0xFF, 1)
            yield from respond(1, SUCCESS)
            yield from io_request(kvm, _GFN, False)

        handler = task(kvm, hasty() if case == "answered first" else page_requests(kvm, _GFN))
        agents = {"handler": changed(handler, late) if case == "store buffered" else handler}
        return World(agents, kvm, Kvm.picture, {"device": lambda: device(_GFN)})

    return Scenario(
        make,
        build(mapped=mapped)[1],
        _retry_refused,
        (LOCK, SRCU, HostMmu(), iommu()),
        quiet=(*QUIET, TlbFlush),
        covers={"a request": lambda outcome: bool(outcome.named("response"))},
        check=invariants(),
        names=names(),
        legend=LEGEND,
    )


@litmus(
    id="L13",
    seed="S0, S1",
    title="a vCPU and a page request fault on one gfn; one of them finds the other's entry (PRI itself is left)",
    forbidden="the device gets another answer than Success, after which it may not ask any more",
    twin="only a fault that was FIXED counts as success (RFC bug B1)",
    cases=("6.7", "6.7: both write", "6.13: spurious early"),
    twins=("6.7", "6.13: spurious early"),
)
def spurious_failure(twin: bool, case: str) -> Scenario:
    """D4 B1: SPURIOUS means that the entry is as it should be.

    Where both write, the second fault of 6.7 replaces the entry, for it leaves D out (facts K): FIXED, not SPURIOUS.
    """
    version = V6_13 if case.startswith("6.13") else V6_7
    write = case.endswith("both write")
    mapped = {_GFN + 1: READ}

    def strict(kvm: Kvm, gfn: int, write: bool) -> Body:
        """As in the RFC: everything but FIXED is an error."""
        result = kvm.vm.version.ret_retry
        while result == kvm.vm.version.ret_retry:
            result = yield from tdp_fault(kvm.vm, kvm.tdp.context, KvmFault(gfn << 12, WRITE if write else READ))
        return 0 if result == kvm.vm.version.ret_fixed else EFAULT

    def failing(error: int) -> int:
        return FAILURE if error else SUCCESS

    def make() -> World:
        kvm, _ = build(version=version, mapped=mapped, writable=write)
        handler = page_requests(kvm, _GFN, write=write, fault=strict if twin else io_request, code=failing)
        touching = guest(kvm, "guest", _GFN, GUEST_WRITE if write else GUEST_READ, WRITTEN, tries=3)
        agents = {"handler": task(kvm, handler), "vcpu": task(kvm, touching)}
        return World(agents, kvm, Kvm.picture, {"device": lambda: device(_GFN, write, WRITTEN + 1)})

    def forbidden(outcome: Outcome) -> str:
        for seen in outcome.named("response"):
            if seen["code"] != SUCCESS:
                return f"the request was answered with {seen['code']:#x}"
        return _retry_refused(outcome)

    return Scenario(
        make,
        build(version=version, mapped=mapped, writable=write)[1],
        forbidden,
        (LOCK, SRCU, HostMmu(), cpu(), iommu()),
        {"request": REQUEST},
        quiet=QUIET,
        covers={
            "a request": lambda outcome: bool(outcome.named("response")),
            "none needed": lambda outcome: not outcome.word("request"),
        },
        servers=("handler",),
        check=invariants(),
        names=names(),
        legend=LEGEND,
    )
