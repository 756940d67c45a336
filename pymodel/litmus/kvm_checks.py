"""The invariants of facts C12 in every state of an exploration with KVM."""

import re
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from pymodel.explore import StateView
from pymodel.explore.cpu_agent import CpuState
from pymodel.explore.iommu_state import Cached, IommuState
from pymodel.explore.locks import LockState
from pymodel.kvm.invariants import Held, InvariantError, check_entries, check_held
from pymodel.kvm.spte import pages
from pymodel.kvm.vm import Table, Vm
from pymodel.litmus.kvm_layout import HVA, host_entry, page_name
from pymodel.litmus.kvm_machine import Kvm
from pymodel.memory import SparseMem
from pymodel.paging.geometry import span

__all__ = ["invariants"]

_FRAMES = re.compile(r"\bframe (0x[0-9a-f]+)")


def invariants(gfns: Container[int] = range(8)) -> Callable[[StateView], str]:
    """I1-I7; `gfns`: for I1, the ones whose host entry says what they may be mapped to."""
    good: set[tuple[SparseMem, int, bool]] = set()

    def check(view: StateView) -> str:
        kvm: Kvm = view.shared
        settled = view.units.get("mmu_lock", LockState()) == LockState()
        state = view.memory, view.number, settled
        try:
            if state not in good:
                _tables(kvm, view.memory, gfns, settled)
                good.add(state)
            free = kvm.frames.free | kvm.host.free
            if free:
                check_held(_held(view.units), free)
        except InvariantError as error:
            return _FRAMES.sub(lambda found: f"{found[0]} ({page_name(int(found[1], 16) << 12)})", str(error))
        return ""

    return check


def _tables(kvm: Kvm, memory: SparseMem, gfns: Container[int], settled: bool) -> None:
    vm = kvm.vm
    if kvm.tdp.root.frame not in vm.tables:
        raise InvariantError("I6: the page of the root that an IOMMU walks was freed")
    words = _by_frame(memory)
    for root in vm.roots:
        backing = {} if root.invalid else _backing(vm, memory, gfns)
        check_entries(vm, root, dict(_entries(vm, root, words)), settled=settled, backing=backing)


def _by_frame(memory: SparseMem) -> Mapping[int, list[tuple[int, int]]]:
    """(index, value) of the words that are not 0, by frame: what is empty in the format of these tests is 0."""
    words: dict[int, list[tuple[int, int]]] = {}
    for address, value in memory.items():
        words.setdefault(address >> 12, []).append((address >> 3 & 511, value))
    return words


def _entries(
    vm: Vm, root: Table, words: Mapping[int, list[tuple[int, int]]]
) -> Iterator[tuple[tuple[int, int], int]]:
    pending = [(root.frame, root.level, 0)]
    while pending:
        frame, level, base = pending.pop()
        for index, value in words.get(frame, ()):
            gfn = base + index * pages(level)
            yield (level, gfn), value
            if vm.fmt.is_table(value, level):
                pending.append((vm.fmt.pfn(value), level - 1, gfn))


def _backing(vm: Vm, memory: SparseMem, gfns: Container[int]) -> dict[int, int | None]:
    """What the host gives for each gfn that is in no invalidation (I1), nothing where there is no slot."""
    backing: dict[int, int | None] = {gfn: None for gfn in range(8) if gfn in gfns and vm.slots.find(gfn) is None}
    for slot in vm.slots:
        for gfn in range(slot.base_gfn, min(slot.end_gfn, slot.base_gfn + 8)):
            hva = slot.hva_of(gfn)
            point = gfn if vm.version.retry_by_gfn else hva
            open_ = vm.mmu_invalidate_in_progress and vm.invalidate_start <= point < vm.invalidate_end
            if gfn in gfns and not open_ and not slot.invalid:
                entry = memory.load(host_entry(hva - HVA >> 12))
                backing[gfn] = entry >> 12 if entry & 1 else None
    return backing


def _held(units: Mapping[str, Any]) -> Iterator[Held]:
    """What the IOMMU and the CPUs may still use."""
    dma: IommuState | None = units.get("iommu")
    if dma is not None:
        for entry in dma.cache:
            yield from _reach("the IOMMU's cache", entry)
        for walk in dma.walks:
            if walk is not None:
                yield from _reach("a walk of the IOMMU", walk.found)
        for flight in dma.flights:
            if flight is not None:
                yield Held("a DMA in flight", flight.address >> 12)
    cpus: CpuState | None = units.get("cpu")
    if cpus is not None:
        for one in (*cpus.tlb, *(walk for walk in cpus.walks if walk is not None)):
            yield Held("a TLB", one.address >> 12, pages(one.level) if one.leaf else 1)


def _reach(who: str, entry: Cached) -> Iterator[Held]:
    if entry.kind != "absent":
        yield Held(who, entry.address >> 12, span(entry.level) >> 12 if entry.kind == "leaf" else 1)
