"""MMU notifiers: counting, zapping, flushing, and what a fault in between sees (facts C2, C7)."""

from itertools import product

import pytest

from cocotb_tests.unit.pymodel.kvm.support import ALL, HVA, READ, Machine, effects_of
from pymodel.effects import CompareExchange, FetchAnd, Store
from pymodel.kvm import notifier, slot_ops
from pymodel.kvm.effects import KvmEffect, SpteChanged, TlbFlush
from pymodel.kvm.errors import EINVAL, KvmError
from pymodel.kvm.fast_fault import last_entry
from pymodel.kvm.memslots import Memslot
from pymodel.kvm.version import V6_1, V6_7, V6_8, V6_12, V6_13, KvmVersion, kernel
from pymodel.kvm.vm import Vcpu

_RETRYING = pytest.mark.parametrize("version", [V6_1, V6_7, V6_8, V6_12], ids=lambda one: one.name)


def _page(number: int, count: int = 1) -> tuple[int, int]:
    return HVA + (number << 12), HVA + (number + count << 12)


@ALL
def test_notifier_zaps_whole_huge_leaf_and_flushes_once(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.level = 2
    machine.fault(3)
    machine.log.clear()
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(5)))
    assert machine.transitions() == [(0, 2, 0x100000EE7, machine.vm.fmt.empty)]
    assert machine.locks() == ["X", "F", "x"], "the flush comes before the lock is given up"


@_RETRYING
@pytest.mark.parametrize("where", [5, 6])
def test_notifier_during_the_lookup_makes_the_fault_retry(version: KvmVersion, where: int) -> None:
    machine = Machine(version)
    machine.fault(where)

    def shoot() -> None:
        machine.run(notifier.invalidate_range_start(machine.vm, *_page(5)))
        machine.run(notifier.invalidate_range_end(machine.vm, *_page(5)))

    machine.during_fault = shoot
    assert machine.fault(5, READ).code == version.ret_retry
    assert machine.fault(5, READ).code in (version.ret_fixed, version.ret_spurious)


@_RETRYING
def test_fault_inside_a_running_invalidation_retries_outside_it_finishes(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(8)))
    assert machine.fault(8).code == version.ret_retry
    assert machine.fault(9).code == version.ret_fixed
    machine.run(notifier.invalidate_range_end(machine.vm, *_page(8)))
    assert machine.fault(8).code == version.ret_fixed


@_RETRYING
def test_nested_invalidations_merge_their_ranges(version: KvmVersion) -> None:
    machine = Machine(version)
    for page in (8, 12):
        machine.run(notifier.invalidate_range_start(machine.vm, *_page(page)))
    assert machine.fault(10).code == version.ret_retry
    machine.run(notifier.invalidate_range_end(machine.vm, *_page(8)))
    assert machine.vm.mmu_invalidate_in_progress == 1
    assert machine.fault(10).code == version.ret_retry
    machine.run(notifier.invalidate_range_end(machine.vm, *_page(12)))
    assert machine.fault(10).code == version.ret_fixed


@pytest.mark.parametrize(("version", "aliased"), [(V6_7, False), (V6_8, True)])
def test_two_slots_over_one_page_need_gfns_of_both(version: KvmVersion, aliased: bool) -> None:
    """6.8+ compares gfns: what lies between two slots' gfns must retry too; hvas do not reach that far."""
    machine = Machine(version, npages=16)
    machine.run(slot_ops.create(machine.vm, Memslot(1, 0x100, 16, HVA, 0)))
    machine.run(slot_ops.create(machine.vm, Memslot(2, 0x80, 16, HVA + (1 << 30), 0)))
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(5)))
    assert machine.fault(5).code == version.ret_retry
    assert machine.fault(0x105).code == version.ret_retry
    expected = version.ret_retry if aliased else version.ret_fixed
    assert machine.fault(0x85).code == expected


@pytest.mark.parametrize(("version", "asked"), [(V6_8, False), (V6_12, True)])
def test_early_test_saves_the_lookup(version: KvmVersion, asked: bool) -> None:
    machine = Machine(version)
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(5)))
    machine.log.clear()
    assert machine.fault(5).code == version.ret_retry
    assert any(type(one).__name__ == "HostFault" for one in machine.log) is not asked


def test_invalidation_outside_all_slots_changes_nothing_but_the_open_ranges() -> None:
    machine = Machine(V6_12)
    machine.run(notifier.invalidate_range_start(machine.vm, 0x7000, 0x9000))
    assert machine.vm.notifiers_active == 1
    machine.run(notifier.invalidate_range_end(machine.vm, 0x7000, 0x9000))
    assert (machine.vm.mmu_invalidate_seq, machine.vm.notifiers_active) == (0, 0)
    assert machine.locks() == []


def test_both_address_spaces_are_invalidated() -> None:
    machine = Machine(V6_12, npages=16)
    machine.run(slot_ops.create(machine.vm, Memslot(0, 0, 16, HVA, 0, as_id=1)))
    smm = Vcpu(1, as_id=1)
    first, machine.vcpu = machine.vcpu, smm
    machine.vm.vcpus.append(smm)
    machine.guest((3, "write"))
    machine.vcpu = first
    machine.fault(3)
    machine.log.clear()
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(3)))
    assert [one.as_id for one in machine.log if isinstance(one, SpteChanged)] == [0, 1]


@pytest.mark.parametrize("may_block", [True, False])
def test_lock_is_given_up_in_a_zap_after_a_flush_unless_the_caller_must_not_wait(may_block: bool) -> None:
    machine = Machine(V6_12)
    for page in range(4):
        machine.fault(page)
    machine.log.clear()
    machine.pause_when_due = 2
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(0, 4), may_block=may_block))
    assert [gfn for gfn, _, _, _ in machine.transitions()] == [0, 1, 2, 3]
    pause = ["F", "x", "X"] if may_block else []
    assert machine.locks() == ["X", *pause, *pause, "F", "x"]


def test_ageing_clears_a_without_losing_the_rest() -> None:
    machine = Machine(V6_12)
    machine.fault(3)
    before = machine.entry(3)[1]
    assert machine.run(notifier.test_young(machine.vm, HVA + 0x3000)) is True
    assert machine.run(notifier.clear_young(machine.vm, *_page(0, 8))) is True
    assert machine.entry(3)[1] == before & ~machine.vm.fmt.accessed
    assert machine.run(notifier.test_young(machine.vm, HVA + 0x3000)) is False
    assert machine.run(notifier.clear_flush_young(machine.vm, *_page(0, 8))) is False
    assert not machine.flushes()


@ALL
def test_ageing_flushes_before_6_13_and_locks_before_6_15(version: KvmVersion) -> None:
    machine = Machine(version)
    machine.fault(3)
    machine.log.clear()
    assert machine.run(notifier.clear_flush_young(machine.vm, *_page(3)))
    minor = int(version.name.split(".")[1])
    assert machine.locks() == {(True, True): ["X", "F", "x"], (False, True): ["X", "x"], (False, False): []}[
        (minor < 13, minor < 15)
    ]


@pytest.mark.parametrize("writable", [False, True])
def test_change_pte_goes_through_empty_and_never_gives_write_access(writable: bool) -> None:
    machine = Machine(V6_7)
    machine.fault(3)
    machine.run(notifier.invalidate_range_start(machine.vm, *_page(7)))
    machine.log.clear()
    machine.run(notifier.change_pte(machine.vm, HVA + 0x3000, 0x777, writable))
    expected = [0] if writable else [0, 0x777845]
    assert [new for _, _, _, new in machine.transitions()] == expected
    assert machine.locks() == ["X", "F", "x"]


def test_change_pte_outside_an_invalidation_does_nothing() -> None:
    machine = Machine(V6_7)
    machine.fault(3)
    machine.log.clear()
    machine.run(notifier.change_pte(machine.vm, HVA + 0x3000, 0x777, False))
    assert machine.transitions() == []


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("start", "end must be above the start 0x5000, not 0x5000"),
        ("end", "range must be one that was begun, not '0x5000..0x6000'"),
        ("change_pte", "kernel must be older than 6.10 for change_pte, not '6.12'"),
    ],
)
def test_notifier_wrong_use_is_one_line(call: str, text: str) -> None:
    machine = Machine(V6_12)
    agents = {
        "start": lambda: notifier.invalidate_range_start(machine.vm, 0x5000, 0x5000),
        "end": lambda: notifier.invalidate_range_end(machine.vm, 0x5000, 0x6000),
        "change_pte": lambda: notifier.change_pte(machine.vm, HVA, 1, False),
    }
    with pytest.raises(KvmError) as caught:
        machine.run(agents[call]())
    assert (str(caught.value), caught.value.errno) == (text, EINVAL)


def test_every_zap_is_flushed_wherever_the_lock_was_given_up() -> None:
    """From any zap to the end of its hold of the lock there is a flush, for every pattern of pauses."""
    for pauses in product((False, True), repeat=8):
        machine = Machine(V6_12)
        for page in range(5):
            machine.fault(page)
        machine.log.clear()
        machine.pauses = list(pauses)
        machine.run(notifier.invalidate_range_start(machine.vm, *_page(0, 5)))
        owed = False
        for effect in machine.log:
            if isinstance(effect, SpteChanged):
                owed = True
            elif isinstance(effect, TlbFlush):
                owed = False
            assert not (owed and type(effect).__name__ == "MmuUnlock"), pauses
        assert len(machine.transitions()) == 5


@pytest.mark.parametrize(("version", "young"), [(V6_13, True), (kernel(6, 14), False)])
def test_ageing_leaves_dying_roots_alone_from_6_14_on(version: KvmVersion, young: bool) -> None:
    machine = Machine(version)
    machine.fault(5)
    assert machine.vcpu.root is not None
    machine.vcpu.root.invalid = True
    assert machine.run(notifier.test_young(machine.vm, HVA + 0x5000)) is young
    assert machine.run(notifier.clear_young(machine.vm, HVA, HVA + 0x8000)) is young


@pytest.mark.parametrize(
    ("version", "clean", "dirty"),
    [(V6_1, CompareExchange, Store), (V6_7, FetchAnd, Store), (kernel(6, 14), FetchAnd, Store),
     (kernel(6, 15), FetchAnd, FetchAnd)],
)  # fmt: skip
def test_a_is_cleared_by_the_access_that_its_release_uses(
    version: KvmVersion, clean: type[KvmEffect], dirty: type[KvmEffect]
) -> None:
    """Where hardware may set D meanwhile atomically, since 6.4 with one fetch-and; without a lock always so."""
    for is_dirty, kind in ((False, clean), (True, dirty)):
        machine = Machine(version)
        machine.fault(5)
        found = machine.run(last_entry(machine.vm, machine.vcpu, 5))
        address, _, value = found
        value |= machine.vm.fmt.dirty
        machine.memory.store(address, value if is_dirty else value & ~machine.vm.fmt.dirty)
        seen = effects_of(machine, notifier.clear_young(machine.vm, HVA + 0x5000, HVA + 0x6000))
        assert [type(one) for one in seen if isinstance(one, CompareExchange | FetchAnd | Store)] == [kind]
        expected = 0x40 if is_dirty else 0
        assert machine.entry(5)[1] & 0x60 == expected
