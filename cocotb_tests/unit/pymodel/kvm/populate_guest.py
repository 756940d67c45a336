"""A VM for tests of bulk population: faulted in page by page, or in bulk, on a host with holes and odd pages."""

import random
from collections.abc import Callable
from dataclasses import astuple
from typing import Any

from cocotb_tests.unit.pymodel.kvm.support import HVA
from pymodel.kvm import notifier, roots, slot_ops
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, KvmEffect, Trace, run_kvm
from pymodel.kvm.fast_fault import last_entry
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.populate import Populated, populate
from pymodel.kvm.spte import SpteFormat
from pymodel.kvm.version import KvmVersion
from pymodel.kvm.vm import KvmParams, Vcpu, Vm
from pymodel.memory import PhysMem

NPAGES = 4096
_HUGE = 512


class Guest:
    """A VM whose host maps by 2 MiB piece: level, and within level 1 some pages refused, read-only or of a device."""

    def __init__(
        self, version: KvmVersion, seed: int, fmt: SpteFormat | None = None, *, flags: int = 0, shift: int = 0,
        **params: Any,
    ) -> None:  # fmt: skip
        rng = random.Random(seed)
        self.levels = [rng.choice((1, 1, 2, 2, 3)) for _ in range(NPAGES // _HUGE + 1)]
        self.odd = {rng.randrange(NPAGES): rng.choice(("refused", "read-only", "device")) for _ in range(60)}
        self.moved: set[int] = set()
        """Pages that the host has put elsewhere."""
        self.frame = 1 << 30
        self.on_lookup: Callable[[HostFault], None] | None = None
        self.memory = PhysMem()
        self.asked: list[HostFault] = []
        self.traces: list[Trace] = []
        self.released: Callable[[int], None] | None = None
        self.vm = Vm(version, self, self.new_frame, fmt=fmt, params=KvmParams(**params), release=self._release)
        self.vcpu = Vcpu(0)
        self.vm.vcpus.append(self.vcpu)
        self.run(slot_ops.create(self.vm, Memslot(0, 0, NPAGES, HVA + (shift << 12), flags)))
        self.run(roots.prepare_entry(self.vm, self.vcpu))

    def new_frame(self) -> int:
        self.frame += 1
        return self.frame

    def _release(self, frame: int) -> None:
        self.memory.clear_page(frame << 12)
        if self.released is not None:
            self.released(frame)

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        return self.levels[slot.hva_of(gfn) - HVA >> 21]

    def pfn(self, page: int) -> int:
        """Where the host keeps a page now; guest_memfd's are elsewhere."""
        return (0x300000 if page in self.moved else 0x100000) * _HUGE + page

    def remap(self, piece: int, level: int) -> None:
        """The host maps a piece of 2 MiB with another size, and says so to KVM."""
        first = HVA + (piece << 21)
        self.run(notifier.invalidate_range_start(self.vm, first, first + (1 << 21)))
        self.levels[piece] = level
        self.run(notifier.invalidate_range_end(self.vm, first, first + (1 << 21)))

    def handle(self, effect: KvmEffect) -> HostPage | None:
        if isinstance(effect, Trace):
            self.traces.append(effect)
        if not isinstance(effect, HostFault):
            return None
        self.asked.append(effect)
        if self.on_lookup is not None:
            self.on_lookup(effect)
        page = effect.hva - HVA >> 12
        kind = self.odd.get(page) if self.levels[page // _HUGE] == 1 else None
        if kind == "refused":
            return HostPage(None)
        if effect.private:
            return HostPage(self.pfn(page) | 1 << 32, True, max_level=2 if page // _HUGE % 2 else 1)
        return HostPage(self.pfn(page), kind != "read-only", kind == "device")

    def entry(self, gfn: int) -> tuple[int, int]:
        """(level, value) where a walk ends."""
        _, level, value = self.run(last_entry(self.vm, self.vcpu, gfn))
        return level, value

    def run(self, agent: KvmAgent[Any]) -> Any:
        return run_kvm(agent, self.memory, self.handle)

    def one_by_one(self, start: int, end: int, error: int) -> None:
        """The slow way, as the sentence says it: each page that does not grant the access faults, lowest first."""
        fmt = self.vm.fmt
        for gfn in range(start, end):
            level, entry = self.entry(gfn)
            present = fmt.is_present(entry) and fmt.is_leaf(entry, level)
            if present and fmt.allows(entry, write=bool(error & 2), execute=bool(error & 16)):
                continue
            code = self.vm.version.ret_retry
            while code == self.vm.version.ret_retry:
                code = self.run(page_fault(self.vm, self.vcpu, gfn << 12, error | (1 if present else 0))).code
                self.run(roots.prepare_entry(self.vm, self.vcpu))

    def populate(self, start: int, end: int, error: int) -> Populated:
        return populate(self.vm, self.vcpu, self.memory, self.handle, start, end, error)

    def picture(self) -> dict[str, Any]:
        """Every word of memory, every table with its bookkeeping, the log."""
        vm, slot = self.vm, self.vm.slots.get(0)
        assert slot is not None
        return {
            "words": {page: self._words(page) for page in self.memory.pages()},
            "tables": {frame: astuple(table) for frame, table in vm.tables.items()},
            "nx": [table.frame for table in vm.possible_nx],
            "dirty": set(slot.dirty),
            "ring": list(self.vcpu.ring),
            "sequence": vm.mmu_invalidate_seq,
        }

    def _words(self, page: int) -> bytes:
        words = self.memory.page_words(page)
        assert words is not None
        return words.tobytes()
