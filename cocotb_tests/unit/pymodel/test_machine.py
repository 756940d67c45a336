"""The machine: guest data survives whatever the host does to its pages, and not where a notifier call is left out."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, balance
from pymodel.host import collapse, fork, gup, ksm, madvise, mapping, migrate, punch, reclaim, split
from pymodel.host.files import MemFile
from pymodel.host.guest_memfd import GuestMemfd
from pymodel.host.mprotect import mprotect
from pymodel.kvm.attributes import set_private
from pymodel.kvm.effects import TlbFlush, Trace, Wbinvd
from pymodel.kvm.invariants import InvariantError
from pymodel.kvm.memslots import READONLY
from pymodel.kvm.spte import ept
from pymodel.kvm.version import V6_1, V6_12, V6_13, KvmVersion
from pymodel.machine import GuestError, Machine

VERSIONS = pytest.mark.parametrize("version", [V6_1, V6_12, V6_13], ids=lambda version: version.name)
RANGE = frozenset(("invalidate_range_start", "invalidate_range_end"))


class Deaf:
    """A notifier that does not hear some calls: what a host is like that leaves them out."""

    def __init__(self, inner: Any, unheard: frozenset[str]) -> None:
        self.inner, self._unheard = inner, unheard

    def __getattr__(self, name: str) -> Any:
        return self._silence if name in self._unheard else getattr(self.inner, name)

    def _silence(self, *_: Any) -> Iterator[Any]:
        yield from ()


def machine(kind: str = "anon4k", length: int = HUGE, version: KvmVersion = V6_12, **options: Any) -> Machine:
    """gpa 0 is `A`; I7 is checked at every page that is freed."""
    made = Machine(version, hugetlb={2: 4} if kind == "hugetlb2m" else None, **options)
    file = MemFile() if kind == "memfd" else None
    made.run(mapping.mmap(made.process, A, length, kind, file=file))
    made.add_slot(0, 0, length >> 12, A)
    return made


def settled(made: Machine) -> None:
    """Everything that must hold of a machine at rest."""
    made.check()
    files = {vma.file for mm in made.host.processes.values() for vma in mm.vmas if vma.file is not None}
    balance(made.host, files, made.vm.tables)


def guest(made: Machine, gpa: int) -> int | None:
    """What the guest reads, None where it may not."""
    try:
        return made.read(gpa)
    except GuestError:
        return None


def somebody_else(made: Machine, secret: int = 0x5EC2E7) -> None:
    """Another process gets what is free, and fills it."""
    other = made.host.new_process()
    made.run(mapping.mmap(other, A, 8 * PAGE, "anon4k"))
    for page in range(8):
        made.run(gup.store(other, A + page * PAGE, secret))


# Each operation returns what is seen; the guest has touched its first pages before (gpa 0 holds 1).


def _move(made: Machine) -> Any:
    assert made.run(migrate.move_page(made.process, A)) is migrate.Moved.DONE
    made.store(A, 2)
    return made.read(0)


def _drop(made: Machine) -> Any:
    made.run(madvise.dont_need(made.process, A, HUGE))
    return made.read(0)


def _unmap(made: Machine) -> Any:
    made.run(mapping.munmap(made.process, A, HUGE))
    somebody_else(made)
    return guest(made, 0)


def _protect(made: Machine) -> Any:
    made.run(mprotect(made.process, A, HUGE, write=False))
    with suppress(GuestError):
        made.write(0, 2)
    return made.load(A)


def _fork(made: Machine) -> Any:
    child = made.run(fork.fork(made.process))
    made.write(0, 2)
    return made.run(gup.load(child, A)), made.load(A)


def _copy(made: Machine) -> Any:
    """The process breaks the sharing, and the guest must follow."""
    tested = made.process.notifiers
    made.process.notifiers = [notifier.inner if isinstance(notifier, Deaf) else notifier for notifier in tested]
    made.run(fork.fork(made.process))
    assert made.read(0) == 1
    made.process.notifiers = tested
    made.store(A, 2)
    return made.read(0)


def _merge(made: Machine) -> Any:
    made.write(PAGE, 1)
    made.run(madvise.mergeable(made.process, A, HUGE))
    assert made.run(ksm.scan(made.host, [(made.process, A), (made.process, A + PAGE)])) == 1
    made.write(0, 2)
    return made.read(PAGE), made.load(A + PAGE), made.load(A)


def _swap(made: Machine) -> Any:
    entry = made.process.table.lookup(A)
    assert entry is not None
    folio = made.process.folio_at(entry.hva, entry.level)
    assert folio is not None
    assert made.run(reclaim.reclaim(made.host, [folio], ages=False)) == folio.count
    made.write(0, 2)
    return made.load(A)


def _collapse(made: Machine) -> Any:
    assert made.run(collapse.collapse(made.process, A, HUGE)) == [collapse.Collapsed.DONE]
    made.store(A, 2)
    return made.read(0)


def _split_page(made: Machine) -> Any:
    folio = made.process.folio_at(A, 2)
    assert folio is not None
    assert made.run(split.split_folio(made.host, folio))
    made.check()
    return made.read(0)


def _split_entry(made: Machine) -> Any:
    made.run(split.split_entry(made.process, A))
    made.check()
    return made.read(0)


def _punch(made: Machine) -> Any:
    vma = made.process.vmas.find(A)
    assert vma is not None
    assert vma.file is not None
    made.run(punch.punch_hole(made.host, vma.file, 0, HUGE))
    return made.read(0)


def _remap(made: Machine) -> Any:
    made.run(mapping.mremap(made.process, A, HUGE, A + 8 * HUGE))
    made.run(mapping.mmap(made.process, A, HUGE, "anon4k"))
    return made.read(0), made.load(A + 8 * HUGE)


def _exit(made: Machine) -> Any:
    made.run(mapping.exit_process(made.process))
    somebody_else(made)
    return guest(made, 0)


CASES: dict[str, tuple[str, Callable[[Machine], Any], Any]] = {
    "migrate 4K": ("anon4k", _move, 2),
    "migrate THP": ("thp", _move, 2),
    "migrate hugetlb": ("hugetlb2m", _move, 2),
    "migrate memfd": ("memfd", _move, 2),
    "dontneed 4K": ("anon4k", _drop, 0),
    "dontneed THP": ("thp", _drop, 0),
    "dontneed hugetlb": ("hugetlb2m", _drop, 0),
    "munmap": ("anon4k", _unmap, None),
    "munmap memfd": ("memfd", _unmap, None),
    "mprotect": ("anon4k", _protect, 1),
    "mprotect THP": ("thp", _protect, 1),
    "mprotect hugetlb": ("hugetlb2m", _protect, 1),
    "fork": ("anon4k", _fork, (1, 2)),
    "fork THP": ("thp", _fork, (1, 2)),
    "fork hugetlb": ("hugetlb2m", _fork, (1, 2)),
    "copy-on-write": ("anon4k", _copy, 2),
    "copy-on-write THP": ("thp", _copy, 2),
    "copy-on-write hugetlb": ("hugetlb2m", _copy, 2),
    "KSM": ("anon4k", _merge, (1, 1, 2)),
    "KSM THP": ("thp", _merge, (1, 1, 2)),
    "swap": ("anon4k", _swap, 2),
    "swap THP": ("thp", _swap, 2),
    "swap memfd": ("memfd", _swap, 2),
    "collapse": ("anon4k", _collapse, 2),
    "split page": ("thp", _split_page, 1),
    "split entry": ("thp", _split_entry, 1),
    "punch hole": ("memfd", _punch, 0),
    "mremap": ("anon4k", _remap, (0, 1)),
}


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
    assert _exit(made) is None


def test_exit_without_release_shows_foreign_data() -> None:
    made = machine()
    made.write(0, 1)
    made.process.notifiers = [Deaf(made.process.notifiers[0], frozenset(("release",)))]
    assert _exit(made) == 0x5EC2E7


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


def test_private_pages_come_from_the_guest_memfd_and_a_hole_takes_them() -> None:
    made = Machine()
    made.on_effect.append(made.check_reuse)
    made.run(mapping.mmap(made.process, A, HUGE, "anon4k"))
    file = GuestMemfd(made.host)
    made.add_slot(0, 0, 512, A, private=file)
    made.write(0, 1)
    made.run(set_private(made.vm, 0, 16, True))
    assert made.read(0) == 0
    made.write(0, 7)
    made.check()
    assert made.load(A) == 1
    made.run(madvise.dont_need(made.process, A, HUGE))
    assert made.read(0) == 7
    made.run(file.punch_hole(0, 8))
    assert made.read(0) == 0
    made.run(set_private(made.vm, 0, 16, False))
    made.check()
    assert made.read(0) == 0


def test_unsnooped_dma_reads_what_the_cpu_has_not_written_back() -> None:
    """A fresh page is cleared in the cache: an unsnooped device still sees whose page it was before (facts D6)."""
    made = machine(cached=True)
    for frame in range(0x10_0000, 0x10_4000):
        made.memory.store(frame << 12 | 8, 0x5EC2E7)
    made.write(0, 1)
    assert made.read(8) == 0
    assert (made.dma_read(0, snooped=False), made.dma_read(8, snooped=False)) == (0, 0x5EC2E7)
    assert (made.dma_read(0), made.dma_read(8)) == (1, 0)
    assert (made.dma_read(0, snooped=False), made.dma_read(8, snooped=False)) == (1, 0)


def test_unsnooped_dma_write_is_not_seen_until_caches_are_written_back() -> None:
    made = machine(cached=True)
    made.write(0, 1)
    assert made.dma_read(0) == 1
    assert made.dma_write(0, 5, snooped=False)
    assert made.read(0) == 1

    def wbinvd() -> Iterator[Wbinvd]:
        yield Wbinvd(0)

    made.run(wbinvd())  # type: ignore[arg-type]
    assert made.read(0) == 5
    assert made.dma_write(0, 6)
    assert made.read(0) == 6


def test_dma_goes_where_the_guest_goes() -> None:
    made = machine()
    assert made.dma_read(0) is None
    assert not made.dma_write(0, 1)
    made.write(0, 1)
    made.run(mprotect(made.process, A, HUGE, write=False))
    assert made.read(0) == 1
    assert (made.dma_read(0), made.dma_write(0, 5)) == (1, False)


@pytest.mark.parametrize("case", ["migrate 4K", "fork", "KSM", "swap", "collapse"])
def test_everything_also_works_through_the_cpu_cache(case: str) -> None:
    kind, operate, expected = CASES[case]
    made = machine(kind, cached=True)
    made.write(0, 1)
    assert operate(made) == expected
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
