"""The architectural IOMMU under the explorer: alone, with caches, with its queue, with each knob."""

import random
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import pytest

from pymodel.effects import ReadRegister, Store, WaitFor, WriteRegister
from pymodel.explore import Dma, Exploration, Fault, IommuAgent, Prefetch, explore
from pymodel.explore.iommu_state import Cached, covers
from pymodel.iommu.entries import Context, PageRules
from pymodel.iommu.queue import IotlbInvalidation
from pymodel.iommu.translate import walk_page
from pymodel.iommu.types import Request
from pymodel.litmus.machine import (
    CHILD,
    DID,
    NAMES,
    PARAMS,
    PD,
    QUEUE,
    ROOT,
    SID,
    STATUS,
    A,
    B,
    G,
    Queue,
    child_entry,
    iommu,
    large_table,
    leaf,
    page_selective,
    pde,
    small_table,
    wait,
)
from pymodel.memory import SparseMem
from pymodel.paging.geometry import PAGE, Range, span
from pymodel.spec.descriptors import Granularity
from pymodel.spec.faults import Reason
from pymodel.spec.params import Architecture, IommuParams

PAGE_RANGE, BLOCK_RANGE = Range(G, G + PAGE), Range(G, G + span(1))


def run(*agents: Any, memory: dict[int, int], unit: IommuAgent | None = None, **options: Any) -> Exploration:
    named = {f"agent{number}": agent for number, agent in enumerate(agents)}
    return explore(named, SparseMem(memory), (unit or iommu(),), **options)


def accesses(*effects: Any):
    def agent() -> Generator[Any, Any, tuple[Any, ...]]:
        answers = []
        for effect in effects:
            answers.append((yield effect))
        return tuple(answers)

    return agent


def answers(found: Exploration, agent: int = 0) -> set[Any]:
    return {outcome.values[agent] for outcome in found.outcomes}


def test_alone_it_answers_as_the_untimed_walk() -> None:
    """One access to random tables: the only outcome is that of `pymodel.iommu.translate`."""
    rng = random.Random(5)
    context = Context(True, DID, ROOT, 3, False, False)
    seen = set()
    for _ in range(400):
        words = {}
        for table in (ROOT, PD, CHILD):
            below = {ROOT: PD, PD: CHILD, CHILD: A}[table]
            for index in (0, 1):
                bits = rng.choice((0, 1, 2, 3, 3, 3, 3)) | rng.choice((0, 0, 0, 0x80, 1 << 51))
                words[table + 8 * index] = rng.choice((below, A)) | bits
        iova = rng.randrange(2) * span(2) + rng.randrange(2) * span(1) + rng.randrange(2) * PAGE
        iova |= rng.choice((0, 0, 0, 1 << 39))
        write = rng.random() < 0.5
        expected = walk_page(PageRules(PARAMS), SparseMem(words), context, Request(SID, None, iova, write))
        found = run(accesses(Dma(SID, iova, write, 0x77)), memory=words)
        ((answer,),) = answers(found)
        if expected.reason:
            assert answer == Fault(expected.reason)
        else:
            ((_, schedule),) = found.outcomes.items()
            assert f" {NAMES.word(expected.address & ~7)} " in schedule[-1].label
        seen.add(expected.reason)
    assert len(seen) >= 6


def test_cached_and_walked_answers_are_both_reached() -> None:
    """Without invalidation, a second read uses the old leaf from the cache or the new one from memory."""

    def software() -> Generator[Any, Any, None]:
        yield Store(child_entry(0), leaf(B))

    device = accesses(Dma(SID, G), Dma(SID, G))
    found = run(device, software, memory=small_table((0,)) | {A: 1, B: 2})
    assert answers(found) == {(1, 1), (1, 2), (2, 2)}  # (2, 1) would need an old entry that nobody ever read


def test_prefetch_keeps_an_old_entry_for_a_later_access() -> None:
    """A3: a speculative fill before the store lets an access after it use the old page."""

    def software() -> Generator[Any, Any, None]:
        yield Store(child_entry(0), leaf(B))
        yield Store(0x9000, 1)

    def device() -> Generator[Any, Any, Any]:
        yield WaitFor(0x9000, 1, 1)
        return (yield Dma(SID, G))

    memory = small_table((0,)) | {A: 1, B: 2}
    assert answers(run(device, software, memory=memory)) == {2}
    assert answers(run(device, software, accesses(Prefetch(SID, G)), memory=memory)) == {1, 2}


def after_invalidation(range_: Range, ih: bool, entry: int, word: int, params: IommuParams = PARAMS) -> set[Any]:
    """Answers of an access after software stored `word` to `entry` and invalidated; the caches were warm."""

    def software() -> Generator[Any, Any, Any]:
        yield Dma(SID, G)
        yield Store(entry, word)
        yield from Queue().invalidate(range_, ih=ih)
        return (yield Dma(SID, G))

    memory = small_table((0,)) | {A: 1, B: 2}
    return answers(run(software, memory=memory, unit=iommu(params)))


def test_invalidation_takes_what_it_covers() -> None:
    """IH=1 takes leaves, IH=0 also pointers; another page takes neither."""
    np = Fault(Reason.SM_ENTRY_NOT_PRESENT)
    assert after_invalidation(PAGE_RANGE, True, child_entry(0), leaf(B)) == {2}
    assert after_invalidation(Range(G + PAGE, G + 2 * PAGE), True, child_entry(0), leaf(B)) == {1, 2}
    assert after_invalidation(BLOCK_RANGE, True, pde(), 0) == {1, np}
    assert after_invalidation(BLOCK_RANGE, False, pde(), 0) == {np}
    assert after_invalidation(PAGE_RANGE, False, pde(), 0) == {np}
    amd = replace(PARAMS, inval_scope=Architecture.AMD, psc_scope=Architecture.AMD)
    assert after_invalidation(PAGE_RANGE, False, pde(), 0, amd) == {1, np}
    assert after_invalidation(BLOCK_RANGE, False, pde(), 0, amd) == {np}


@pytest.mark.parametrize(
    ("kind", "level", "inv", "vtd", "amd"),
    [
        ("leaf", 0, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 0, True), True, True),
        ("leaf", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G + PAGE, 0, True), True, False),
        ("leaf", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 9, True), True, True),
        ("leaf", 0, IotlbInvalidation(Granularity.SELECTIVE, DID, G + PAGE, 0, True), False, False),
        ("table", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 9, True), False, False),
        ("table", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 0, False), True, False),
        ("table", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 9, False), True, True),
        ("table", 2, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 9, False), True, False),
        ("absent", 0, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 0, True), True, True),
        ("absent", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 9, True), False, False),
        ("absent", 1, IotlbInvalidation(Granularity.SELECTIVE, DID, G, 9, False), True, True),
        ("leaf", 0, IotlbInvalidation(Granularity.SELECTIVE, DID + 1, G, 0, True), False, False),
        ("table", 2, IotlbInvalidation(Granularity.DOMAIN, DID), True, True),
        ("table", 2, IotlbInvalidation(Granularity.DOMAIN, DID + 1), False, False),
        ("leaf", 2, IotlbInvalidation(Granularity.GLOBAL), True, True),
    ],
)
def test_coverage_rules(kind: str, level: int, inv: IotlbInvalidation, vtd: bool, amd: bool) -> None:
    """K1 and K2, case by case, for entries around G."""
    entry = Cached(kind, DID, level, G & -span(level), A, True, True)
    assert covers(PARAMS, inv, entry) is vtd
    assert covers(replace(PARAMS, inval_scope=Architecture.AMD, psc_scope=Architecture.AMD), inv, entry) is amd


def test_large_leaf_survives_a_small_invalidation_on_amd_only() -> None:
    """K1 end to end: 2 MiB leaf cached, one 4 KiB page of it invalidated."""

    def software() -> Generator[Any, Any, Any]:
        yield Dma(SID, G)
        yield Store(pde(), leaf(B, 1))
        yield from Queue().invalidate(PAGE_RANGE, ih=True)
        return (yield Dma(SID, G))

    memory = large_table() | {A: 1, B: 2}
    assert answers(run(software, memory=memory)) == {2}
    amd = replace(PARAMS, inval_scope=Architecture.AMD)
    assert answers(run(software, memory=memory, unit=iommu(amd))) == {1, 2}


def test_negative_caching_and_rewalk_knobs() -> None:
    """K3: a miss is remembered only with caching mode. K6: rights are looked up again before a fault."""

    def late_map(write: bool, first: int, second: int):
        def software() -> Generator[Any, Any, Any]:
            yield Dma(SID, G, write)
            yield Store(child_entry(0), first)
            yield Dma(SID, G)
            yield Store(child_entry(0), second)
            return (yield Dma(SID, G, write, 5))

        return software

    words = small_table(())
    missing, denied = Fault(Reason.SM_ENTRY_NOT_PRESENT), Fault(Reason.SM_WRITE_DENIED)
    mapping = late_map(False, 0, leaf(A))
    assert answers(run(mapping, memory=words | {A: 1})) == {1}
    assert answers(run(mapping, memory=words | {A: 1}, unit=iommu(replace(PARAMS, np_cache=True)))) == {1, missing}
    raising = late_map(True, leaf(A, w=False), leaf(A))
    assert answers(run(raising, memory=words)) == {None, denied}
    assert answers(run(raising, memory=words, unit=iommu(replace(PARAMS, rewalk_on_perm=True)))) == {None}


def test_queue_refuses_and_registers_answer() -> None:
    """A malformed descriptor stops the queue; IQH follows what completed; other registers do not exist."""

    def sound() -> Generator[Any, Any, Any]:
        yield from Queue().invalidate(PAGE_RANGE, ih=True)
        return ((yield ReadRegister(0x80, 8)), (yield ReadRegister(0x88, 8)), (yield ReadRegister(0x1C)))

    assert answers(run(sound, memory={})) == {(0x20, 0x20, 1 << 31 | 1 << 26)}

    def malformed() -> Generator[Any, Any, None]:
        yield from Queue().submit(0xF, wait(STATUS))
        yield WaitFor(STATUS, 1, 1)

    found = run(malformed, memory={})
    ((outcome, schedule),) = found.outcomes.items()
    assert outcome.stuck == ("agent0",)
    assert schedule[-1].label == "queue error: bad_type"
    for effect in (ReadRegister(0x34), WriteRegister(0x18, 0)):
        with pytest.raises(ValueError, match="under the explorer"):
            run(accesses(effect), memory={})
    with pytest.raises(ValueError, match="flaws must be among fence_ignored, no_drain, wait_overtakes, not x"):
        IommuAgent(PARAMS, {}, QUEUE, flaws=("x",))


@pytest.mark.parametrize(("drain_always", "flags", "late"), [(True, 0, False), (False, 0, True), (False, 0xC0, False)])
def test_drain_obeys_flags_without_k8(drain_always: bool, flags: int, late: bool) -> None:
    """K8: with it every wait drains; without it DR and DW (bits 7 and 6) decide."""

    def software() -> Generator[Any, Any, None]:
        yield Store(child_entry(0), leaf(B))
        descriptor = page_selective(PAGE_RANGE, ih=True) & ~0xC0 | flags
        yield from Queue().submit(descriptor, wait(STATUS))
        yield WaitFor(STATUS, 1, 1)
        yield Store(A, 9)

    unit = iommu(replace(PARAMS, drain_always=drain_always))
    found = run(accesses(Dma(SID, G, True, 5)), software, memory=small_table((0,)), unit=unit, observe={"a": A})
    assert any(outcome.word("a") == 5 for outcome in found.outcomes) is late
