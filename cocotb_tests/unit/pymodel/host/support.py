"""A host without KVM for tests, and the accounts that must always balance."""

from collections import Counter
from collections.abc import Container, Iterable
from typing import Any, TypeVar

from cocotb_tests.unit.pymodel.host.spy import Call, Guard, Spy
from pymodel.host import entries
from pymodel.host.effects import HostAgent, PageReused, run_host
from pymodel.host.files import HugetlbFile, HugetlbPool, PageCache
from pymodel.host.frames import Folio, Frames
from pymodel.host.gup import load, store
from pymodel.host.kernel import HOST_6_12, HostKernel
from pymodel.host.mapping import mmap
from pymodel.host.process import Host, Process
from pymodel.host.swap import Slot, Swap
from pymodel.memory import PhysMem

__all__ = ["A", "GIGA", "HUGE", "PAGE", "Setting", "balance"]

T = TypeVar("T")
A = 0x2000_4020_0000
"""A 2 MiB aligned address that is not 1 GiB aligned."""
PAGE, HUGE, GIGA = 1 << 12, 1 << 21, 1 << 30


class Setting:
    """Host, one process with a notifier that writes down its calls, and memory."""

    def __init__(
        self, kernel: HostKernel = HOST_6_12, *, frames: int = 1 << 13, swap: int = 1 << 11, huge: int = 0
    ) -> None:
        self.memory = PhysMem()
        allocator = Frames(1 << 20, frames)
        pools = [HugetlbPool(allocator, 2, huge)] if huge else []
        self.host = Host(allocator, kernel=kernel, swap=Swap((1 << 20) + frames, swap), pools=pools)
        self.mm = self.host.new_process()
        self.spy = Spy()
        self.mm.notifiers.append(self.spy)
        self._guard = Guard(self.mm)
        self.reused: list[int] = []

    def run(self, agent: HostAgent[T]) -> T:
        """Run an agent; the calls of the notifier start anew."""
        self.spy.calls.clear()
        self.reused.clear()
        return run_host(agent, self.memory, self._observe)

    def _observe(self, effect: Any) -> None:
        self._guard.see(effect)
        if isinstance(effect, PageReused):
            self.reused += range(effect.frame, effect.frame + effect.count)

    def map(self, length: int, kind: str = "anon4k", hva: int = A, **options: Any) -> None:
        """mmap."""
        self.run(mmap(self.mm, hva, length, kind, **options))

    def put(self, hva: int, value: int, mm: Process | None = None) -> None:
        """The process stores a word."""
        self.run(store(mm or self.mm, hva, value))

    def get(self, hva: int, mm: Process | None = None) -> int:
        """The process loads a word."""
        return self.run(load(mm or self.mm, hva))

    def folio(self, hva: int, mm: Process | None = None) -> Folio:
        """The page behind an address."""
        process = mm or self.mm
        entry = process.table.lookup(hva)
        assert entry is not None
        folio = process.folio_at(entry.hva, entry.level)
        assert folio is not None
        return folio

    def level(self, hva: int) -> int:
        """Level of the entry at an address, 0 for none."""
        entry = self.mm.table.lookup(hva)
        return 0 if entry is None else entry.level

    @property
    def calls(self) -> list[Call]:
        """(name, start, end, event) of the notifier since the last `run`, addresses relative to `A`."""
        return [(name, start - A, end - A, event) for name, start, end, event in self.spy.calls]


def balance(host: Host, files: Iterable[PageCache] = (), others: Container[int] = ()) -> None:
    """References, reverse map, swap slots, reservations and frames against what page tables and files say.

    `others`: frames of pages that somebody else holds. Nothing may be running.
    """
    mapped: dict[Folio, dict[tuple[Process, int], int]] = {}
    swapped: Counter[int] = Counter()
    reserved: Counter[HugetlbPool] = Counter()
    for mm in host.processes.values():
        for entry in mm.table.leaves(0, 1 << 47):
            assert mm.vmas.find(entry.hva) is not None, f"an entry without a mapping at {entry.hva:#x}"
            assert not entries.is_migration(entry.value), f"a migration entry stayed at {entry.hva:#x}"
            if entries.is_swap(entry.value):
                swapped[entries.swap_number(entry.value)] += 1
                continue
            folio = mm.folio_at(entry.hva, entry.level)
            if folio is not None:
                mapped.setdefault(folio, {})[mm, entry.hva] = entry.level
        for vma in mm.vmas:
            if vma.pool is not None and vma.reserve is not None:
                reserved[vma.pool] += len(vma.reserve)
    for file in files:
        swapped.update(page.number for page in file.pages.values() if isinstance(page, Slot))
        if isinstance(file, HugetlbFile):
            reserved[file.pool] += len(file.reserved)
    live = host.frames.live()
    assert sum(folio.count for folio in live) + host.frames.free_count == host.frames.count
    for folio in live:
        if host.is_zero(folio.frame) or folio.frame in others or (folio.pool is not None and folio.refs == 0):
            continue
        assert folio.mappings == mapped.get(folio, {}), f"reverse map of {folio.frame:#x}"
        caches = (folio.cache is not None) + bool(folio.slots)
        assert folio.refs == len(folio.mappings) + caches + folio.pins > 0, f"references of {folio.frame:#x}"
        assert not folio.locked, f"{folio.frame:#x} stayed locked"
        if folio.cache is not None:
            assert folio.cache[0].pages[folio.cache[1]] is folio
    assert {slot.number: slot.refs for slot in host.swap.slots()} == swapped
    for pool in host.pools.values():
        assert pool.reserved == reserved[pool] <= pool.free
