"""Effects that only KVM's agents yield, next to those of `pymodel.effects` (DESIGN D2).

A driver answers `HostFault` with a `HostPage`; the others with None. `Trace` tells what a tracepoint or a
probe on the function of that name would have shown, so that a recording of a real kernel can be compared.
"""

from collections.abc import Callable, Generator
from typing import Any, TypeAlias, TypeVar, get_args

from pymodel import effects as base
from pymodel.effects import CompareExchange, Effect, Load, Store, Words, effect_type

__all__ = ["AllocateNow", "AwaitInvalidations", "HostFault", "HostInterrupt", "HostPage", "KvmAgent", "KvmEffect",
           "MmuLock", "MmuUnlock", "Resched", "SpteChanged", "SrcuEnter", "SrcuLeave", "SrcuSynchronize", "TlbFlush",
           "Trace", "Wbinvd", "exchange", "run_kvm"]  # fmt: skip

T = TypeVar("T")
_ON_MEMORY = frozenset(get_args(Effect))


@effect_type
class TlbFlush:
    """Every translation of the range must be gone from every TLB before the agent goes on (facts C10).

    `pages` None: the whole VM. Emitted synchronously, so that an IOMMU that shares the table can take part.
    """

    gfn: int = 0
    pages: int | None = None


@effect_type
class MmuLock:
    """Take mmu_lock; `write` is the exclusive mode."""

    write: bool


@effect_type
class MmuUnlock:
    """Release mmu_lock."""

    write: bool


@effect_type
class Resched:
    """tdp_mmu_iter_cond_resched: answered with True where the agent must give up the lock for a moment."""

    flush: bool = False
    """What was zapped so far has to be flushed before the lock is given up."""


@effect_type
class AllocateNow:
    """A table page without waiting, under the lock: answered with True where none is at hand (facts C5)."""


@effect_type
class AwaitInvalidations:
    """kvm_swap_active_memslots: go on only once every notifier range that was begun has ended."""


@effect_type
class Wbinvd:
    """Write back and invalidate all caches of one physical CPU before the agent goes on (facts C11)."""

    cpu: int


@effect_type
class SrcuEnter:
    """srcu_read_lock(&kvm->srcu): from here on the memslots that this task finds are not changed under it."""


@effect_type
class SrcuLeave:
    """srcu_read_unlock(&kvm->srcu)."""


@effect_type
class SrcuSynchronize:
    """synchronize_srcu(&kvm->srcu): wait for the tasks that entered before, for they may use the old memslots."""


@effect_type
class HostInterrupt:
    """Answered with True where something that is not the guest's doing ends its stay; it enters again at once."""


@effect_type
class SpteChanged:
    """trace_kvm_tdp_mmu_spte_changed: an entry went from `old` to `new`."""

    as_id: int
    gfn: int
    level: int
    old: int
    new: int


@effect_type
class Trace:
    """A tracepoint (`page_fault`) or a probed function (`call kvm_flush_remote_tlbs`, `ret kvm_tdp_mmu_map`)."""

    name: str
    fields: tuple[tuple[str, int | str], ...] = ()


@effect_type
class HostFault:
    """Resolve `hva` in the primary MMU as get_user_pages does; may sleep and may cause notifier calls."""

    hva: int
    write: bool
    slot: int
    private: bool = False
    """Ask the slot's guest_memfd instead."""


@effect_type
class HostPage:
    """Answer to `HostFault`: `pfn` None where the host refuses the access."""

    pfn: int | None
    writable: bool = False
    device: bool = False
    """Device memory of the host, to be mapped uncached."""
    max_level: int = 3
    """Largest page that guest_memfd's folio allows."""


KvmEffect: TypeAlias = (
    Effect
    | TlbFlush
    | MmuLock
    | MmuUnlock
    | Resched
    | AllocateNow
    | AwaitInvalidations
    | Wbinvd
    | SrcuEnter
    | SrcuLeave
    | SrcuSynchronize
    | HostInterrupt
    | SpteChanged
    | Trace
    | HostFault
)
KvmAgent: TypeAlias = Generator[KvmEffect, Any, T]


def exchange(address: int, new: int) -> KvmAgent[int]:
    """xchg: write `new`, return what was there, atomically (a compare-exchange loop is equivalent)."""
    old: int = yield Load(address)
    while True:
        seen: int = yield CompareExchange(address, old, new)
        if seen == old:
            return old
        old = seen


def run_kvm(agent: KvmAgent[T], memory: Words, handle: Callable[[KvmEffect], Any]) -> T:
    """Run an agent to its end: memory effects at once, KVM's own through `handle`, whose result is the answer."""
    answer: Any = None
    send, load, store = agent.send, memory.load, memory.store
    while True:
        try:
            effect = send(answer)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        kind = type(effect)
        if kind is Load:
            answer = load(effect.address)  # type: ignore[union-attr]
        elif kind not in _ON_MEMORY:
            answer = handle(effect)
        elif kind is Store:
            answer = store(effect.address, effect.value)  # type: ignore[union-attr,func-returns-value]
        else:
            answer = base.apply(effect, memory)  # type: ignore[arg-type]
