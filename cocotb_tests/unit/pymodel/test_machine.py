"""The machine: guest data survives whatever the host does to its pages, and not where a notifier call is left out."""

from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A
from cocotb_tests.unit.pymodel.machine_operations import CASES, RANGE, Deaf, exit_host, machine, settled
from pymodel.host import aging, entries, gup, madvise, mapping, migrate, reclaim
from pymodel.kvm.effects import TlbFlush, Trace
from pymodel.kvm.invariants import InvariantError
from pymodel.kvm.memslots import READONLY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_12, V6_13, KvmVersion
from pymodel.machine import GuestError, Machine

VERSIONS = pytest.mark.parametrize("version", [V6_1, V6_12, V6_13], ids=lambda version: version.name)


@VERSIONS
@pytest.mark.parametrize("case", CASES)
def test_guest_data_survives(case: str, version: KvmVersion) -> None:
    """Process and guest agree on every page, before and after, and a page is reused only when nobody reaches it."""
    kind, operate, expected = CASES[case]
    made = machine(kind, version=version)
    made.on_effect.append(made.check_reuse)
    made.write(0, 1)
    made.write(5 * PAGE, 6)
    settled(made)
    assert operate(made) == expected
    settled(made)


@VERSIONS
@pytest.mark.parametrize("case", CASES)
def test_guest_data_does_not_survive_without_the_calls(case: str, version: KvmVersion) -> None:
    """The broken twin of each operation: its start and end are left out, and stale or foreign data is seen.

    A split alone changes no data; what is seen there is that the guest maps more than the process does.
    """
    kind, operate, expected = CASES[case]
    made = machine(kind, version=version)
    made.write(0, 1)
    made.write(5 * PAGE, 6)
    made.process.notifiers = [Deaf(made.process.notifiers[0], RANGE)]
    try:
        seen = operate(made)
    except InvariantError as error:
        seen = str(error)
    assert seen != expected


@VERSIONS
def test_exit_takes_everything_from_the_guest(version: KvmVersion) -> None:
    made = machine(version=version)
    made.write(0, 1)
    assert exit_host(made) is None


def test_exit_without_release_shows_foreign_data() -> None:
    made = machine()
    made.write(0, 1)
    made.process.notifiers = [Deaf(made.process.notifiers[0], frozenset(("release",)))]
    assert exit_host(made) == 0x5EC2E7


class Unflushed(Machine):
    """A machine whose CPUs do not hear of flushes."""

    def handle(self, effect: Any) -> Any:
        return None if isinstance(effect, TlbFlush) else super().handle(effect)


def test_missing_flush_is_caught_where_the_page_is_reused() -> None:
    """I7: the entry is gone, the TLB's translation is not."""
    made = Unflushed()
    made.run(mapping.mmap(made.process, A, HUGE, "anon4k"))
    made.add_slot(0, 0, 512, A)
    made.write(0, 1)
    made.on_effect.append(made.check_reuse)
    with pytest.raises(InvariantError, match="I7: the TLB of vCPU 0 still holds"):
        made.run(madvise.dont_need(made.process, A, HUGE))
    assert made.read(0) == 1


def test_missing_end_lets_no_fault_finish() -> None:
    """The guest asks again for as long as the range is open."""
    made = machine()
    made.process.notifiers = [Deaf(made.process.notifiers[0], frozenset(("invalidate_range_end",)))]
    made.write(0, 1)
    made.run(madvise.dont_need(made.process, A, HUGE))
    retries = 0

    def count(effect: Any) -> None:
        nonlocal retries
        if isinstance(effect, Trace) and effect.name == "page_fault":
            retries += 1
            if retries == 50:
                raise TimeoutError

    made.on_effect.append(count)
    with pytest.raises(TimeoutError):
        made.read(0)


def test_missing_ageing_swaps_out_what_the_guest_uses() -> None:
    """clear_flush_young tells that the guest touched the page; unheard, the page seems idle."""
    for unheard, taken in ((frozenset[str](), 0), (frozenset(("clear_flush_young",)), 1)):
        made = machine(version=V6_1)
        made.process.notifiers = [Deaf(made.process.notifiers[0], unheard)]
        made.write(0, 1)
        made.run(madvise.cold(made.process, A, PAGE))
        folio = made.process.folio_at(A, 1)
        assert folio is not None
        assert made.run(reclaim.reclaim(made.host, [folio])) == taken
        assert made.read(0) == 1


@pytest.mark.parametrize(("kind", "level"), [("anon4k", 1), ("thp", 2), ("hugetlb2m", 2)])
def test_guest_maps_what_the_host_maps(kind: str, level: int) -> None:
    made = machine(kind)
    made.write(3 * PAGE, 1)
    changes: list[Any] = []
    made.on_effect.append(changes.append)
    made.run(madvise.dont_need(made.process, A, HUGE))
    made.write(3 * PAGE, 1)
    assert {effect.level for effect in changes if type(effect).__name__ == "SpteChanged"} == {level}
    settled(made)


@pytest.mark.parametrize(("version", "unheard", "seen"), [
    (V6_13, frozenset[str](), 5), (V6_13, RANGE, 0), (V6_12, frozenset[str](), 5), (V6_12, RANGE, 0)])  # fmt: skip
def test_write_to_the_huge_zero_page_is_seen_by_the_guest(
    version: KvmVersion, unheard: frozenset[str], seen: int
) -> None:
    """The guest has read it; its process then gets a page of its own there, a huge one since 6.13."""
    made = machine("thp", version=version)
    assert made.read(3 * PAGE) == 0
    made.process.notifiers = [Deaf(made.process.notifiers[0], unheard)]
    made.store(A + 3 * PAGE, 5)
    assert made.read(3 * PAGE) == seen


@pytest.mark.parametrize(("unheard", "accessed"), [("", True), ("test_young", False)])
def test_monitoring_sees_accesses_of_the_guest(unheard: str, accessed: bool) -> None:
    """DAMON: clear_young, later test_young, both without the process's own entries knowing."""
    made = machine()
    made.write(0, 1)
    made.write(PAGE, 1)
    made.run(aging.make_old(made.process, A))
    assert not made.run(aging.was_accessed(made.process, A))
    made.run(madvise.dont_need(made.process, A + PAGE, PAGE))  # flushes the TLB, so that the walker sets A again
    made.read(0)
    made.process.table.set(1, A, made.process.table.value(1, A) & ~entries.ACCESSED)
    made.process.notifiers = [Deaf(made.process.notifiers[0], frozenset((unheard,)))]
    assert made.run(aging.was_accessed(made.process, A)) is accessed


def test_monitoring_without_clear_young_never_sees_the_guest_rest() -> None:
    made = machine()
    made.write(0, 1)
    made.process.notifiers = [Deaf(made.process.notifiers[0], frozenset(("clear_young",)))]
    made.run(aging.make_old(made.process, A))
    assert made.run(aging.was_accessed(made.process, A))


def test_pinned_page_stays_while_migration_takes_it_from_the_guest() -> None:
    """Who pins a page keeps it; the guest faults it in again, and sees the same data."""
    made = machine()
    made.write(0, 1)
    pinned = made.run(gup.pin_user_page(made.process, A, write=True))
    zapped: list[Any] = []
    made.on_effect.append(lambda effect: zapped.append(effect) if isinstance(effect, TlbFlush) else None)
    assert made.run(migrate.move_page(made.process, A)) is migrate.Moved.BUSY
    assert zapped
    assert made.process.folio_at(A, 1) is pinned
    assert made.read(0) == 1
    made.run(gup.unpin(made.process, pinned))
    settled(made)


def test_ept_without_accessed_bits_ages_and_comes_back() -> None:
    made = machine(fmt=ept(suppress_ve_empty=True, ad_enabled=False))
    made.write(0, 1)
    folio = made.process.folio_at(A, 1)
    assert folio is not None
    assert made.run(reclaim.reclaim(made.host, [folio])) == 0
    settled(made)
    assert made.read(0) == 1
    made.write(0, 2)
    assert made.load(A) == 2


def test_access_without_memory_or_permission_is_an_error() -> None:
    made = machine()
    made.add_slot(1, 0x1000, 16, A + 64 * PAGE, READONLY)
    with pytest.raises(GuestError, match="write of gpa 0x1000000"):
        made.write(0x1000 << 12, 1)
    assert made.read(0x1000 << 12) == 0
    with pytest.raises(GuestError, match="read of gpa 0x9000000: no memory"):
        made.read(0x9000 << 12)
    made.add_slot(2, 0x2000, 16, A + 64 * HUGE)
    with pytest.raises(GuestError, match="errno 14"):
        made.read(0x2000 << 12)


def test_every_vcpu_sees_one_memory_and_every_tlb_is_flushed() -> None:
    made = machine(vcpus=2)
    made.on_effect.append(made.check_reuse)
    made.write(0, 1, vcpu=0)
    assert made.read(0, vcpu=1) == 1
    made.run(migrate.move_page(made.process, A))
    made.write(0, 2, vcpu=1)
    assert made.read(0, vcpu=0) == 2
    settled(made)


def test_check_sees_each_kind_of_wrong_entry() -> None:
    """The invariants that every test here relies on can fail."""
    made = machine()
    made.write(0, 1)
    value = made.process.table.value(1, A)
    for wrong, message in ((value + 4096, "I1"), (value & ~2, "I5"), (0, "I1")):
        made.process.table.set(1, A, wrong)
        with pytest.raises(InvariantError, match=message):
            made.check()
    made.process.table.set(1, A, value)
    made.check()
    made.host.frames._live.clear()
    with pytest.raises(InvariantError, match="I7"):
        made.check()
