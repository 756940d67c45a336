"""What a fault costs is counted, not timed: it depends neither on how much is mapped nor on slots, roots or lists.

Effects are counted by a driver of its own, lines of the model that are executed by the interpreter's trace hook.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import pytest

import pymodel
from cocotb_tests.unit.pymodel.kvm.support import FETCH, HVA, WRITE
from pymodel.effects import CompareExchange, Load, Store, changed
from pymodel.kvm import notifier, nx_recovery, roots, slot_ops
from pymodel.kvm.effects import HostFault, HostPage, KvmAgent, KvmEffect, SpteChanged, Trace, run_kvm
from pymodel.kvm.fault import page_fault
from pymodel.kvm.memslots import LOG_DIRTY, Memslot
from pymodel.kvm.version import V6_1, V6_12, V6_13, KvmVersion
from pymodel.kvm.vm import KvmParams, Vcpu, Vm
from pymodel.kvm.write_track import track_writes
from pymodel.memory import PhysMem

MIB = 256
"""4K pages of a mebibyte."""
_MODEL = str(Path(pymodel.__file__).parent)
TraceFunction: TypeAlias = Callable[[FrameType, str, Any], Any]
_VERSIONS = pytest.mark.parametrize("version", [V6_1, V6_12, V6_13], ids=lambda version: str(version.name))


class Guest:
    """One slot of 4K pages at gfn 0; effects are counted by type."""

    def __init__(self, version: KvmVersion, mib: int, *, level: int = 1, flags: int = 0, **params: Any) -> None:
        frames = iter(range(1 << 30, 1 << 31))
        self.level = level
        self.memory = PhysMem()
        self.effects: Counter[type] = Counter()
        self.vm = Vm(version, self, lambda: next(frames), params=KvmParams(**params), release=self._release)
        self.vcpu = Vcpu(0)
        self.vm.vcpus.append(self.vcpu)
        self.run(slot_ops.create(self.vm, Memslot(0, 0, mib * MIB, HVA, flags)))
        self.run(roots.prepare_entry(self.vm, self.vcpu))

    def _release(self, frame: int) -> None:
        self.memory.clear_page(frame << 12)

    def mapping_level(self, slot: Memslot, gfn: int) -> int:
        return self.level

    def run(self, agent: KvmAgent[Any]) -> Any:
        return run_kvm(changed(agent, self._count), self.memory, self._handle)

    def _count(self, effect: KvmEffect) -> None:
        self.effects[type(effect)] += 1

    def _handle(self, effect: KvmEffect) -> HostPage | None:
        return HostPage(0x4000_0000 + (effect.hva - HVA >> 12), True) if isinstance(effect, HostFault) else None

    def fault(self, gfn: int, error: int = WRITE) -> None:
        self.run(page_fault(self.vm, self.vcpu, gfn << 12, error))

    def cost(self, gfn: int, error: int = WRITE) -> Counter[type]:
        """Effects of one fault."""
        self.effects.clear()
        self.fault(gfn, error)
        return Counter(self.effects)


def steps(work: Callable[[], Any]) -> int:
    """Lines of the model that are executed while `work` runs, and rounds of its comprehensions: loops show up here."""
    count = 0

    def line(frame: FrameType, event: str, _: object) -> TraceFunction:
        nonlocal count
        count += event == "line"
        return line

    def entered(frame: FrameType, event: str, _: object) -> TraceFunction | None:
        return line if frame.f_code.co_filename.startswith(_MODEL) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@_VERSIONS
def test_effects_of_a_fault_do_not_depend_on_what_is_mapped(version: KvmVersion) -> None:
    """1 MiB to 64 MiB: every fault in an existing table has the same effects, one table more costs the same again."""
    guest = Guest(version, 64)
    inside, first = set(), set()
    for gfn in range(64 * MIB):
        cost = frozenset(guest.cost(gfn).items())
        if gfn % 512:
            inside.add(cost)
        elif gfn:
            first.add(cost)
    assert len(inside) == 1
    assert len(first) == 1
    (one,) = (dict(cost) for cost in inside)
    assert (one[Load], one[CompareExchange], one[HostFault], one[SpteChanged]) == (8, 1, 1, 1)
    assert Store not in one
    assert len(guest.vm.tables) == 1 + 1 + 1 + 32


def _one_more_fault(many: int) -> int:
    """Steps of the fault behind page 0, with so many slots, tables, roots, vCPUs, tracked and private gfns."""
    guest = Guest(V6_12, 64)
    for number in range(1, many + 1):
        guest.run(slot_ops.create(guest.vm, Memslot(number, (number << 14) + 1, 16, HVA + (number << 30), 0)))
        guest.run(track_writes(guest.vm, 1024 + number))
        guest.vm.private.change(4096 + 16 * number, 4096 + 16 * number + 7, True)
        root = guest.vm.new_table(4, 0, 0, 0)
        root.invalid = True
        guest.vm.roots.insert(0, root)
        guest.vm.vcpus.append(Vcpu(number))
    for gfn in range(0, many * 512, 512):
        guest.fault(gfn)
    return steps(lambda: guest.fault(1))


def test_steps_of_a_fault_do_not_depend_on_tables_slots_roots_and_lists() -> None:
    """No loop over all of anything: as many steps with one of each as with a hundred."""
    assert _one_more_fault(1) == _one_more_fault(100)


def test_nothing_listens_nothing_is_traced_and_all_else_is_the_same() -> None:
    """`Vm.traced` False takes the `Trace` effects of a fault away, and those alone."""
    seen: list[list[KvmEffect]] = []
    for traced in (True, False):
        guest = Guest(V6_12, 4, flags=LOG_DIRTY)
        guest.vm.traced = traced
        found: list[KvmEffect] = []

        for gfn in (0, 1, 700):
            guest.run(page_fault(guest.vm, guest.vcpu, gfn << 12, WRITE))
        for error in (WRITE, WRITE | 1, FETCH | 1):
            guest.run(changed(page_fault(guest.vm, guest.vcpu, 1 << 12, error), found.append))
            guest.run(changed(page_fault(guest.vm, guest.vcpu, 2 << 12, error & ~1), found.append))
        seen.append(found)
    traced_names = {one.name for one in seen[0] if isinstance(one, Trace)}
    assert {"page_fault", "set_spte", "fast_page_fault", "call kvm_tdp_mmu_map"} <= traced_names
    kept = {one.name for one in seen[1] if isinstance(one, Trace)}
    assert kept <= {"call mark_page_dirty_in_slot"}
    assert [one for one in seen[1] if not isinstance(one, Trace)] == [
        one for one in seen[0] if not isinstance(one, Trace)
    ]


def _zap_cost(tables: int) -> float:
    """Steps for each table when NX-split tables are recovered one after the other, oldest first."""
    guest = Guest(V6_12, 2 * tables, level=2, nx_huge_pages=True, recovery_ratio=1)
    for piece in range(tables):
        guest.fault(piece * 512, FETCH)
    assert len(guest.vm.possible_nx) == tables
    done = steps(lambda: guest.run(nx_recovery.recover(guest.vm)))
    assert not guest.vm.possible_nx
    return done / tables


def test_recovery_costs_the_same_for_each_table() -> None:
    assert _zap_cost(64) == pytest.approx(_zap_cost(8), rel=0.02)


def test_notifier_cost_follows_its_range_not_the_memory() -> None:
    """Zapping one page visits the path to it, and at most the entries of its last table."""
    counts = []
    for mib in (2, 64):
        guest = Guest(V6_12, mib)
        for gfn in range(0, mib * MIB, 16):
            guest.fault(gfn)
        guest.effects.clear()
        guest.run(notifier.invalidate_range_start(guest.vm, HVA, HVA + 4096))
        counts.append(guest.effects[Load])
        guest.run(notifier.invalidate_range_end(guest.vm, HVA, HVA + 4096))
    assert counts[0] == counts[1] < 20


def test_memory_follows_the_live_tables() -> None:
    """Faulted in and zapped again and again: freed table pages take no memory, though frames are new each time."""
    guest = Guest(V6_12, 16)
    held = []
    for _ in range(3):
        for gfn in range(0, 16 * MIB, 64):
            guest.fault(gfn)
        held.append(len(list(guest.memory.pages())))
        assert held[-1] == len(guest.vm.tables)
        guest.run(roots.zap_all_fast(guest.vm))
        guest.run(roots.prepare_entry(guest.vm, guest.vcpu))
    assert len(set(held)) == 1
