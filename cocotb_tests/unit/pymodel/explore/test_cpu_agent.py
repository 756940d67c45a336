"""The CPU's walk and TLB under the explorer: every way a translation may be old, and the flush that ends it."""

from collections.abc import Generator
from typing import Any

import pytest

from pymodel.effects import Event, Store, WaitFor
from pymodel.explore import CpuAgent, Exploration, GuestAccess, Outcome, Violation, explore
from pymodel.kvm.effects import TlbFlush
from pymodel.kvm.hardware import FETCH, FINAL, READ, WRITE
from pymodel.kvm.spte import LARGE, SpteFormat, ept, npt
from pymodel.memory import SparseMem

Body = Generator[Any, Any, Any]

ROOT, TABLES = 0x1000, (0x1000, 0x2000, 0x3000, 0x4000)
LEVELS, GFN = 4, 3
ENTRY = TABLES[3] + 8 * GFN
OLD, NEW = 0x40000, 0x80000
DONE = 0x9000
NPT = npt(suppress_ve_empty=False)
EPT = ept(suppress_ve_empty=False)
BOTH = pytest.mark.parametrize("fmt", [NPT, EPT], ids=["npt", "ept"])


def leaf(fmt: SpteFormat, frame: int, level: int = 1, *, writable: bool = True, executable: bool = True) -> int:
    return fmt.leaf(frame, level, 0, host_writable=writable, executable=executable)


def words(fmt: SpteFormat, entry: int) -> SparseMem:
    made = {TABLES[index]: fmt.nonleaf(TABLES[index + 1] >> 12) for index in range(3)}
    return SparseMem(made | {ENTRY: entry, OLD << 12: 0x01D, NEW << 12: 0x2E3})


def access(kind: str = READ, value: int = 0, gfn: int = GFN) -> GuestAccess:
    return GuestAccess(ROOT, LEVELS, gfn << 12, kind, value)


def answers(fmt: SpteFormat, memory: SparseMem, *effects: GuestAccess) -> set[tuple[Any, ...]]:
    def vcpu() -> Body:
        seen = []
        for effect in effects:
            seen.append((yield effect))
        return tuple(seen)

    found = explore({"vcpu": vcpu}, memory, (CpuAgent(fmt),), observe={"entry": ENTRY, "page": OLD << 12})
    assert all(outcome.values[0] is not None for outcome in found.outcomes)
    return {(*outcome.values[0], outcome.word("entry"), outcome.word("page")) for outcome in found.outcomes}


@BOTH
def test_accesses_reach_their_page_and_set_a_and_d(fmt: SpteFormat) -> None:
    """A read sets A, a write A and D, in the leaf that is used."""
    clean = leaf(fmt, OLD) & ~(fmt.accessed | fmt.dirty)
    assert answers(fmt, words(fmt, clean), access()) == {(0x01D, clean | fmt.accessed, 0x01D)}
    wanted = clean | fmt.accessed | fmt.dirty
    assert answers(fmt, words(fmt, clean), access(WRITE, 9)) == {(None, wanted, 9)}
    assert answers(fmt, words(fmt, clean), access(), access(WRITE, 9)) == {(0x01D, None, wanted, 9)}


@BOTH
@pytest.mark.parametrize(("kind", "code"), [(READ, 4), (WRITE, 6), (FETCH, 0x14)])
def test_refused_accesses_tell_why(fmt: SpteFormat, kind: str, code: int) -> None:
    """Not present, present without the right, reserved (MMIO): the codes of nested page faults."""
    assert {seen[0] for seen in answers(fmt, words(fmt, 0), access(kind))} == {Violation(FINAL | code)}
    mmio = fmt.mmio(GFN, 2, 7)
    assert {seen[0] for seen in answers(fmt, words(fmt, mmio), access(kind))} == {Violation(FINAL | code | 8)}
    if kind != READ:
        poor = leaf(fmt, OLD, writable=False, executable=False)
        assert {seen[0] for seen in answers(fmt, words(fmt, poor), access(kind))} == {Violation(FINAL | code | 1)}


def test_huge_leaf_reaches_the_page_inside() -> None:
    """Level 2: the offset in the 2 MiB counts."""
    memory = words(NPT, 0)
    memory.store(TABLES[2], leaf(NPT, OLD, 2) | LARGE)
    memory.store((OLD + GFN << 12) + 8, 0x77)
    found = answers(NPT, memory, GuestAccess(ROOT, LEVELS, (GFN << 12) + 8))
    assert {seen[0] for seen in found} == {0x77}


def race(flush: TlbFlush | None, first: str = READ) -> Exploration:
    """The page is replaced, with or without a flush, then the vCPU is told and reads."""

    def kernel() -> Body:
        yield Store(ENTRY, leaf(EPT, NEW))
        if flush is not None:
            yield flush
        yield Store(DONE, 1)

    def vcpu() -> Body:
        yield access(first, 5)
        yield WaitFor(DONE, 1, 1)
        yield Event("late", (("data", (yield access())),))

    memory = words(EPT, leaf(EPT, OLD))
    return explore({"kernel": kernel, "vcpu": vcpu}, memory, (CpuAgent(EPT),), observe={"old": OLD << 12})


def late(outcome: Outcome) -> int:
    data: int = outcome.named("late")[0]["data"]
    return data


def test_missing_flush_leaves_old_translations() -> None:
    """Without a flush, or with one of another range, the old page may be read; with one of the range it is gone."""
    assert {late(outcome) for outcome in race(None).outcomes} == {0x01D, 0x2E3}
    assert {late(outcome) for outcome in race(TlbFlush(GFN + 1, 4)).outcomes} == {0x01D, 0x2E3}
    assert {late(outcome) for outcome in race(TlbFlush(0, GFN)).outcomes} == {0x01D, 0x2E3}
    for flush in (TlbFlush(), TlbFlush(GFN, 1), TlbFlush(0, 512)):
        assert {late(outcome) for outcome in race(flush).outcomes} == {0x2E3}


def test_flush_stops_a_write_that_was_translated_before() -> None:
    """An access on its way begins anew: nothing lands in the old page after the flush."""

    def kernel() -> Body:
        yield Store(ENTRY, leaf(EPT, NEW))
        yield TlbFlush()
        yield Store(OLD << 12, 0xBEEF)

    def vcpu() -> Body:
        yield access(WRITE, 5)

    agents = {"kernel": kernel, "vcpu": vcpu}
    found = explore(agents, words(EPT, leaf(EPT, OLD)), (CpuAgent(EPT),), observe={"old": OLD << 12})
    assert {outcome.word("old") for outcome in found.outcomes} == {0xBEEF}


def test_write_through_a_clean_leaf_walks_to_set_d() -> None:
    """A leaf cached without D does not serve a write; one cached with D does, after D was cleared (facts U11)."""

    def run(first: str) -> set[int]:
        def vcpu() -> Body:
            yield access(first, 5)
            yield Store(ENTRY, leaf(EPT, OLD) & ~EPT.dirty)
            yield access(WRITE, 6)

        clean = leaf(EPT, OLD) & ~EPT.dirty
        found = explore({"vcpu": vcpu}, words(EPT, clean), (CpuAgent(EPT),), observe={"entry": ENTRY})
        return {outcome.word("entry") & EPT.dirty for outcome in found.outcomes}

    assert run(READ) == {EPT.dirty}
    assert run(WRITE) == {0, EPT.dirty}


def test_cached_pointers_outlive_their_table() -> None:
    """A table that was unlinked without a flush may still be walked, and what is in its page then."""

    def kernel(flush: bool) -> Body:
        yield Store(TABLES[2], 0)
        if flush:
            yield TlbFlush()
        yield Store(ENTRY, leaf(EPT, NEW))
        yield Store(DONE, 1)

    def vcpu() -> Body:
        yield access()
        yield WaitFor(DONE, 1, 1)
        answer = yield access()
        yield Event("late", (("data", -1 if isinstance(answer, Violation) else answer),))

    def run(flush: bool) -> set[int]:
        agents = {"kernel": lambda: kernel(flush), "vcpu": vcpu}
        return {late(outcome) for outcome in explore(agents, words(EPT, leaf(EPT, OLD)), (CpuAgent(EPT),)).outcomes}

    assert 0x2E3 in run(False)
    assert run(True) == {-1}


def test_reduction_agrees_with_plain_enumeration() -> None:
    """Two vCPUs and a kernel: outcomes and lengths of schedules."""

    def kernel() -> Body:
        yield Store(ENTRY, leaf(EPT, NEW))
        yield TlbFlush(GFN, 1)
        yield Store(OLD << 12, 0xBEEF)

    def vcpu(kind: str) -> Body:
        return (yield access(kind, 5))

    agents = {"kernel": kernel, "one": lambda: vcpu(READ), "two": lambda: vcpu(WRITE)}
    memory = words(EPT, leaf(EPT, OLD) & ~EPT.dirty)
    observe = {"old": OLD << 12, "new": NEW << 12, "entry": ENTRY}
    plain = explore(agents, memory, (CpuAgent(EPT),), reduce=False, observe=observe)
    reduced = explore(agents, memory, (CpuAgent(EPT),), observe=observe)
    assert {one: len(way) for one, way in plain.outcomes.items()} == {
        one: len(way) for one, way in reduced.outcomes.items()
    }
    assert reduced.transitions < plain.transitions
