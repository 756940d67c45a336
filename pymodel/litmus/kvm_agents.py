"""Agents around KVM's own: tasks with their importer, the host's notifiers, page requests, devices, guests.

A broken twin is one of these, with other effects in the place of some that it yields (`pymodel.effects.changed`).
"""

from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from pymodel.effects import Event, Load, Store, WaitFor, changed
from pymodel.explore import Fault, GuestAccess, Violation
from pymodel.kvm import notifier
from pymodel.kvm.effects import KvmAgent, MmuUnlock, SrcuEnter, SrcuLeave, TlbFlush
from pymodel.kvm.export import io_fault
from pymodel.kvm.fault import page_fault
from pymodel.kvm.hardware import WRITE
from pymodel.litmus.kvm_layout import HVA, MOVED, REQUEST, RESPONSE, host_entry
from pymodel.litmus.kvm_machine import Kvm
from pymodel.litmus.machine import Queue, access, domain_selective, page_selective
from pymodel.paging.geometry import PAGE, Range

__all__ = ["FAILURE", "INVALID", "SUCCESS", "Body", "code_of", "device", "guest", "host_moves", "importer",
           "io_request", "left_out", "page_requests", "patient", "respond", "task"]  # fmt: skip

Body: TypeAlias = Generator[Any, Any, Any]

SUCCESS, INVALID, FAILURE = 0, 1, 0xF
_TRIES = 2


def left_out(*kinds: type) -> Callable[[object], Body | None]:
    """For `changed`: effects of these types do not happen."""

    def nothing() -> Body:
        yield from ()

    return lambda effect: nothing() if isinstance(effect, kinds) else None


def importer(queue: Queue, ih: bool = False) -> Callable[[TlbFlush], Body]:
    """The importer of an exported table: its invalidation is complete when KVM's flush returns (facts C10, D1).

    KVM does not say whether pointers went too, so that they must (IH=0).
    """

    def flush(effect: TlbFlush) -> Body:
        if effect.pages is None:
            yield from queue.complete(domain_selective())
        else:
            start = effect.gfn * PAGE
            yield from queue.complete(page_selective(Range(start, start + effect.pages * PAGE), ih=ih))

    return flush


def task(kvm: Kvm, agent: Body, flush: Callable[[TlbFlush], Body] | None = None) -> Body:
    """An agent of KVM in its surroundings: RCU sections follow mmu_lock, flushes reach the importer."""
    kvm.tasks += 1
    return _task(kvm, kvm.tasks, agent, flush)


def _task(kvm: Kvm, number: int, agent: Body, flush: Callable[[TlbFlush], Body] | None) -> Body:
    answer: Any = None
    while True:
        kvm.frames.running = number
        try:
            effect = agent.send(answer)
        except StopIteration as stop:
            return stop.value
        answer = yield effect
        if isinstance(effect, MmuUnlock):
            kvm.frames.leave(number)
        elif isinstance(effect, TlbFlush) and flush is not None:
            yield from flush(effect)


def host_moves(
    kvm: Kvm,
    gfn: int,
    entry: int,
    *,
    start: Callable[..., KvmAgent[None]] = notifier.invalidate_range_start,
    end: Callable[..., KvmAgent[None]] = notifier.invalidate_range_end,
    reuse: int | None = None,
    value: int = 0,
) -> Body:
    """The host takes a page from the guest: notifier, its own entry, the page used again (`reuse`), notifier."""
    low, high = HVA + (gfn << 12), HVA + (gfn + 1 << 12)
    yield from start(kvm.vm, low, high)
    yield Store(host_entry(gfn), entry)
    if reuse is not None:
        kvm.host.free.add(reuse >> 12)
        yield Store(reuse, value)
    yield from end(kvm.vm, low, high)
    yield Store(MOVED, 1)


def patient(agent: Body, word: int, name: str = "") -> Body:
    """A fault that has to be tried again waits until `word` is not 0, instead of spinning (facts D4, B7).

    What it does in between could only be the same again. `name` is an event that tells of it.
    """
    tries = 0

    def wait(effect: object) -> Body | None:
        nonlocal tries
        tries += isinstance(effect, SrcuEnter)
        return again() if isinstance(effect, SrcuEnter) and tries > 1 else None

    def again() -> Body:
        if name:
            yield Event(name)
        yield WaitFor(word, 1, 1)
        yield SrcuEnter()

    return (yield from changed(agent, wait))


def io_request(kvm: Kvm, gfn: int, write: bool) -> KvmAgent[int]:
    """A page request at KVM: 0 or an errno."""
    return (yield from io_fault(kvm.vm, kvm.tdp, gfn << 12, write=write))


def code_of(error: int) -> int:
    """What the device is told."""
    return INVALID if error else SUCCESS


def respond(number: int, code: int) -> Body:
    """The page-group response."""
    yield Event("response", (("code", code),))
    yield Store(RESPONSE, number << 8 | code)


def page_requests(
    kvm: Kvm,
    gfn: int,
    *,
    write: bool = False,
    requests: int = 1,
    fault: Callable[[Kvm, int, bool], Body] = io_request,
    code: Callable[[int], int] = code_of,
) -> Body:
    """The handler of page requests for one gfn (facts B4, D1)."""
    for number in range(1, requests + 1):
        yield WaitFor(REQUEST, 0xFF, number)
        result = yield from fault(kvm, gfn, write)
        yield from respond(number, code(result))


def device(gfn: int, write: bool = False, value: int = 0, requests: int = 1) -> Body:
    """An access that asks for its page where it is refused, at most `requests` times; a last access is "retry".

    What stands for a device with page requests here: its accesses are untranslated, it has no ATC.
    """
    for number in range(1, requests + 1):
        answer = yield from access("first" if number == 1 else "again", gfn * PAGE, write, value)
        if not isinstance(answer, Fault):
            return
        yield Store(REQUEST, number)
        yield WaitFor(RESPONSE, 0xFF00, number << 8)
        response = yield Load(RESPONSE)
        if response & 0xFF == FAILURE:
            yield Event("page requests disabled")
        if response & 0xFF != SUCCESS:
            return
    yield from access("retry", gfn * PAGE, write, value)


def guest(kvm: Kvm, name: str, gfn: int, kind: str, value: int = 0, tries: int = _TRIES) -> Body:
    """A vCPU's access, with its faults; says what came of it."""
    vm, vcpu = kvm.vm, kvm.vcpu
    for _ in range(tries):
        assert vcpu.root is not None
        answer = yield GuestAccess(vcpu.root.frame << 12, vcpu.root.level, gfn << 12, kind, value)
        if not isinstance(answer, Violation):
            yield Event(name, (("wrote", value),) if kind == WRITE else (("data", answer),))
            return
        yield SrcuEnter()
        outcome = yield from page_fault(vm, vcpu, gfn << 12, answer.error)
        yield SrcuLeave()
        if outcome.error:
            yield Event(name, (("errno", outcome.error),))
            return
    yield Event(name, (("gave up", 1),))
