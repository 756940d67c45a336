"""Bulk population: the tables that faulting a range in, page by page in order of gfn, leaves behind.

Whatever needs a decision goes through the agents: the fault that makes a table or a huge leaf, and the one that
finds an entry in its way. What remains, empty 4K entries of one table, is asked of the host page by page and
written with numpy at once. So the result is the agents', down to the numbers of the table pages, at a fraction of
their cost. What is missing are the effects in between: nothing may run beside it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pymodel.kvm.dirty_bitmap import mark_dirty
from pymodel.kvm.effects import HostFault, HostPage, KvmEffect, run_kvm
from pymodel.kvm.fast_fault import last_entry
from pymodel.kvm.fault import hugepage_adjust, new_fault, new_leaf, page_fault, take_page
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.roots import prepare_entry
from pymodel.kvm.spte import WRITABLE, pages
from pymodel.kvm.vm import Vcpu, Vm
from pymodel.memory import PhysMem, WordArray

__all__ = ["Populated", "populate"]

_PRESENT, _WRITE, _RESERVED, _FETCH = 1, 2, 8, 16  # bits of an error code


@dataclass(slots=True)
class Populated:
    """What became of the pages; 4K pages but for `faults`."""

    faults: int = 0
    """Nested page faults that agents went through, retried ones once."""
    bulk: int = 0
    """Pages that were written without an agent."""
    present: int = 0
    """Pages that granted the access when their turn came."""
    refused: int = 0
    """Pages that the host does not give, or whose access is emulated."""


def populate(
    vm: Vm,
    vcpu: Vcpu,
    memory: PhysMem,
    handle: Callable[[KvmEffect], Any],
    start: int,
    end: int,
    error: int = 1 << 32 | 6,
) -> Populated:
    """Fault in every page of gfns `start`..`end` (half-open) that does not grant the access, lowest first.

    `error` is the access as an error code without P and RSVD, a write of the guest by default. `handle` answers
    the effects as for `run_kvm`, every `HostFault` among them. Raises `ValueError` for a range that is not inside
    one memslot, for writes to a read-only slot, and while an invalidation is in progress, when faults only retry.
    """
    slot = vm.slots.find(start, vcpu.as_id)
    if slot is None or not start < end <= slot.end_gfn:
        raise ValueError(f"gfns to populate must be a range inside one memslot, not {start:#x}..{end:#x}")
    if slot.readonly and error & _WRITE:
        raise ValueError(f"error must be a read's or a fetch's for the read-only memslot {slot.ident}, not {error:#x}")
    work = _Population(vm, vcpu, memory, handle, slot, end, error)
    run_kvm(prepare_entry(vm, vcpu), memory, handle)
    while start < end:
        start = work.advance(start)
    return work.done


class _Population:
    """One call of `populate` on its way through the range."""

    def __init__(
        self,
        vm: Vm,
        vcpu: Vcpu,
        memory: PhysMem,
        handle: Callable[[KvmEffect], Any],
        slot: Memslot,
        end: int,
        error: int,
    ) -> None:
        self.done = Populated()
        self._vm = vm
        self._vcpu = vcpu
        self._memory = memory
        self._handle = handle
        self._slot = slot
        self._end = end
        self._error = error
        self._one_by_one = 0
        """First gfn behind those that agents must take, because the tables changed under a lookup in bulk."""

    def advance(self, gfn: int) -> int:
        """Deal with the page `gfn`, and those behind it where one step does; returns the next gfn."""
        address, level, entry = self._last(gfn)
        if level == 1 and gfn >= self._one_by_one:
            stop = self._fill(gfn, address)
            if stop > gfn:
                return stop
        if self._grants(entry, level):
            stop = self._behind(gfn, level)
            self.done.present += stop - gfn
            return stop
        return self._fault(gfn, entry)

    def _last(self, gfn: int) -> tuple[int, int, int]:
        found = run_kvm(last_entry(self._vm, self._vcpu, gfn), self._memory, self._handle)
        assert found is not None, "the vCPU has a root since it was prepared to enter"
        return found

    def _behind(self, gfn: int, level: int) -> int:
        """First gfn behind the entry of `level` that maps `gfn`, within the range."""
        return min(self._end, (gfn | pages(level) - 1) + 1)

    def _grants(self, entry: int, level: int) -> bool:
        """Whether a walk that ends here lets the access through."""
        fmt = self._vm.fmt
        if not fmt.is_present(entry) or not fmt.is_leaf(entry, level):
            return False
        return fmt.allows(entry, write=bool(self._error & _WRITE), execute=bool(self._error & _FETCH))

    def _fault(self, gfn: int, entry: int) -> int:
        """One nested page fault, repeated while it says so; returns the gfn behind what it mapped."""
        vm, vcpu = self._vm, self._vcpu
        error = self._error
        if vm.fmt.is_present(entry):
            error |= _PRESENT
        elif vm.fmt.is_mmio(entry):
            error |= _RESERVED
        while True:
            if vm.mmu_invalidate_in_progress:
                raise ValueError(f"gfn {gfn:#x} cannot be populated while an invalidation is in progress")
            outcome = run_kvm(page_fault(vm, vcpu, gfn << 12, error), self._memory, self._handle)
            if outcome.code != vm.version.ret_retry:
                break
            run_kvm(prepare_entry(vm, vcpu), self._memory, self._handle)
        self.done.faults += 1
        if outcome.emulate or outcome.error:
            self.done.refused += 1
            return gfn + 1
        return self._behind(gfn, self._last(gfn)[1])

    def _fill(self, gfn: int, address: int) -> int:
        """Write the empty entries from `address` on, in their table; returns the gfn behind them.

        It ends before an entry that is neither empty nor grants the access. It does nothing where pages are not all
        alike, where a fault might put a huge page over the table, and where a lookup changed the tables.
        """
        vm, vcpu, fmt, slot = self._vm, self._vcpu, self._vm.fmt, self._slot
        assert vcpu.root is not None
        stop = self._behind(gfn, 2)
        fault = new_fault(vm, gfn << 12, self._error)
        fault.slot, fault.pfn = slot, 0
        hugepage_adjust(vm, fault)
        private = fault.private
        mismatch = private != (gfn in vm.private) or (private and not slot.private)
        if fault.goal_level > 1 or mismatch or vm.private.mixed(gfn, stop) or slot.write_tracked:
            return gfn
        table, before, first = vm.tables[address >> 12], self._words(address), address >> 3 & 511
        part = before[first : first + stop - gfn].tolist()
        count = next((i for i, word in enumerate(part) if word != fmt.empty and not self._grants(word, 1)), len(part))
        empty = [index for index, word in enumerate(part[:count]) if word == fmt.empty]
        seq, handle, write, hva = vm.mmu_invalidate_seq, self._handle, fault.write, slot.hva_of(gfn)
        leaves: list[int] = []
        bits: dict[tuple[bool, int | None], int] = {}
        for index in empty:
            page: HostPage = handle(HostFault(hva + (index << 12), write, slot.ident, private))
            notified = vm.mmu_invalidate_seq != seq or vm.mmu_invalidate_in_progress
            if notified or vm.tables.get(address >> 12) is not table:
                self._one_by_one = gfn + index + 1
                return gfn
            if page.pfn is None:
                leaves.append(fmt.empty)
                continue
            fault.gfn = gfn + index
            take_page(vm, vcpu, fault, page)
            key = fault.map_writable, fault.memory_type
            if key not in bits:
                fault.pfn = 0
                bits[key] = new_leaf(vm, fault, vcpu.root, 1, fmt.empty)
            leaves.append(bits[key] | page.pfn << 12)
        if not np.array_equal(before, self._words(address)):
            self._one_by_one = gfn + count
            return gfn
        self._write(gfn, address, before, empty, leaves)
        refused = leaves.count(fmt.empty)
        self.done.bulk += len(empty) - refused
        self.done.refused += refused
        self.done.present += count - len(empty)
        return gfn + count

    def _words(self, address: int) -> WordArray:
        """A copy of the table that holds the entry at `address`."""
        words = self._memory.page_words(address & ~0xFFF)
        return np.zeros(512, np.uint64) if words is None else words.copy()

    def _write(self, gfn: int, address: int, words: WordArray, empty: list[int], leaves: list[int]) -> None:
        if self._slot.logging:
            for index, leaf in zip(empty, leaves, strict=True):
                if leaf & WRITABLE:
                    run_kvm(mark_dirty(self._vm, self._slot, gfn + index, self._vcpu), self._memory, self._handle)
        words[np.array(empty, np.intp) + (address >> 3 & 511)] = np.array(leaves, np.uint64)
        self._memory.store_words(address & ~0xFFF, words)
