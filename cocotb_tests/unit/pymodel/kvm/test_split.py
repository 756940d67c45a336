"""Eager splitting: hitless, restarted where the lock is given up, no page lost or leaked (facts C5)."""

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, Machine, effects_of
from pymodel.effects import CompareExchange, Store
from pymodel.kvm import split
from pymodel.kvm.effects import KvmEffect, SpteChanged, TlbFlush
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_7, V6_10, V6_12, KvmVersion, kernel


@ALL
def test_eager_split_is_hitless(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.level = 2
    machine.fault(3)
    machine.log.clear()
    effects = effects_of(machine, split.try_split(machine.vm, machine.slot, 0, 512, 1, shared=True))
    assert sum(isinstance(one, SpteChanged) for one in effects) == 1
    assert not any(isinstance(one, TlbFlush) for one in effects)
    link = next(index for index, one in enumerate(effects) if isinstance(one, CompareExchange))
    filled = [one.value for one in effects[:link] if isinstance(one, Store)][-512:]
    assert filled == [0x100000E67 + (index << 12) for index in range(512)]
    assert machine.entry(77) == (1, 0x10004DE67)


def test_gigabyte_is_split_through_both_levels() -> None:
    machine = Machine(V6_12, npages=1 << 18)
    machine.level = 3
    machine.fault(3)
    machine.run(split.try_split(machine.vm, machine.slot, 512, 1024, 1, shared=True))
    assert (machine.entry(3)[0], machine.entry(600)[0], machine.entry(1024)[0]) == (2, 1, 2)


@pytest.mark.parametrize(("version", "always"), [(V6_7, False), (V6_10, False), (kernel(6, 11), True), (V6_12, True)])
@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_lock_is_given_up_to_allocate(version: KvmVersion, always: bool, short: bool, shared: bool) -> None:
    machine = Machine(version)
    machine.level = 2
    machine.fault(3)
    machine.short_of_pages = short
    machine.log.clear()
    machine.run(split.try_split(machine.vm, machine.slot, 0, 512, 1, shared=shared))
    take, give = ("S", "s") if shared else ("X", "x")
    locks = [give, take] if always or short else []
    assert machine.locks() == locks
    assert machine.entry(3) == (1, 0x100003E67)


def test_pause_does_not_skip_or_repeat_a_page() -> None:
    for place in range(12):
        machine = Machine(V6_12)
        machine.level = 2
        for gfn in (0, 512, 1024):
            machine.fault(gfn)
        machine.pauses = [False] * place + [True, True]
        machine.log.clear()
        machine.run(split.try_split(machine.vm, machine.slot, 0, 1536, 1, shared=True))
        assert [gfn for gfn, _, _, _ in machine.transitions()] == [0, 512, 1024]


def test_failed_exchange_frees_no_page_twice_and_leaves_none() -> None:
    """Hardware sets A between the read and the exchange: the new value is split."""
    machine = Machine(V6_12)
    machine.level = 2
    machine.fault(3)
    table = next(table for table in machine.vm.tables.values() if table.level == 2)
    huge = table.frame << 12
    machine.memory.store(huge, machine.memory.load(huge) & ~machine.vm.fmt.accessed)
    tries: list[KvmEffect] = []

    def set_accessed(effect: KvmEffect) -> None:
        if isinstance(effect, CompareExchange):
            tries.append(effect)
            if len(tries) == 1:
                machine.memory.store(huge, effect.expected | machine.vm.fmt.accessed)

    machine.watched(split.try_split(machine.vm, machine.slot, 0, 512, 1, shared=True), set_accessed)
    assert len(tries) == 2
    assert machine.entry(3) == (1, 0x100003E67)
    assert len(machine.vm.tables) == 4


def test_access_tracked_huge_page_keeps_x_for_the_first_use() -> None:
    """Splitting under the NX mitigation gives X back: of an access-tracked entry it is the saved X."""
    fmt = ept(suppress_ve_empty=True, ad_enabled=False)
    huge = fmt.access_track(fmt.leaf(0x200, 2, 0, host_writable=True, executable=False))
    child = fmt.split_child(huge, 1, 1, executable=True)
    assert fmt.is_access_track(child)
    assert fmt.restore_access_track(child) & 0b111 == 0b101
    assert fmt.is_access_track(fmt.huge_of(child, 2, executable=False))
    assert fmt.restore_access_track(fmt.huge_of(child, 2, executable=False)) & 0b111 == 0b001
