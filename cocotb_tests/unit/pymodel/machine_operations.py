"""Operations of a host on the memory of a guest, and what is seen after each; notifiers that do not hear."""

from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from typing import Any

from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, balance
from pymodel.host import collapse, fork, gup, ksm, madvise, mapping, migrate, punch, reclaim, split
from pymodel.host.files import MemFile
from pymodel.host.mprotect import mprotect
from pymodel.kvm.effects import Wbinvd
from pymodel.kvm.version import V6_12, KvmVersion
from pymodel.machine import GuestError, Machine

__all__ = ["CASES", "RANGE", "Deaf", "exit_host", "machine", "settled", "somebody_else", "wbinvd"]

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


def wbinvd() -> Generator[Any, Any, None]:
    """What KVM does for a guest's WBINVD while a non-coherent device is attached."""
    yield Wbinvd(0)


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
    places = [(made.process, A), (made.process, A + PAGE)]
    # The first scan only splits a huge page that holds both.
    assert sum(made.run(ksm.scan(made.host, places)) for _ in range(2)) == 1
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


def _unmerge(made: Machine) -> Any:
    """The process takes a shared page out of KSM, and the guest must not go on reading the shared one."""
    made.write(PAGE, 1)
    made.run(madvise.mergeable(made.process, A, HUGE))
    tested = made.process.notifiers
    made.process.notifiers = [notifier.inner if isinstance(notifier, Deaf) else notifier for notifier in tested]
    made.run(ksm.scan(made.host, [(made.process, A), (made.process, A + PAGE)]))
    assert (made.read(0), made.read(PAGE)) == (1, 1)
    made.process.notifiers = tested
    made.run(madvise.unmergeable(made.process, A, HUGE))
    made.store(A, 2)
    return made.read(0), made.read(PAGE)


def _remap(made: Machine) -> Any:
    made.run(mapping.mremap(made.process, A, HUGE, A + 8 * HUGE))
    made.run(mapping.mmap(made.process, A, HUGE, "anon4k"))
    return made.read(0), made.load(A + 8 * HUGE)


def exit_host(made: Machine) -> Any:
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
    "unmerge": ("anon4k", _unmerge, (2, 1)),
    "mremap": ("anon4k", _remap, (0, 1)),
}
