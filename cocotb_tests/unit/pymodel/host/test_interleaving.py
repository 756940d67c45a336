"""Host operations and guest accesses side by side, in many orders: the data is right whatever comes first."""

from collections.abc import Callable, Generator, Iterator
from itertools import combinations
from typing import Any

import pytest

from cocotb_tests.unit.pymodel.host.interleaving import run_together
from cocotb_tests.unit.pymodel.host.support import HUGE, PAGE, A, balance
from pymodel.host import collapse, fork, gup, ksm, madvise, mapping, migrate, reclaim, split
from pymodel.host.files import MemFile
from pymodel.host.mprotect import mprotect
from pymodel.kvm.version import V6_1, V6_12, KvmVersion
from pymodel.machine import Machine

SEEDS = range(12)
PAGES = 6


def writer(machine: Machine, vcpu: int, rounds: int = 4) -> Generator[Any, Any, None]:
    """A guest that writes to its own word of every page again and again, and reads what it wrote."""
    for number in range(1, rounds + 1):
        for page in range(PAGES):
            gpa = page * PAGE + 8 * vcpu
            yield from machine.guest_store(gpa, number, vcpu)
            seen = yield from machine.guest_load(gpa, vcpu)
            assert seen == number, f"vCPU {vcpu} wrote {number} to gpa {gpa:#x} and reads {seen}"


def repeated(make: Callable[[], Generator[Any, Any, Any]], times: int = 3) -> Iterator[Any]:
    for _ in range(times):
        yield from make()


def host_side(machine: Machine, name: str) -> Generator[Any, Any, Any]:
    """The operation, several times over; none of them changes what anybody may see."""
    mm = machine.process

    def moves() -> Generator[Any, Any, None]:
        for page in range(PAGES):
            yield from migrate.move_page(mm, A + page * PAGE)

    def swaps() -> Generator[Any, Any, None]:
        for page in range(PAGES):
            entry = mm.table.lookup(A + page * PAGE)
            found = mm.folio_at(entry.hva, entry.level) if entry is not None else None
            if found is not None:
                yield from reclaim.reclaim(machine.host, [found], ages=False)

    def merges() -> Generator[Any, Any, None]:
        yield from ksm.scan(machine.host, [(mm, A + page * PAGE) for page in range(PAGES)])

    def splits() -> Generator[Any, Any, None]:
        yield from collapse.collapse(mm, A, HUGE)
        found = mm.folio_at(A, 2)
        if found is not None:
            yield from split.split_folio(machine.host, found)

    def forks() -> Generator[Any, Any, None]:
        child = yield from fork.fork(mm)
        yield from gup.store(child, A + 0x800, 99)
        yield from mapping.exit_process(child)

    def protects() -> Generator[Any, Any, None]:
        yield from madvise.no_huge_page(mm, A, 2 * PAGE)
        yield from mprotect(mm, A + HUGE - PAGE, PAGE, write=False)
        yield from mprotect(mm, A + HUGE - PAGE, PAGE, write=True)

    operations: dict[str, Callable[[], Generator[Any, Any, None]]] = {
        "moves": moves, "swaps": swaps, "merges": merges, "splits": splits, "forks": forks, "protects": protects,
    }  # fmt: skip
    return repeated(operations[name])  # type: ignore[return-value]


@pytest.mark.parametrize("version", [V6_1, V6_12], ids=lambda version: version.name)
@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, kind) for name in ("moves", "swaps", "merges", "splits", "forks", "protects") for kind in ("anon4k", "thp")]
    + [("moves", "memfd"), ("swaps", "memfd")],
)
def test_guest_reads_what_it_wrote_whatever_the_host_does(name: str, kind: str, version: KvmVersion) -> None:
    """Two vCPUs, the process and the host operation, in orders drawn from seeds."""
    for seed in SEEDS:
        machine = Machine(version, vcpus=2)
        machine.on_effect.append(machine.check_reuse)
        file = MemFile()
        machine.run(mapping.mmap(machine.process, A, HUGE, kind, file=file if kind == "memfd" else None))
        if kind != "memfd":
            machine.run(madvise.mergeable(machine.process, A, HUGE))
        machine.add_slot(0, 0, 512, A)
        for page in range(PAGES):
            machine.store(A + page * PAGE + 0x800, 7)

        def process(machine: Machine = machine) -> Generator[Any, Any, None]:
            for number in range(8, 12):
                yield from gup.store(machine.process, A + 0x808, number)
                assert (yield from gup.load(machine.process, A + 0x808)) == number

        run_together(machine, [writer(machine, 0), writer(machine, 1), process(), host_side(machine, name)], seed)
        for page in range(PAGES):
            words = [machine.load(A + page * PAGE + offset) for offset in (0, 8, 0x800)]
            assert words == [4, 4, 7], f"seed {seed}"
        assert machine.load(A + 0x808) == 11
        machine.check()
        balance(machine.host, [file], machine.vm.tables)


@pytest.mark.parametrize("kind", ["anon4k", "thp"])
@pytest.mark.parametrize("names", list(combinations(("moves", "swaps", "merges", "splits", "forks", "protects"), 2)))
def test_operations_of_the_host_do_not_disturb_each_other(names: tuple[str, str], kind: str) -> None:
    """Two of them at once on the pages of two writing vCPUs; the accounts balance at the end."""
    for seed in (*range(3), 16):
        machine = Machine(V6_12 if seed % 2 else V6_1, vcpus=2)
        machine.on_effect.append(machine.check_reuse)
        machine.run(mapping.mmap(machine.process, A, HUGE, kind))
        machine.run(madvise.mergeable(machine.process, A, HUGE))
        machine.add_slot(0, 0, 512, A)
        for page in range(PAGES):
            machine.store(A + page * PAGE + 0x800, 7)
        run_together(
            machine, [writer(machine, 0), writer(machine, 1), *(host_side(machine, name) for name in names)], seed
        )
        for page in range(PAGES):
            words = [machine.load(A + page * PAGE + offset) for offset in (0, 8, 0x800)]
            assert words == [4, 4, 7], f"seed {seed}"
        machine.check()
        balance(machine.host, [], machine.vm.tables)


class Hasty:
    """A host that tells KVM the end of a change before it makes the change."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def invalidate_range_start(self, start: int, end: int, event: Any) -> Generator[Any, Any, None]:
        yield from self._inner.invalidate_range_start(start, end, event)
        yield from self._inner.invalidate_range_end(start, end, event)

    def invalidate_range_end(self, start: int, end: int, event: Any) -> Generator[Any, Any, None]:
        yield from ()


def test_end_before_the_change_is_found_by_some_order() -> None:
    """The broken twin: a fault in between maps the old page again, and nobody takes it away."""
    wrong = 0
    for seed in range(40):
        machine = Machine(vcpus=2)
        machine.run(mapping.mmap(machine.process, A, HUGE, "anon4k"))
        machine.add_slot(0, 0, 512, A)
        for page in range(PAGES):
            machine.store(A + page * PAGE + 0x800, 7)
        hasty: Any = Hasty(machine.process.notifiers[0])
        machine.process.notifiers = [hasty]
        try:
            run_together(machine, [writer(machine, 0), writer(machine, 1), host_side(machine, "moves")], seed)
            machine.check()
        except AssertionError:
            wrong += 1
    assert wrong > 0
